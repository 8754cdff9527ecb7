"""What must hold of orders, trades, holds and books after a crash, read in one snapshot."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from market.matching.shard import Shard
from tests.settlement.machine.invariants import VIOLATIONS

_OPEN = ("open", "partially_filled")
_FAULTS = {
    "an open buy order without its open hold": """
        SELECT o.id FROM matching."order" o
        LEFT JOIN settlement.hold h ON h.id = o.hold_id
        LEFT JOIN settlement.hold_resolution r ON r.hold_id = h.id
        WHERE o.closed_at IS NULL AND o.side = 'buy'
          AND (h.id IS NULL OR r.hold_id IS NOT NULL
               OR h.amount <> (o.lots - o.filled_lots) * o.price_minor)
    """,
    "an open hold without its open buy order": """
        SELECT h.id FROM settlement.hold h
        LEFT JOIN settlement.hold_resolution r ON r.hold_id = h.id
        LEFT JOIN matching."order" o
            ON o.hold_id = h.id AND o.closed_at IS NULL AND o.side = 'buy'
        WHERE r.hold_id IS NULL AND o.id IS NULL
    """,
    "an order whose fills are not its trades": """
        SELECT o.id FROM matching."order" o
        LEFT JOIN matching.trade t
            ON o.id = CASE o.side WHEN 'buy' THEN t.buy_order_id ELSE t.sell_order_id END
        GROUP BY o.id HAVING o.filled_lots <> coalesce(sum(t.lots), 0)
            OR o.filled_amount_minor <> coalesce(sum(t.amount_minor), 0)
    """,
    "a trade without its orders": """
        SELECT t.id FROM matching.trade t
        LEFT JOIN matching."order" b ON b.id = t.buy_order_id AND b.side = 'buy'
        LEFT JOIN matching."order" s ON s.id = t.sell_order_id AND s.side = 'sell'
        WHERE b.id IS NULL OR s.id IS NULL OR (t.buyer_id, t.seller_id) <> (b.party_id, s.party_id)
    """,
    "a bundle without all of its legs, or a leg without its bundle": """
        SELECT coalesce(b.id, o.bundle_id)
        FROM matching.bundle b
        FULL JOIN (SELECT * FROM matching."order" WHERE bundle_id IS NOT NULL) o
            ON o.bundle_id = b.id
        GROUP BY b.id, o.bundle_id, b.cost_minor
        HAVING b.id IS NULL OR count(o.id) < 2 OR sum(o.filled_amount_minor) <> b.cost_minor
    """,
    "a trade without its agreement, or an agreement without its trade": """
        SELECT coalesce(t.id, a.id) FROM matching.trade t
        FULL JOIN contracts.agreement a ON a.id = t.agreement_id
        WHERE t.id IS NULL OR a.id IS NULL
    """,
    "a trade or an order that no event tells, or two": """
        SELECT t.id FROM matching.trade t LEFT JOIN kernel.outbox e
            ON e.object_id = t.id AND e.type LIKE 'trade.%' GROUP BY t.id HAVING count(e.seq) <> 1
    """,
}
_ESCROW = """
SELECT (SELECT coalesce(sum(posted), 0) FROM settlement.account WHERE kind = 'escrow')
     - (SELECT coalesce(sum(amount_minor), 0) FROM matching.trade)
"""
_ORDERS = 'SELECT id, party_id, status, filled_lots, price_minor FROM matching."order"'


@dataclass(frozen=True)
class Told:
    """What the clients of one party were told."""

    party_id: UUID
    lines: list[dict[str, Any]]

    @property
    def placed(self) -> list[dict[str, Any]]:
        """Acknowledged orders, those of filled bundles too."""
        legs = [
            {**leg, "unsure": line["unsure"], "replayed": line["replayed"]}
            for line in self.lines
            if line["act"] == "bundle"
            for leg in line["legs"]
        ]
        return [line for line in self.lines if line["act"] == "place"] + legs


async def audit(url: str, told: Iterable[Told], *, finished: bool) -> dict[str, int]:
    """Totals; AssertionError names the first fault. ``finished``: no request is in hand."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for fault, query in _FAULTS.items():
                found = await connection.fetch(query)
                assert not found, f"{fault}: {found[:5]}"
            counts = await connection.fetchrow(VIOLATIONS)
            assert counts is not None
            assert not any(counts), counts
            assert await connection.fetchval(_ESCROW) == 0
            rows = {row["id"]: dict(row) for row in await connection.fetch(_ORDERS)}
            shard = Shard()
            resting = await shard.load_all(connection)
            trades = {row[0] for row in await connection.fetch("SELECT id FROM matching.trade")}
    finally:
        await connection.close()
    assert not shard._halted, f"books that do not add up: {shard._halted}"
    assert resting == sum(row["status"] in _OPEN for row in rows.values())
    stored = Counter(row["party_id"] for row in rows.values())
    totals: dict[str, int] = defaultdict(int)
    for client in told:
        _check_client(client, rows, trades, stored[client.party_id], finished, totals)
    return {**totals, "stored": len(rows), "trades": len(trades), "resting": resting}


def _check_client(
    client: Told,
    rows: Mapping[UUID, Mapping[str, Any]],
    trades: set[UUID],
    stored: int,
    finished: bool,
    totals: dict[str, int],
) -> None:
    placed = {_id(line["id"]): line for line in client.placed}
    assert len(placed) == len(client.placed), "two acknowledgements name one order"
    # Read before the snapshot, so that it may hold the one in hand, or what followed.
    assert stored >= len(placed), "an acknowledged order is missing"
    assert not finished or stored == len(placed), "an order that nobody was told of"
    for order_id, line in placed.items():
        _check_later(rows[order_id], line)
        assert {_id(trade) for trade in line["trades"]} <= trades
        totals["acknowledged"] += 1
        totals["unknown"] += line["unsure"]
        totals["of_these_booked"] += line["unsure"] and line["replayed"]
        # Only an outcome that was unknown can have been booked before its answer.
        assert line["unsure"] or not line["replayed"]
    for line in client.lines:
        if line["act"] == "cancel":
            row = rows[_id(line["id"])]
            assert row["status"] not in _OPEN, f"cancelled, and open again: {line}"
            if line["status"] is not None:
                assert (row["status"], row["filled_lots"]) == (line["status"], line["filled"])
            totals["cancels"] += 1
    amended = {_id(line["id"]): line for line in client.lines if line["act"] == "amend"}
    for order_id, line in amended.items():
        _check_later(rows[order_id], line)
        # One that is in hand may be newer.
        assert not finished or rows[order_id]["price_minor"] == line["price"]
    totals["bundles"] += sum(line["act"] == "bundle" for line in client.lines)
    totals["amendments"] += sum(line["act"] == "amend" for line in client.lines)


def _check_later(row: Mapping[str, Any], line: Mapping[str, Any]) -> None:
    """The acknowledged state or a later one."""
    if line["status"] in _OPEN:
        assert row["filled_lots"] >= line["filled"], (dict(row), line)
        assert row["status"] != "rejected", (dict(row), line)
        return
    assert (row["status"], row["filled_lots"]) == (line["status"], line["filled"]), line


def _id(text: str) -> UUID:
    return UUID(text.partition("_")[2])
