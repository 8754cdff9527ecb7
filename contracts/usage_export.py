"""Usage records as CSV, NDJSON or Parquet, written piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import grants
from contracts.errors import UsageTooMuch
from contracts.usage import SELECTED, Selection, selected
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Actor
from settlement.printing import safe_cell
from settlement.statement_formats import Sink, csv_rows

if TYPE_CHECKING:
    from asyncpg import Record

RECORDS_MAX = 1_000_000
RECORDS_PER_READ = 2_000

# Wire name: where it is in the database, and what it is in Parquet.
_COLUMNS: dict[str, tuple[str, pa.DataType]] = {
    "id": ("id", pa.string()),
    "agreement_id": ("agreement_id", pa.string()),
    "grant_id": ("grant_id", pa.string()),
    "token_id": ("token_id", pa.string()),
    "receipt_id": ("receipt_id", pa.string()),
    "delivery_id": ("delivery_key", pa.string()),
    "format": ("format", pa.string()),
    "unit": ("g.unit", pa.string()),
    "units": ("units", pa.int64()),
    "rows": ("row_count", pa.int64()),
    "bytes": ("byte_count", pa.int64()),
    "body_sha256": ("body_sha256", pa.string()),
    "complete": ("complete", pa.bool_()),
    "assumed": ("assumed", pa.bool_()),
    "fields": ("fields", pa.list_(pa.string())),
    "delivered_at": ("delivered_at", pa.timestamp("us", tz="UTC")),
}
_PREFIXES = {
    "id": "use",
    "agreement_id": "agr",
    "grant_id": "grt",
    "token_id": "tok",
    "receipt_id": "rcp",
}
_SCHEMA = pa.schema([pa.field(name, type_) for name, (_, type_) in _COLUMNS.items()])
_COUNT = f"SELECT count(*) FROM (SELECT {SELECTED} LIMIT $6) d"  # noqa: S608 - constants
_PIECE = f"""
SELECT {", ".join(c if "." in c else f"d.{c}" for c, _ in _COLUMNS.values())} {SELECTED}
AND (d.delivered_at, d.id) > ($6, $7) ORDER BY d.delivered_at, d.id LIMIT $8
"""

_Row = dict[str, Any]
_Pieces = AsyncIterator[list[_Row]]


class UsageFormat(StrEnum):
    """Offered formats, by their names in ``?format=``."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


MEDIA_TYPES = {
    UsageFormat.CSV: "text/csv",
    UsageFormat.NDJSON: "application/x-ndjson",
    UsageFormat.PARQUET: "application/vnd.apache.parquet",
}


async def export(
    kernel: Kernel, actor: Actor, wanted: Selection, format_: UsageFormat
) -> AsyncIterator[bytes]:
    """The body of an export, oldest record first, of what the actor may see.

    Raises as :func:`contracts.usage.selected`, and UsageTooMuch (422) beyond a million records.
    """
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        parameters = await selected(uow, actor, wanted)
        connection = await uow.raw()
        found = await connection.fetchval(_COUNT, *parameters, RECORDS_MAX + 1)
    if found > RECORDS_MAX:
        raise UsageTooMuch(f"More than {RECORDS_MAX} usage records.", param="from")
    return _WRITERS[format_](_read(kernel, parameters))


async def _read(kernel: Kernel, parameters: Sequence[Any]) -> _Pieces:
    """Each piece has a unit of work of its own: a slow reader keeps no connection.

    A record that becomes durable meanwhile may be missing; none appears twice.
    """
    after: tuple[datetime, UUID] = (parameters[0], UUID(int=0))
    while True:
        async with kernel.unit_of_work() as uow:
            connection = await uow.raw()
            rows = await connection.fetch(_PIECE, *parameters, *after, RECORDS_PER_READ)
        if not rows:
            return
        yield [_wire(row) for row in rows]
        after = (rows[-1]["delivered_at"], rows[-1]["id"])


def _wire(row: Record) -> _Row:
    values = {name: row[column.rpartition(".")[2]] for name, (column, _) in _COLUMNS.items()}
    for name, prefix in _PREFIXES.items():
        values[name] = show(prefix, values[name])
    return values


async def _csv(pieces: _Pieces) -> AsyncIterator[bytes]:
    """Fields as a JSON array; text that a spreadsheet would run gets an apostrophe."""
    yield csv_rows([tuple(_COLUMNS)])
    async for rows in pieces:
        yield csv_rows([tuple(safe_cell(_cell(value)) for value in row.values()) for row in rows])


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return orjson.dumps(value).decode()
    return value.isoformat() if isinstance(value, datetime) else value


async def _ndjson(pieces: _Pieces) -> AsyncIterator[bytes]:
    async for rows in pieces:
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


async def _parquet(pieces: _Pieces) -> AsyncIterator[bytes]:
    """One row group per piece."""
    sink = Sink()
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), _SCHEMA, compression="zstd")
    async for rows in pieces:
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        await asyncio.to_thread(writer.write_table, table)
        yield sink.take()
    await asyncio.to_thread(writer.close)
    yield sink.take()


_WRITERS: dict[UsageFormat, Callable[[_Pieces], AsyncIterator[bytes]]] = {
    UsageFormat.CSV: _csv,
    UsageFormat.NDJSON: _ndjson,
    UsageFormat.PARQUET: _parquet,
}
