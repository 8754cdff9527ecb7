"""Answering a query: which version, which rows, is there quota for them, and their file.

A query charges nothing; its file is charged as it is sent (:mod:`contracts.sharing.files`).
A refusal for want of units comes here, before any file is made.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pyarrow.parquet
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from contracts.delivery import sql
from contracts.delivery.charges import DIVISIBLE, whole_units
from contracts.delivery.engine import Engine, engine_of
from contracts.delivery.once import REPLAY_FREE, checked_key
from contracts.errors import (
    DeliveryIdExpired,
    DeliveryIdReused,
    PageTooLarge,
    QueryTimeout,
    UnitRefused,
)
from contracts.metering import Hold, meter_of
from contracts.models import Unit
from contracts.sharing.catalog import Table
from contracts.sharing.errors import SharingRequestInvalid, VersionNotShared
from contracts.sharing.links import LINK_TTL_S
from contracts.sharing.models import ShareQuery
from contracts.sharing.predicates import condition_of
from listings.row_filter import ALWAYS, Condition, Parameter, both
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import canonical_json, sha256_hex
from pricing.units import WAYS_OUT

# A client waits for its files once, and 500 MB of Parquet are rewritten in some seconds.
MATERIALIZE_MAX_S = 120
BLOB_PREFIX = "sharing"
MAGIC_BYTES = len(b"PAR1")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as the client made it; ``delivery_id`` None lets the server choose one."""

    version: int | None = None
    timestamp: str | None = None
    limit: int | None = None
    json_hint: str | None = None
    sql_hints: Sequence[str] = ()
    delivery_id: str | None = None


def require_version(table: Table, version: int | None, timestamp: str | None) -> None:
    """Raises VersionNotShared (400) unless both, where given, mean the version of the grant."""
    if version is not None and timestamp is not None:
        raise SharingRequestInvalid("Give a version or a timestamp.", param="timestamp")
    if version is not None and version != table.version:
        raise VersionNotShared(f"Shared is version {table.version}.", param="version")
    if timestamp is not None and moment(timestamp) < table.version_at.replace(microsecond=0):
        raise VersionNotShared(
            f"The version is of {table.version_at.isoformat()}.", param="timestamp"
        )


