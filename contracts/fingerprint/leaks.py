"""Whose copy a leaked sample is of, by the marks of a product's agreements. Read-only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sqlmodel import select

from contracts.copies.keys import copy_key
from contracts.fingerprint.marks import (
    BITS_MAX,
    FALSE_ALARM,
    Marks,
    Scheme,
    Verdict,
    judge,
    read,
    scheme_of,
)
from contracts.models import Agreement
from contracts.policy import parse_policy
from listings import offers
from listings.policy_schemas import FingerprintClause
from market.kernel.context import Kernel

BATCH_ROWS = 20_000
CSV_BLOCK_BYTES = 4 << 20


class SampleUnreadable(ValueError):
    """A sample that is no CSV or Parquet with the key columns, or a product without marks."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The agreement that a sample is of, or the likeliest one when ``named`` is false.

    ``chance``: that so many marks agree by accident for any of the ``candidates``, at most.
    """

    named: bool
    agreement_id: UUID
    buyer_id: UUID
    agreeing: int
    bits: int
    chance: float
    candidates: int


async def trace_leak(kernel: Kernel, product_id: UUID, sample: Path) -> Suspicion | None:
    """None when the sample has no row that is marked.

    Memory is bounded by a batch of rows, work by BITS_MAX marks for each candidate. Raises
    SampleUnreadable, CopyKeyMissing (503).
    """
    buyers, groups = await _candidates(kernel, product_id)
    if not groups:
        raise SampleUnreadable("no agreement on this product carries marks")
    key = copy_key(kernel)
    best: Verdict | None = None
    for clause, (schema, agreements) in groups.items():
        scheme = scheme_of(FingerprintClause.model_validate_json(clause))
        verdicts = judge(_marks(sample, schema, scheme, key), key, agreements)[1]
        if verdicts and verdicts[0].bits and (best is None or verdicts[0].chance < best.chance):
            best = verdicts[0]
    if best is None:
        return None
    chance = min(1.0, best.chance * len(buyers))
    return Suspicion(
        named=chance <= FALSE_ALARM,
        agreement_id=best.agreement,
        buyer_id=buyers[best.agreement],
        agreeing=best.agreeing,
        bits=best.bits,
        chance=chance,
        candidates=len(buyers),
    )


_Groups = dict[str, tuple[pa.Schema, list[UUID]]]


async def _candidates(kernel: Kernel, product_id: UUID) -> tuple[dict[UUID, UUID], _Groups]:
    """Buyers by agreement; agreements by what they mark, with the columns' types."""
    async with kernel.unit_of_work() as uow:
        query = select(Agreement).where(Agreement.product_id == product_id)
        found = list(await uow.session.exec(query))
        blobs = {
            id_: (await offers.get_version(uow, id_)).blob_key
            for id_ in {agreement.version_id for agreement in found}
        }
    buyers: dict[UUID, UUID] = {}
    groups: _Groups = {}
    for agreement in found:
        clause = parse_policy(agreement.terms["policy"]).fingerprint
        if clause is None:
            continue
        name = json.dumps(clause.model_dump(mode="json"), sort_keys=True)
        if name not in groups:
            path = await kernel.blobs.local_path(blobs[agreement.version_id])
            groups[name] = (pq.read_schema(path), [])
        groups[name][1].append(agreement.id)
        buyers[agreement.id] = agreement.buyer_id
    return buyers, groups


def _marks(sample: Path, schema: pa.Schema, scheme: Scheme, key: bytes) -> Marks:
    wanted = [*scheme.keys, *(column.name for column in scheme.columns)]
    marks: Marks = {}
    try:
        for table in _tables(sample, schema, wanted):
            missing = [name for name in scheme.keys if name not in table.column_names]
            if missing:
                raise SampleUnreadable(f"the sample lacks the key column {missing[0]!r}")
            marks |= read(table, scheme, key)
            if len(marks) >= BITS_MAX:
                break
    except pa.ArrowException as error:
        raise SampleUnreadable(str(error)) from error
    return marks


def _tables(sample: Path, schema: pa.Schema, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """The sample's wanted columns in the types of the original, batch by batch."""
    with sample.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        with pq.ParquetFile(sample) as parquet:
            names = [name for name in wanted if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=names):
                table = pa.Table.from_batches([batch]).select(names)
                yield table.cast(pa.schema([schema.field(name) for name in names]))
        return
    blocks = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    with pyarrow.csv.open_csv(sample, read_options=blocks) as header:
        names = [name for name in wanted if name in header.schema.names]
    options = pyarrow.csv.ConvertOptions(
        include_columns=names, column_types={name: schema.field(name).type for name in names}
    )
    with pyarrow.csv.open_csv(sample, read_options=blocks, convert_options=options) as rows:
        for batch in rows:
            yield pa.Table.from_batches([batch])
