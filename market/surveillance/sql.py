"""What surveillance reads of committed trades and orders.

Every query looks at the trades of one portion, and back from there over a window of time and at
most ``LOOK_BACK_TRADES`` trades, so its cost does not grow with the market's age.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from market.surveillance.rules import Flow, Part, Pressure, Print

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

LOOK_BACK_TRADES = 50_000
# Trades before one that make its median.
MEDIAN_TRADES = 20
# Ids of one kind that an alert keeps.
EVIDENCE_MAX = 50
PARTS_MAX = 200
# What a sum may be at most in 63 bits; larger ones are cut.
_SUM = "least(sum({}), 9223372036854775807)::bigint"

_PORTION_END = """
SELECT max(seq) FROM (
    SELECT seq FROM matching.trade WHERE seq > $1 AND traded_at <= $2 ORDER BY seq LIMIT $3) p
"""
_PRINTS = f"""
SELECT t.id, t.plan_id, t.buyer_id, t.seller_id, t.price_minor, t.traded_at, e.earlier, e.median,
       v.low, v.high,
       b.affiliate_group IS NOT NULL AND b.affiliate_group = s.affiliate_group AS affiliated
FROM matching.trade t
JOIN pricing.plan p ON p.id = t.plan_id
JOIN parties.party b ON b.id = t.buyer_id
JOIN parties.party s ON s.id = t.seller_id
CROSS JOIN LATERAL (
    SELECT count(*) AS earlier,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY x.price_minor) AS median
    FROM (SELECT o.price_minor FROM matching.trade o
          WHERE o.plan_id = t.plan_id AND o.seq < t.seq
          ORDER BY o.seq DESC LIMIT {MEDIAN_TRADES}) x) e
LEFT JOIN LATERAL (
    SELECT (l.s->>'low_minor')::numeric * p.lot_units / (l.s->>'lot_units')::numeric AS low,
           (l.s->>'high_minor')::numeric * p.lot_units / (l.s->>'lot_units')::numeric AS high
    FROM (SELECT w.results->'suggestion' AS s FROM pricing.valuation w
          WHERE w.listing_id = p.listing_id AND w.currency = t.currency
          ORDER BY w.id DESC LIMIT 1) l
    WHERE l.s->>'unit' = p.unit) v ON true
WHERE t.seq > $1 AND t.seq <= $2
ORDER BY t.seq
"""
_FLOWS = f"""
WITH pairs AS (
    SELECT DISTINCT x.buyer_id, x.seller_id FROM matching.trade t
    CROSS JOIN LATERAL (VALUES (t.buyer_id, t.seller_id), (t.seller_id, t.buyer_id))
        AS x(buyer_id, seller_id)
    WHERE t.seq > $1 AND t.seq <= $2)
SELECT t.buyer_id, t.seller_id, t.currency, {_SUM.format("t.amount_minor")} AS amount,
       (array_agg(t.id ORDER BY t.seq DESC))[1:{EVIDENCE_MAX}] AS trades,
       max(t.traded_at) AS last_at
FROM pairs JOIN matching.trade t USING (buyer_id, seller_id)
WHERE t.seq > $3 AND t.seq <= $2 AND t.traded_at > $4
GROUP BY t.buyer_id, t.seller_id, t.currency
"""
# Orders are found by their ids, which begin with the time at which they were made.
_PRESSURE = f"""
WITH filled AS (
    SELECT DISTINCT t.plan_id, x.party_id, x.side FROM matching.trade t
    CROSS JOIN LATERAL (VALUES (t.buyer_id, 'buy'), (t.seller_id, 'sell')) AS x(party_id, side)
    WHERE t.seq > $1 AND t.seq <= $2),
members AS (
    SELECT f.plan_id, f.party_id, f.side, f.party_id AS member_id FROM filled f
    UNION
    SELECT f.plan_id, f.party_id, f.side, m.id FROM filled f
    JOIN parties.party p ON p.id = f.party_id
    JOIN parties.party m ON m.affiliate_group = p.affiliate_group),
entered AS (
    SELECT m.plan_id, m.party_id, m.side AS filled_side, o.id, o.lots, o.price_minor,
           o.created_at, o.closed_at, o.reason
    FROM members m
    JOIN matching."order" o ON o.party_id = m.member_id AND o.id > $5 AND o.plan_id = m.plan_id
    WHERE o.side <> m.side AND o.created_at > $4 AND o.lots IS NOT NULL),
caught AS (
    SELECT e.plan_id, e.party_id, e.filled_side, e.id AS order_id, t.id AS trade_id, t.traded_at
    FROM entered e
    JOIN matching.trade t ON t.plan_id = e.plan_id AND t.seq > $3 AND t.seq <= $2
        AND t.traded_at BETWEEN e.created_at AND e.closed_at
        AND CASE e.filled_side WHEN 'buy' THEN t.buyer_id ELSE t.seller_id END = e.party_id
    WHERE e.reason = 'requested' AND e.closed_at - e.created_at <= make_interval(secs => $6)
      AND e.lots >= t.lots * $7::bigint
      AND abs(e.price_minor - t.price_minor)::numeric * 1000000 <= t.price_minor::numeric * $8)
SELECT c.plan_id, c.party_id, c.filled_side,
       (SELECT count(*) FROM entered e
        WHERE (e.plan_id, e.party_id, e.filled_side)
            = (c.plan_id, c.party_id, c.filled_side)) AS entered,
       (array_agg(DISTINCT c.order_id))[1:{EVIDENCE_MAX}] AS orders,
       (array_agg(DISTINCT c.trade_id))[1:{EVIDENCE_MAX}] AS trades,
       max(c.traded_at) AS last_at
