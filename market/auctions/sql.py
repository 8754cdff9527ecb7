"""Raw statements of auctions: what is due, who has bid."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_DUE = """
SELECT id FROM auctions.auction WHERE status = 'open' AND closes_at <= $1
ORDER BY closes_at LIMIT $2
"""
_HAS_LIVING_BID = """
SELECT EXISTS (SELECT FROM auctions.bid b JOIN parties.party p ON p.id = b.bidder_id
    WHERE b.auction_id = $1 AND b.status = 'living'
    AND (b.bidder_id = $2 OR p.affiliate_group = $3))
"""
_BLOCKED = """
SELECT b.id, b.auction_id FROM parties.trading_block k
JOIN auctions.bid b ON b.bidder_id = k.party_id AND b.status = 'living'
JOIN auctions.auction a ON a.id = b.auction_id AND a.closes_at > $1
ORDER BY b.id LIMIT $2
"""
# Sold exclusively, and nobody may use it any more: the product is free again.
_LAPSED = """
SELECT r.holder_id FROM listings.reservation r
JOIN auctions.auction a ON a.id = r.holder_id AND a.status = 'awarded'
WHERE r.released_at IS NULL AND NOT EXISTS (
    SELECT FROM auctions.award w JOIN contracts.access_grant g ON g.agreement_id = w.agreement_id
    WHERE w.auction_id = a.id AND g.status IN ('active', 'suspended', 'exhausted'))
ORDER BY r.holder_id LIMIT $1
"""


async def due_auctions(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Open auctions whose close has passed, the longest waiting first."""
    return [row["id"] for row in await connection.fetch(_DUE, now, limit)]


async def has_living_bid(
    connection: Connection, auction_id: UUID, *, party_id: UUID, group_id: UUID | None
) -> bool:
    """Whether the party, or one of its affiliate group, has a living bid."""
    return bool(await connection.fetchval(_HAS_LIVING_BID, auction_id, party_id, group_id))


async def blocked_bids(
    connection: Connection, *, now: datetime, limit: int
) -> list[tuple[UUID, UUID]]:
    """``(bid, auction)`` of living bids, before the close, of parties that may not trade."""
    rows = await connection.fetch(_BLOCKED, now, limit)
    return [(row["id"], row["auction_id"]) for row in rows]


async def lapsed_reservations(connection: Connection, *, limit: int) -> list[UUID]:
    """Awarded auctions whose exclusive licenses have all ended."""
    return [row["holder_id"] for row in await connection.fetch(_LAPSED, limit)]
