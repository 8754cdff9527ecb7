"""Raw statements of the background jobs of requests.

``demand.reading`` is locked for the whole run (SKIP LOCKED: a second run finds nothing to do),
and moves in the transaction that writes the alerts, so each event is worked through once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_LOCK_READING = """
SELECT txid, seq, request_id FROM demand.reading WHERE id = 1 FOR UPDATE SKIP LOCKED
"""
_MOVE_READING = """
UPDATE demand.reading SET txid = $1, seq = $2, request_id = $3 WHERE id = 1
"""
_STANDING = """
SELECT id FROM demand.request
WHERE status = 'open' AND standing AND (category IS NULL OR category = $1)
  AND expires_at > $2 AND ($3::uuid IS NULL OR id > $3)
ORDER BY id LIMIT $4
"""
# The cheapest cost that was told of each request's listing and version; 0: told without a price.
_TOLD = """
SELECT request_id, min(cost_minor) AS cost_minor
FROM demand.alert
WHERE request_id = ANY($1::uuid[]) AND listing_id = $2 AND version_id = $3
GROUP BY request_id
"""
_TELL = """
INSERT INTO demand.alert
    (id, request_id, buyer_id, listing_id, version_id, reason, cost_minor, currency, created_at)
SELECT a.* FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[],
    $8::text[], $9::timestamptz[]) AS a
ON CONFLICT (request_id, listing_id, version_id, cost_minor) DO NOTHING
RETURNING id
"""
_DUE_REQUESTS = """
SELECT id FROM demand.request WHERE status = 'open' AND expires_at <= $1
ORDER BY expires_at, id LIMIT $2
"""
_DUE_QUOTES = """
SELECT id, request_id FROM demand.quote WHERE status = 'open' AND valid_until <= $1
ORDER BY valid_until, id LIMIT $2
"""


class Place(NamedTuple):
    """Where the reader of the outbox stands; see ``demand.reading``."""

    txid: int
    seq: int
    request_id: UUID | None


class AlertRow(NamedTuple):
    """One row, in the order of the insert."""

    id: UUID
    request_id: UUID
    buyer_id: UUID
    listing_id: UUID
    version_id: UUID
    reason: str
    cost_minor: int
    currency: str | None
    created_at: datetime


async def lock_reading(connection: Connection) -> Place | None:
    """The reader's place, locked until commit; None while another run holds it."""
    row = await connection.fetchrow(_LOCK_READING)
    return None if row is None else Place(row["txid"], row["seq"], row["request_id"])


async def move_reading(connection: Connection, place: Place) -> None:
    """Set the reader's place."""
    await connection.execute(_MOVE_READING, *place)


async def standing_requests(
    connection: Connection, category: str, *, now: datetime, after: UUID | None, limit: int
) -> list[UUID]:
    """Open standing requests that a listing of ``category`` may concern, in id order."""
    rows = await connection.fetch(_STANDING, category, now, after, limit)
    return [row["id"] for row in rows]


async def told(
    connection: Connection, request_ids: Sequence[UUID], listing_id: UUID, version_id: UUID
) -> dict[UUID, int]:
    """The least cost told so far, by request."""
    rows = await connection.fetch(_TOLD, list(request_ids), listing_id, version_id)
    return {row["request_id"]: row["cost_minor"] for row in rows}


async def tell(connection: Connection, alerts: Sequence[AlertRow]) -> set[UUID]:
    """Insert alerts; the ids of those that were new."""
    if not alerts:
        return set()
    columns = [list(column) for column in zip(*alerts, strict=True)]
    return {row["id"] for row in await connection.fetch(_TELL, *columns)}


async def due_requests(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Open requests whose time has passed."""
    return [row["id"] for row in await connection.fetch(_DUE_REQUESTS, now, limit)]


async def due_quotes(
    connection: Connection, *, now: datetime, limit: int
) -> list[tuple[UUID, UUID]]:
    """``(quote, request)`` of open quotes whose latest proposal is no longer valid."""
    rows = await connection.fetch(_DUE_QUOTES, now, limit)
    return [(row["id"], row["request_id"]) for row in rows]
