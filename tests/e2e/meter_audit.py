"""What readers know against what was billed, and that against grants, leases, receipts, money.

What is allowed is stated in docs/metering.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import psycopg

from tests.e2e.meter_readers import Received, fetch
from tests.e2e.meter_sides import Side

# Between the moment noted for a kill and its signal; a market needs longer to come back.
SIGNAL_S = 0.5
# A settled page is durable after the flusher's pause and a commit; on a busy machine, this.
DURABLE_S = 3.0


class Record(NamedTuple):
    """A usage record."""

    units: int
    rows: int
    assumed: bool


@dataclass(frozen=True)
class Audit:
    """The database and the market after ``kills``: their moments and what was killed."""

    database_url: str
    market_url: str
    kills: list[tuple[float, str]]

    def query(self, text: str, *values: object) -> list[Any]:
        """Rows, read as the application."""
        with psycopg.connect(self.database_url) as connection:
            return list(connection.execute(text.encode(), values))

    def judge(self, side: Side) -> dict[str, Any]:
        """The readers' book against the usage records; gives the totals."""
        book = side.book
        assert book.wrong == [], book.wrong[:5]
        for key, page in book.received.items():
            assert side.costs(page.rows, page.size, page.units), f"{key}: {page}"
        billed = self._billed(side)
        undelivered = {key: billed[key] for key in billed if key not in book.received}
        unbilled = [key for key in book.received if key not in billed]
        by_kind, worst = self._judge_unbilled(side, unbilled)
        self._judge_undelivered(side, undelivered)
        return {
            "deliveries": len(book.received),
            "units": sum(page.units for page in book.received.values()),
            "lost": dict(Counter(self._kill_before(at) for _, at in book.lost.values())),
            "lost_by": dict(book.causes),
            "refused": dict(book.refused),
            "billed_undelivered": sum(record.units for record in undelivered.values()),
            "delivered_unbilled": sum(book.received[key].units for key in unbilled),
            "unbilled_by_kill": by_kind,
            "unbilled_most_of_one_app_kill": worst,
            "unbilled_bound_of_one_app_kill": side.bound,
        }

    def _billed(self, side: Side) -> dict[str, Record]:
        """The usage records by Delivery-Id; each bills what its reader was told or, assumed,
        what was reserved."""
        book = side.book
        rows = self.query(
            "SELECT delivery_key, units, row_count, assumed FROM contracts.delivery "
            "WHERE grant_id = %s",
            side.trade.grant_id,
        )
        billed = {key: Record(*values) for key, *values in rows}
        if side.names_ids:
            assert set(billed) <= set(book.received | book.lost), "billed what nobody asked for"
        for key, record in billed.items():
            page = book.received.get(key)
            if page is None:
                continue
            if record.assumed:
                assert side.costs(page.rows, page.size, record.units), f"{key}: {record}"
            else:
                assert (record.rows, record.units) == (page.rows, page.units), f"{key}: {record}"
        return billed

    def _judge_unbilled(self, side: Side, unbilled: list[str]) -> tuple[dict[str, int], int]:
        """Units by what lost them, and the most that one kill of the application did."""
        count: Counter[int] = Counter()
        units: Counter[int] = Counter()
        by_kind: Counter[str] = Counter()
        for key in unbilled:
            page = side.book.received[key]
            number = self._lost_by(page)
            moment, kind = self.kills[number]
            if kind == "valkey":
                # Its second copy died with Valkey; then the application, before Postgres had it.
                gone = self._app_kill_after(page.at)
                late = gone - page.at
                assert late < DURABLE_S, f"{key}: {kind} lost it, {late} s before the app"
                by_kind["valkey, then app"] += page.units
                continue
            count[number] += 1
            units[number] += page.units
            by_kind[kind] += page.units
            assert "app" in kind, f"{key}: {kind} lost it"
            if kind == "app+valkey":
                late = moment - page.at
                assert late < DURABLE_S, f"{key} waited {late} s for Postgres"
        of_app = [number for number in count if self.kills[number][1] == "app"]
        for number in of_app:
            assert side.mode == "sub_lease" or count[number] <= side.readers
            assert units[number] <= side.bound
        return dict(by_kind), max((units[number] for number in of_app), default=0)

    def _judge_undelivered(self, side: Side, undelivered: dict[str, Record]) -> None:
        if side.mode != "seller_safe":
            assert undelivered == {}
            return
        assert all(record.assumed for record in undelivered.values())
        assert all(record.units <= side.sold.page_max for record in undelivered.values())
        app_kills = sum("app" in kind for _, kind in self.kills)
        assert len(undelivered) <= side.readers * app_kills
        asyncio.run(self._fetch_again(side, undelivered))

    async def _fetch_again(self, side: Side, undelivered: dict[str, Record]) -> None:
        """What was billed without proof is free under the same id."""
        async with httpx.AsyncClient() as client:
            for key, record in undelivered.items():
                rows = side.book.lost[key].rows
                answer = await fetch(client, self.market_url, side.token, key, rows)
                assert answer.status_code == 200, answer.text
                assert answer.headers["Meter-Charged"] == "0"
                assert len(answer.json()["items"]) == rows
                assert side.costs(rows, len(answer.content), record.units), f"{key}: {record}"

    def check_books(self, side: Side) -> None:
        """Usage records, grant, leases, receipts and ledger say the same."""
        grant, agreement = side.trade.grant_id, side.trade.agreement.id
        ((units, count),) = self.query(
            "SELECT sum(units), count(*) FROM contracts.delivery WHERE grant_id = %s", grant
        )
        ((settled, accrued, deliveries, granted),) = self.query(
            "SELECT settled_units, accrued_units, delivery_count, granted_units "
            "FROM contracts.access_grant WHERE id = %s",
            grant,
        )
        assert (settled, accrued, deliveries) == (units, units, count)
        ((used,),) = self.query(
            "SELECT sum(settled_units) FROM contracts.lease WHERE grant_id = %s", grant
        )
        assert used <= units
        ((receipts, last),) = self.query(
            "SELECT count(*), max(seq) FROM contracts.receipt WHERE agreement_id = %s", agreement
        )
        assert (receipts, last) == (count, count)
        ((released, total),) = self.query(
            "SELECT released_minor, total_minor FROM contracts.agreement WHERE id = %s", agreement
        )
        # The worth of all units used so far, rounded down to a minor unit.
        assert released == total * units // granted
        ((escrow,),) = self.query(
            "SELECT posted FROM settlement.account WHERE kind = 'escrow' AND owner = %s", agreement
        )
        assert escrow == total - released

    def _lost_by(self, page: Received) -> int:
        """The kill that can have lost its record.

        That of the application it was asked of, if it fell into the asking: then the answer was in
        a socket, for as long as this process was busy. Else the next one.
        """
        for number, (moment, kind) in enumerate(self.kills):
            if "app" in kind and page.begun - SIGNAL_S < moment <= page.at:
                return number
        for number, (moment, _) in enumerate(self.kills):
            if moment > page.at:
                return number
        raise AssertionError("unbilled with no kill after it")

    def _app_kill_after(self, at: float) -> float:
        later = (moment for moment, kind in self.kills if moment > at and "app" in kind)
        return next(later, float("inf"))

    def _kill_before(self, at: float) -> str:
        """What had been killed last when a request was lost."""
        return next((kind for moment, kind in reversed(self.kills) if moment <= at), "none")
