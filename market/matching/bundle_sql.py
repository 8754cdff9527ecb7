"""Raw statements about bundles."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from market.kernel.bulk import BulkTable

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

_TAKEN_NAMES = """
SELECT b.party_id, b.client_order_id
FROM unnest($1::uuid[], $2::text[]) AS k(party_id, client_order_id)
JOIN matching.bundle b USING (party_id, client_order_id)
"""
# The legs in their order: they took their input numbers in it.
_READ = """
SELECT b.id, b.party_id, b.currency, b.cost_minor, b.cost_max_minor, b.self_trade_mode,
       b.client_order_id, b.created_at, o.order_ids
FROM matching.bundle b
CROSS JOIN LATERAL (
    SELECT array_agg(leg.id ORDER BY leg.seq) AS order_ids
    FROM matching."order" leg WHERE leg.bundle_id = b.id) o
WHERE b.id = ANY($1::uuid[])
"""


class BundleRow(NamedTuple):
    """A bundle, in the column order of the insert. Costs are minor units."""

    id: UUID
    seq: int
    party_id: UUID
    currency: str
    cost_minor: int
    cost_max_minor: int | None
    self_trade_mode: str
    client_order_id: str | None
    created_at: datetime


_BUNDLES = BulkTable(
    "matching.bundle",
    BundleRow._fields,
    "uuid bigint uuid text bigint bigint text text timestamptz",
)


async def insert(connection: Connection, rows: Sequence[BundleRow]) -> None:
    """Write bundles; their legs are orders of the same batch."""
    await _BUNDLES.insert(connection, rows)


async def taken_names(
    connection: Connection, names: Sequence[tuple[UUID, str]]
) -> set[tuple[UUID, str]]:
    """Those (party, client_order_id) that a bundle carries already."""
    rows = await connection.fetch(
        _TAKEN_NAMES, [party for party, _ in names], [name for _, name in names]
    )
    return {(row[0], row[1]) for row in rows}


async def read(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Record]:
    """Bundles by id, each with the ids of its legs."""
    return {row["id"]: row for row in await connection.fetch(_READ, list(ids))}
