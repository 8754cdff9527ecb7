"""Raw statements about call auctions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from market.matching.call_models import CallStatus
from market.matching.controls import Call

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

_OPEN = """
SELECT id, plan_id, status, reopening, opens_at, closes_at FROM matching.call_auction
WHERE status IN ('scheduled', 'collecting') ORDER BY id
"""
_WRITE = """
INSERT INTO matching.call_auction
    (id, plan_id, status, reopening, opens_at, closes_at, price_minor, volume_lots, surplus_lots,
     created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
ON CONFLICT (id) DO UPDATE
SET status = excluded.status, closes_at = excluded.closes_at,
    price_minor = excluded.price_minor, volume_lots = excluded.volume_lots,
    surplus_lots = excluded.surplus_lots, updated_at = excluded.updated_at
"""


class CallRow(NamedTuple):
    """A call auction as it is to be stored: prices in minor units per lot."""

    id: UUID
    plan_id: UUID
    status: CallStatus
    reopening: bool
    opens_at: datetime
    closes_at: datetime
    price_minor: int | None = None
    volume_lots: int | None = None
    surplus_lots: int | None = None


async def read_open(connection: Connection) -> dict[UUID, Call]:
    """Every call that is scheduled or collects, by plan."""
    return {row["plan_id"]: _call(row) for row in await connection.fetch(_OPEN)}


def _call(row: Record) -> Call:
    return Call(
        id=row["id"],
        plan_id=row["plan_id"],
        opens_at=row["opens_at"],
        closes_at=row["closes_at"],
        collecting=row["status"] == CallStatus.COLLECTING.value,
        reopening=row["reopening"],
    )


async def plans_of(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """The plans of those call auctions of ``ids`` that exist, by auction."""
    rows = await connection.fetch(
        "SELECT id, plan_id FROM matching.call_auction WHERE id = ANY($1::uuid[])", list(ids)
    )
    return {row["id"]: row["plan_id"] for row in rows}


async def write(connection: Connection, calls: Iterable[CallRow], *, now: datetime) -> None:
    """Make or change call auctions."""
    for call in calls:
        await connection.execute(_WRITE, *call, now)