def moment(text: str) -> datetime:
    """An ISO 8601 time with its offset. Raises SharingRequestInvalid (400)."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise SharingRequestInvalid("The time is not ISO 8601.", param="timestamp") from error
    if found.tzinfo is None:
        raise SharingRequestInvalid("The time has no offset (…Z).", param="timestamp")
    return found


async def answer(kernel: Kernel, table: Table, asked: Asked) -> ShareQuery:
    """The query's record, its file ready. The same Delivery-Id gives the same record again.

    Raises VersionNotShared (400), QuotaExhausted (402, extra ``remaining``), PageTooLarge (413),
    DeliveryIdReused (422), DeliveryIdExpired, UnitRefused (409), and as the meter does.
    """
    key = checked_key(asked.delivery_id)
    if "sharing" not in WAYS_OUT[table.unit.value]:
        raise UnitRefused("The grant counts time; a shared file is read without a query.")
    require_version(table, asked.version, asked.timestamp)
    condition, text = condition_of(asked.json_hint, asked.sql_hints, table.columns)
    limit = table.rows if asked.limit is None else min(asked.limit, table.rows)
    what: dict[str, object] = {
        "version": show("ver", table.version_id),
        "filter": text,
        "limit": limit,
    }
    if table.narrow:
        condition = both(table.only, condition)
        # Files are kept by this digest: what a token may not read is in none that it gets.
        what["fields"] = [field.name for field in table.fields]
        what["only"] = [table.only.sql, [str(each) for each in table.only.parameters]]
    if table.copied:
        what["copy"] = table.blob_key
    digest = sha256_hex(canonical_json(what))
    known = await _known(kernel, table.claims.grant_id, key, digest)
    if known is not None:
        return known
    engine = engine_of(kernel.settings.delivery_memory_mb, MATERIALIZE_MAX_S)
    rows = await _count(kernel, engine, table, condition, limit)
    units = min(rows, whole_units(table.unit, rows=rows, size=1))
    await _require_units(kernel, table, key, units)
    blob_key, size = None, 0
    if rows:
        blob_key, size = await _file(kernel, engine, table, condition, rows, digest)
    if table.unit is Unit.BYTE:
        # Known only now; what is left may be too little for it.
        units = size
        await _require_units(kernel, table, key, units)
    found = ShareQuery(
        id=new_id(),
        grant_id=table.claims.grant_id,
        agreement_id=table.agreement_id,
        version_id=table.version_id,
        buyer_id=table.buyer_id,
        token_id=table.claims.token_id,
        delivery_key=key,
        query_sha256=digest,
        blob_key=blob_key,
        byte_count=size,
        row_count=rows,
        in_parts=table.unit in DIVISIBLE,
        units=units,
        seller_safe=table.seller_safe,
        fields=[field.name for field in table.fields],
        # The signature that opens every Parquet file: some readers never fetch it.
        covered=[[0, MAGIC_BYTES]] if size else [],
        covered_bytes=MAGIC_BYTES if size else 0,
        created_at=kernel.clock.now(),
        expires_at=kernel.clock.now() + timedelta(seconds=LINK_TTL_S),
    )
    return await _keep(kernel, found, digest)


async def _known(kernel: Kernel, grant_id: UUID, key: str, digest: str) -> ShareQuery | None:
    query = select(ShareQuery).where(
        ShareQuery.grant_id == grant_id, ShareQuery.delivery_key == key
    )
    async with kernel.unit_of_work() as uow:
        found = (await uow.session.exec(query)).one_or_none()
    if found is None:
        return None
    if found.query_sha256 != digest:
        raise DeliveryIdReused(param="Delivery-Id")
    if kernel.clock.now() - found.created_at > REPLAY_FREE:
        raise DeliveryIdExpired(param="Delivery-Id")
    return found


async def _keep(kernel: Kernel, made: ShareQuery, digest: str) -> ShareQuery:
    values = made.model_dump()
    async with kernel.unit_of_work() as uow:
        await uow.execute(
            insert(ShareQuery).values(values).on_conflict_do_nothing(constraint="share_query_once"),
        )
    # Another request with the same Delivery-Id may have been first.
    kept = await _known(kernel, made.grant_id, made.delivery_key, digest)
    assert kept is not None
    return kept


async def _require_units(kernel: Kernel, table: Table, key: str, units: int) -> None:
    """Reserve and give back: what is not there is refused now, what is not fetched never held."""
    meter = meter_of(kernel)
    if units == 0:
        return
    outcome = await meter.reserve(
        table.claims.grant_id,
        table.claims.token_id,
        key=f"{key}.query",
        units=units,
        quota_id=table.quota_id,
    )
    if isinstance(outcome, Hold):
        await meter.release(outcome)


async def _count(
    kernel: Kernel, engine: Engine, table: Table, condition: Condition, limit: int
) -> int:
    if condition is ALWAYS:
        return limit
    path = await kernel.blobs.local_path(table.blob_key)
    return min(limit, await engine.count(sql.count_query(str(path), condition)))


async def _file(
    kernel: Kernel,
    engine: Engine,
    table: Table,
    condition: Condition,
    rows: int,
    digest: str,
) -> tuple[str, int]:
    """Key and size in bytes of a stored Parquet file with exactly the rows and columns due.

    A version of which everything is due, and whose types Delta has, is that file already: it was
    written by us, not by its seller.
    """
    as_stored = not table.narrow and all(field.cast is None for field in table.fields)
    if as_stored and condition is ALWAYS and rows == table.rows:
        return table.blob_key, table.byte_count
    key = f"{BLOB_PREFIX}/{table.version_id.hex}/{digest}.parquet"
    source = await kernel.blobs.local_path(table.blob_key)
    columns = ", ".join(field.sql for field in table.fields)
    parameters: tuple[Parameter, ...] = (str(source), *condition.parameters, rows)
    # Rows keep the order of the file (DuckDB's preserve_insertion_order), so LIMIT is exact.
    query = sql.Query(
        f"SELECT {columns} FROM read_parquet(?) t WHERE {condition.sql} LIMIT ?",  # noqa: S608
        parameters,
    )
    with tempfile.TemporaryDirectory(prefix="sharing-", dir=kernel.settings.home) as folder:
        target = Path(folder) / "file.parquet"
        try:
            await engine.write_parquet(query, target)
        except QueryTimeout as error:
            # Not a 503: the official client would ask ten times more.
            raise PageTooLarge(f"It takes more than {MATERIALIZE_MAX_S} s.") from error
        written = await asyncio.to_thread(pyarrow.parquet.read_metadata, target)
        assert written.num_rows == rows
        await kernel.blobs.put_file(key, target)
        return key, target.stat().st_size


async def forget_expired(kernel: Kernel, *, limit: int) -> list[str]:
    """Delete records whose free repetition is over; give the files that nothing refers to."""
    oldest = kernel.clock.now() - REPLAY_FREE - timedelta(seconds=LINK_TTL_S)
    async with kernel.unit_of_work() as uow:
        found = list(
            await uow.session.exec(
                select(ShareQuery)
                .where(col(ShareQuery.expires_at) < oldest)
                .order_by(col(ShareQuery.expires_at))
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
        )
        keys = {row.blob_key for row in found if row.blob_key is not None}
        for row in found:
            await uow.session.delete(row)
        await uow.session.flush()
        used = set(
            await uow.session.exec(
                select(ShareQuery.blob_key).where(col(ShareQuery.blob_key).in_(keys)).distinct()
            )
        )
    return sorted(key for key in keys - used if key.startswith(f"{BLOB_PREFIX}/"))