FROM caught c GROUP BY c.plan_id, c.party_id, c.filled_side
"""
# Plans have one seller by nature, so only their buyers are looked at.
_PARTS = f"""
WITH recent AS (
    SELECT t.seq, t.id, t.plan_id, t.buyer_id, t.seller_id, t.amount_minor, t.currency,
           t.traded_at, l.category
    FROM matching.trade t
    JOIN pricing.plan p ON p.id = t.plan_id
    JOIN listings.listing l ON l.id = p.listing_id
    WHERE t.seq > $3 AND t.seq <= $2 AND t.traded_at > $4),
fresh AS (SELECT plan_id, category FROM recent WHERE seq > $1),
parts AS (
    SELECT 'plan:' || r.plan_id AS scope, 'buyer' AS side, r.buyer_id AS party_id, r.plan_id, r.*
    FROM recent r WHERE r.plan_id IN (SELECT plan_id FROM fresh)
    UNION ALL
    SELECT 'category:' || r.category, x.side, x.party_id, NULL, r.*
    FROM recent r
    CROSS JOIN LATERAL (VALUES ('buyer', r.buyer_id), ('seller', r.seller_id)) AS x(side, party_id)
    WHERE r.category IN (SELECT category FROM fresh)),
shares AS (
    SELECT q.scope, q.side, q.party_id, q.currency, q.plan, sum(q.amount_minor) AS amount,
           count(*) AS trades, max(q.traded_at) AS last_at,
           (array_agg(q.id ORDER BY q.seq DESC))[1:{EVIDENCE_MAX}] AS evidence
    FROM parts AS q(scope, side, party_id, plan, seq, id, plan_id, buyer_id, seller_id,
                    amount_minor, currency, traded_at, category)
    GROUP BY q.scope, q.side, q.party_id, q.currency, q.plan)
SELECT scope, side, party_id, currency, plan, least(amount, 9223372036854775807)::bigint AS amount,
       least(sum(amount) OVER whole, 9223372036854775807)::bigint AS total,
       (sum(trades) OVER whole)::bigint AS trades, count(*) OVER whole AS parties, last_at, evidence
FROM shares WINDOW whole AS (PARTITION BY scope, side, currency)
ORDER BY amount DESC LIMIT {PARTS_MAX}
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """Trades after ``after`` up to ``last`` are new; the window goes back to ``since``."""

    after: int
    last: int
    since: datetime

    @property
    def floor(self) -> int:
        """No query looks at trades up to this one."""
        return max(0, self.last - LOOK_BACK_TRADES)


async def portion_end(
    connection: Connection, after: int, *, until: datetime, limit: int
) -> int | None:
    """The last of at most ``limit`` trades after ``after`` that are old enough."""
    last: int | None = await connection.fetchval(_PORTION_END, after, until, limit)
    return last


async def read_prints(connection: Connection, reach: Reach) -> tuple[list[Print], list[Print]]:
    """The new trades, and those of them whose parties are affiliates today."""
    prints, affiliated = [], []
    for row in await connection.fetch(_PRINTS, reach.after, reach.last):
        made = Print(
            row["id"],
            row["plan_id"],
            row["buyer_id"],
            row["seller_id"],
            row["price_minor"],
            row["traded_at"],
            row["earlier"],
            row["median"],
            None if row["low"] is None else int(row["low"]),
            None if row["high"] is None else int(row["high"]),
        )
        prints.append(made)
        if row["affiliated"]:
            affiliated.append(made)
    return prints, affiliated


async def read_flows(connection: Connection, reach: Reach) -> list[Flow]:
    """What the pairs of the new trades bought from each other in the window, each way."""
    rows = await connection.fetch(_FLOWS, reach.after, reach.last, reach.floor, reach.since)
    return [
        Flow(
            row["buyer_id"],
            row["seller_id"],
            row["currency"],
            row["amount"],
            tuple(row["trades"]),
            row["last_at"],
        )
        for row in rows
    ]


async def read_pressure(
    connection: Connection,
    reach: Reach,
    *,
    oldest_order: UUID,
    life_s: int,
    size_factor: int,
    near_ppm: int,
) -> list[Pressure]:
    """Large orders against a party's own fills, cancelled within ``life_s`` of their entry."""
    rows = await connection.fetch(
        _PRESSURE,
        reach.after,
        reach.last,
        reach.floor,
        reach.since,
        oldest_order,
        life_s,
        size_factor,
        near_ppm,
    )
    return [
        Pressure(
            row["party_id"],
            row["plan_id"],
            "sell" if row["filled_side"] == "buy" else "buy",
            row["entered"],
            tuple(row["orders"]),
            tuple(row["trades"]),
            row["last_at"],
        )
        for row in rows
    ]


async def read_parts(connection: Connection, reach: Reach) -> list[Part]:
    """Each party's part of the plans and categories of the new trades, in the window."""
    rows = await connection.fetch(_PARTS, reach.after, reach.last, reach.floor, reach.since)
    return [
        Part(
            row["scope"],
            row["side"],
            row["party_id"],
            row["amount"],
            row["total"],
            row["trades"],
            row["parties"],
            row["currency"],
            row["last_at"],
            row["plan"],
            tuple(row["evidence"]),
        )
        for row in rows
    ]
