"""Raw queries of the market data feed; each walks an index and is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

_HEAD = "SELECT sequence FROM matching.book WHERE plan_id = $1"
_UPDATES = """
SELECT sequence, at, levels FROM matching.book_update
WHERE plan_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
"""
_BEST = """
SELECT (SELECT price_minor FROM matching."order"
        WHERE plan_id = $1 AND side = 'buy' AND closed_at IS NULL
        ORDER BY price_minor DESC LIMIT 1) AS bid,
       (SELECT price_minor FROM matching."order"
        WHERE plan_id = $1 AND side = 'sell' AND closed_at IS NULL
        ORDER BY price_minor LIMIT 1) AS ask,
       (SELECT price_minor FROM matching.trade
        WHERE plan_id = $1 ORDER BY seq DESC LIMIT 1) AS last
"""
_DAY = """
SELECT count(*) AS trades, coalesce(sum(lots), 0)::bigint AS lots,
       coalesce(sum(amount_minor), 0)::numeric AS turnover,
       max(price_minor) AS high, min(price_minor) AS low,
       (SELECT price_minor FROM matching.trade
        WHERE plan_id = $1 AND traded_at > $2 AND traded_at <= $3
        ORDER BY traded_at, seq LIMIT 1) AS open
FROM matching.trade WHERE plan_id = $1 AND traded_at > $2 AND traded_at <= $3
"""
# From bucket to bucket with a trade, by the index: a quiet year costs nothing.
_CANDLES = """
WITH RECURSIVE bucket AS (
    (SELECT date_bin($2::interval, t.traded_at, 'epoch') AS start FROM matching.trade t
     WHERE t.plan_id = $1 AND t.traded_at >= $3 AND t.traded_at < $4
     ORDER BY t.traded_at LIMIT 1)
    UNION ALL
    SELECT n.start FROM bucket b CROSS JOIN LATERAL (
        SELECT date_bin($2::interval, t.traded_at, 'epoch') AS start FROM matching.trade t
        WHERE t.plan_id = $1 AND t.traded_at >= b.start + $2 AND t.traded_at < $4
        ORDER BY t.traded_at LIMIT 1) n
)
SELECT b.start, o.price_minor AS open, c.price_minor AS close, a.*
FROM (SELECT start FROM bucket LIMIT $5) b
CROSS JOIN LATERAL (
    SELECT max(price_minor) AS high, min(price_minor) AS low, count(*) AS trades,
           sum(lots)::bigint AS lots, sum(amount_minor)::numeric AS turnover
    FROM matching.trade
    WHERE plan_id = $1 AND traded_at >= b.start AND traded_at < b.start + $2) a
CROSS JOIN LATERAL (
    SELECT price_minor FROM matching.trade
    WHERE plan_id = $1 AND traded_at >= b.start AND traded_at < b.start + $2
    ORDER BY traded_at, seq LIMIT 1) o
CROSS JOIN LATERAL (
    SELECT price_minor FROM matching.trade
    WHERE plan_id = $1 AND traded_at >= b.start AND traded_at < b.start + $2
    ORDER BY traded_at DESC, seq DESC LIMIT 1) c
ORDER BY b.start
"""
_TRADES_AFTER = """
SELECT seq, id, plan_id, lots, price_minor, currency, taker_side, traded_at
FROM matching.trade WHERE plan_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""
_LATEST_TRADES = """
SELECT seq, id, plan_id, lots, price_minor, currency, taker_side, traded_at
FROM matching.trade WHERE plan_id = $1 ORDER BY seq DESC LIMIT $2
"""
_TRADES_SINCE = """
SELECT count(*) FROM (
    SELECT 1 FROM matching.trade WHERE plan_id = $1 AND seq > $2 LIMIT $3) t
"""
_OPEN_ORDERS = """
SELECT id FROM matching."order"
WHERE party_id = $1 AND closed_at IS NULL ORDER BY id DESC LIMIT $2
"""


async def head(connection: Connection, plan_id: UUID) -> int:
    """The committed sequence of a book, 0 before its first batch."""
    return await connection.fetchval(_HEAD, plan_id) or 0


async def updates(connection: Connection, plan_id: UUID, *, after: int, limit: int) -> list[Record]:
    """Journal rows after a sequence, in order. The row lock on the lease orders their commits."""
    return await connection.fetch(_UPDATES, plan_id, after, limit)


async def best(connection: Connection, plan_id: UUID) -> Any:
    """Best bid, best ask and last price; NULL where there is none."""
    rows = await connection.fetch(_BEST, plan_id)
    return rows[0]


async def day(connection: Connection, plan_id: UUID, until: datetime) -> Any:
    """Totals of the 24 hours up to ``until``: O(their trades)."""
    rows = await connection.fetch(_DAY, plan_id, until - timedelta(days=1), until)
    return rows[0]


async def candles(
    connection: Connection,
    plan_id: UUID,
    *,
    span: timedelta,
    begin: datetime,
    end: datetime,
    limit: int,
) -> Sequence[Record]:
    """Buckets with trades from ``begin`` (a bucket's start) to before ``end``, oldest first."""
    return await connection.fetch(_CANDLES, plan_id, span, begin, end, limit)


async def trades_after(
    connection: Connection, plan_id: UUID, *, after: int, limit: int
) -> list[Record]:
    """Trades with a greater ``seq``, oldest first."""
    return await connection.fetch(_TRADES_AFTER, plan_id, after, limit)


async def latest_trades(connection: Connection, plan_id: UUID, limit: int) -> list[Record]:
    """The last trades, oldest first."""
    rows = await connection.fetch(_LATEST_TRADES, plan_id, limit)
    return rows[::-1]


async def trades_since(connection: Connection, plan_id: UUID, after: int, limit: int) -> int:
    """How many trades came after ``after``, counted up to ``limit``."""
    found: int = await connection.fetchval(_TRADES_SINCE, plan_id, after, limit)
    return found


async def open_orders(connection: Connection, party_id: UUID, limit: int) -> list[UUID]:
    """The newest open orders of a party."""
    return [row[0] for row in await connection.fetch(_OPEN_ORDERS, party_id, limit)]
