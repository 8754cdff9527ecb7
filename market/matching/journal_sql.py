"""Raw statements of the journal: one per batch writes it with the states of the books."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

# One statement for both, so that the journal costs no round trip of its own.
_WRITE = """
WITH u AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[], $6::bigint[],
        $7::bytea[], $8::bytea[], $9::bytea[])
        AS u(plan_id, sequence, checksum, orders, first_seq, last_seq, steps, levels, digest)
), journal AS (
    INSERT INTO matching.book_update
        (plan_id, sequence, checksum, orders, first_seq, last_seq, at, steps, levels, digest)
    SELECT plan_id, sequence, checksum, orders, first_seq, last_seq, $10, steps, levels, digest
    FROM u
)
INSERT INTO matching.book (plan_id, sequence, checksum, orders, updated_at)
SELECT plan_id, sequence, checksum, orders, $10 FROM u
ON CONFLICT (plan_id) DO UPDATE
SET sequence = excluded.sequence, checksum = excluded.checksum, orders = excluded.orders,
    updated_at = excluded.updated_at
"""
_READ_UPDATES = """
SELECT plan_id, sequence, checksum, orders, first_seq, last_seq, at, steps, levels, digest
FROM matching.book_update WHERE plan_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
"""
# Trades with the input numbers of their orders, as the book knows them.
_READ_TRADES = """
SELECT t.seq, b.seq AS buy_seq, s.seq AS sell_seq, t.price_minor, t.lots, t.traded_at
FROM matching.trade t
LEFT JOIN matching."order" b ON b.id = t.buy_order_id
LEFT JOIN matching."order" s ON s.id = t.sell_order_id
WHERE t.plan_id = $1 AND t.seq > $2 ORDER BY t.seq LIMIT $3
"""
_READ_HEADS = """
SELECT b.plan_id, b.sequence, b.checksum, b.orders,
       coalesce((SELECT max(t.seq) FROM matching.trade t WHERE t.plan_id = b.plan_id), 0)
FROM matching.book b WHERE $1::uuid IS NULL OR b.plan_id = $1 ORDER BY b.plan_id
"""


class UpdateRow(NamedTuple):
    """A row of the journal, in the order of the statement's arrays."""

    plan_id: UUID
    sequence: int
    checksum: int
    orders: int
    first_seq: int
    last_seq: int
    steps: bytes
    levels: bytes
    digest: bytes


async def write(connection: Connection, rows: Sequence[UpdateRow], *, now: datetime) -> None:
    """Append to the journal and store the states that the touched books must rebuild to."""
    if rows:
        await connection.execute(_WRITE, *map(list, zip(*rows, strict=True)), now)


async def read_updates(
    connection: Connection, plan_id: UUID, *, after: int, limit: int
) -> list[Record]:
    """Rows of a book's journal with a greater sequence, in order, at most ``limit``."""
    return await connection.fetch(_READ_UPDATES, plan_id, after, limit)


async def read_trades(
    connection: Connection, plan_id: UUID, *, after: int, limit: int
) -> list[Record]:
    """Trades of a plan with a greater ``seq``, in match order, at most ``limit``.

    A missing order's input number is NULL.
    """
    return await connection.fetch(_READ_TRADES, plan_id, after, limit)


async def read_heads(connection: Connection, plan_id: UUID | None) -> list[Record]:
    """Plan, sequence, checksum, orders and last trade's ``seq``, of one snapshot."""
    return await connection.fetch(_READ_HEADS, plan_id)
