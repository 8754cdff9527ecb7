"""The writer's memory: books, open orders, expiry order. Postgres is the truth.

Books change while a batch is matched; everything else only after its COMMIT. When a batch fails,
:meth:`Shard.drop` forgets the touched instruments and the next batch reads them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from market.kernel.logging import get_logger
from market.matching import control_sql, sql
from market.matching.book import Book
from market.matching.call_auction import Clearing
from market.matching.controls import Controls
from market.matching.errors import BookHalted
from market.matching.expiry import Expiries
from market.matching.levels import Levels
from market.matching.models import OrderSide, SelfTradeMode
from market.matching.phases import enter
from market.matching.terms import UNLIMITED, SelfTrade, Side

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

# Between two lines about the progress of a rebuild.
PROGRESS_ORDERS = 100_000

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class LiveOrder:
    """An open order, as much of it as matching needs. ``lots`` None never runs out.

    ``rank`` is its time priority: ``seq``, until an amendment loses it.
    """

    seq: int
    id: UUID
    plan_id: UUID
    party_id: UUID
    group: UUID
    side: Side
    price: int
    lots: int | None
    filled: int
    amount: int
    hold_id: UUID | None
    expires_at: datetime | None
    rank: int
    post_only: bool = False
    prevent_by: SelfTrade = SelfTrade.CANCEL_NEWEST
    auction_only: bool = False
    # The grant whose units a resale order offers.
    grant_id: UUID | None = None

    @property
    def left(self) -> int:
        """Lots for the book."""
        return UNLIMITED if self.lots is None else self.lots - self.filled


class Terms(Protocol):
    """What an amendment may change of an order."""

    price: int
    lots: int | None
    rank: int
    post_only: bool
    expires_at: datetime | None


@dataclass(slots=True)
class Instrument:
    """The book of one plan with the state it must rebuild to."""

    plan_id: UUID
    book: Book = field(default_factory=Book)
    orders: dict[int, LiveOrder] = field(default_factory=dict)
    sequence: int = 0
    checksum: int = 0
    # Open orders by party.
    counts: dict[UUID, int] = field(default_factory=dict)
    # Made when a batch first changes the book, so that a restart need not wait for them.
    levels: Levels | None = None


class Shard:
    """All instruments that this writer owns."""

    def __init__(self) -> None:
        self._instruments: dict[UUID, Instrument] = {}
        self._by_id: dict[UUID, LiveOrder] = {}
        self._expiries: Expiries[UUID] = Expiries()
        self._owners: dict[UUID, int] = {}
        self._names: dict[UUID, UUID] = {}
        self._halted: set[UUID] = set()
        # A dict for its order: reloading must not depend on hash order.
        self._dropped: dict[UUID, None] = {}
        self.controls = Controls()
        # What was last told of each collecting call auction.
        self.indicatives: dict[UUID, Clearing | None] = {}
        # A batch failed, perhaps after its COMMIT: what it decided has to be read again.
        self._controls_stale = False

    @property
    def open_orders(self) -> int:
        """Number of open orders in memory."""
        return len(self._by_id)

    def order(self, order_id: UUID) -> LiveOrder | None:
        """An open order, None if it is closed, unknown or not loaded."""
        return self._by_id.get(order_id)

    def orders_of(self, party_ids: Iterable[UUID]) -> list[LiveOrder]:
        """The open orders of some parties: a scan, for the rare case of a lost verification."""
        wanted = frozenset(party_ids)
        return [order for order in self._by_id.values() if order.party_id in wanted]

    def trading(self) -> list[UUID]:
        """The instruments that have open orders."""
        return [plan_id for plan_id, item in self._instruments.items() if item.orders]

    def open_ids(self, plan_id: UUID, limit: int) -> list[UUID]:
        """Open orders of an instrument, at most ``limit``; none while it is not loaded."""
        instrument = self._instruments.get(plan_id)
        if instrument is None:
            return []
        return [order.id for order in islice(instrument.orders.values(), limit)]

    def open_orders_of(self, party_id: UUID, plan_id: UUID) -> int:
        """How many open orders a party has on a loaded instrument."""
        instrument = self._instruments.get(plan_id)
        return 0 if instrument is None else instrument.counts.get(party_id, 0)

    def parties(self, plan_id: UUID | None = None) -> list[UUID]:
        """Who has open orders (on one loaded instrument), in order of their ids."""
        if plan_id is not None:
            return sorted(self._instruments[plan_id].counts)
        return sorted({party for each in self._instruments.values() for party in each.counts})

    def govern(self, controls: Controls) -> None:
        """Bring every loaded book into its phase under ``controls``. O(instruments)."""
        for plan_id, instrument in self._instruments.items():
            if plan_id not in self._halted:
                enter(instrument.book, controls.phase(plan_id))

    def instrument(self, plan_id: UUID) -> Instrument:
        """A loaded instrument. Raises BookHalted, KeyError when :meth:`load` was not called."""
        if plan_id in self._halted:
            raise BookHalted(param="plan_id")
        return self._instruments[plan_id]

    def owner(self, group: UUID) -> int:
        """The conflict group's number: affiliates share one, so they cannot trade together."""
        return self._owners.setdefault(group, len(self._owners))

    def party(self, party_id: UUID) -> int:
        """The party's number in the books; that of its group when it has no affiliates."""
        return self._owners.setdefault(party_id, len(self._owners))

    def due(self, now: datetime, limit: int) -> list[LiveOrder]:
        """Open orders whose ``expires_at`` has come, earliest first, at most ``limit``."""

        def is_due(order_id: UUID) -> bool:
            order = self._by_id.get(order_id)
            # An amendment may have put the date off; it has a note of its own then.
            return order is not None and order.expires_at is not None and order.expires_at <= now

        due = self._expiries.due(now, limit, is_due)
        return [self._by_id[order_id] for order_id in dict.fromkeys(due)]

    def add(self, order: LiveOrder) -> None:
        """A new open order, after its COMMIT (the book has it already)."""
        instrument = self._instruments[order.plan_id]
        instrument.orders[order.seq] = order
        instrument.counts[order.party_id] = instrument.counts.get(order.party_id, 0) + 1
        self._by_id[order.id] = order
        if order.expires_at is not None:
            self._expiries.add(order.expires_at, order.seq, order.id)

    def revise(self, order: LiveOrder, terms: Terms) -> None:
        """New terms of an order, after their COMMIT (the book has them already)."""
        order.price, order.lots, order.rank = terms.price, terms.lots, terms.rank
        order.post_only = terms.post_only
        if terms.expires_at != order.expires_at:
            order.expires_at = terms.expires_at
            if terms.expires_at is not None and order.id in self._by_id:
                self._expiries.add(terms.expires_at, order.seq, order.id)

    def remove(self, order: LiveOrder) -> None:
        """A closed order, after its COMMIT."""
        instrument = self._instruments[order.plan_id]
        del instrument.orders[order.seq]
        count = instrument.counts.pop(order.party_id)
        if count > 1:
            instrument.counts[order.party_id] = count - 1
        del self._by_id[order.id]
        self._expiries.sweep(len(self._by_id), self._by_id.__contains__)

    def drop(self, plan_ids: Iterable[UUID]) -> None:
        """Forget instruments whose books a failed batch has touched, and what it decided."""
        self._controls_stale = True
        for plan_id in plan_ids:
            instrument = self._instruments.pop(plan_id, None)
            if instrument is not None:
                for order in instrument.orders.values():
                    self._by_id.pop(order.id, None)
            self._halted.discard(plan_id)
            self._dropped[plan_id] = None

    def clear(self) -> None:
        """Forget everything (the lease is lost)."""
        self._instruments.clear()
        self._by_id.clear()
        self._expiries.clear()
        self._owners.clear()
        self._names.clear()
        self._halted.clear()
        self._dropped.clear()
        self.controls = Controls()
        self.indicatives.clear()
        self._controls_stale = False

    async def load(self, connection: Connection, plan_ids: Iterable[UUID]) -> None:
        """Read ``plan_ids`` and all that was dropped unless in memory; prove each checksum."""
        if self._controls_stale:
            self.controls = await control_sql.load(connection)
            self.govern(self.controls)
            self.indicatives.clear()
            self._controls_stale = False
        wanted = dict.fromkeys((*self._dropped, *plan_ids))
        missing = [plan_id for plan_id in wanted if plan_id not in self._instruments]
        if not missing:
            return
        states = await sql.read_books(connection, missing)
        for plan_id in missing:
            self._instruments[plan_id] = Instrument(plan_id)
            async with aclosing(sql.stream_open_orders(connection, plan_id)) as portions:
                async for rows in portions:
                    self._restore(rows)
            self._prove(plan_id, states.get(plan_id))
            self._dropped.pop(plan_id, None)

    async def load_all(self, connection: Connection) -> int:
        """Rebuild every book from the open orders; returns how many orders rest.

        Books that do not add up to their stored checksum are halted, the others trade on. Tells
        its progress in the log.
        """
        self.clear()
        self.controls = await control_sql.load(connection)
        states = await sql.read_books(connection)
        total = sum(state.orders for state in states.values())
        loaded = told = 0
        async with aclosing(sql.stream_open_orders(connection)) as portions:
            async for rows in portions:
                self._restore(rows)
                loaded += len(rows)
                if loaded - told >= PROGRESS_ORDERS:
                    told = loaded
                    _log.info("books_rebuilding", orders=loaded, of_orders=total)
        # Sorted, so that the log of a rebuild is the same on every run.
        for plan_id in sorted({*self._instruments, *states}):
            self._instruments.setdefault(plan_id, Instrument(plan_id))
            self._prove(plan_id, states.get(plan_id))
        return len(self._by_id)

    def _restore(self, rows: Iterable[Record]) -> None:
        """Take open orders over, which come by plan. One loop: a restart has a million of them."""
        by_id, note_expiry = self._by_id, self._expiries.add
        instrument: Instrument | None = None
        for (
            seq,
            order_id,
            plan_id,
            party_id,
            group,
            side_name,
            price,
            lots,
            filled,
            amount,
            hold_id,
            expires_at,
            rank,
            post_only,
            self_trade_mode,
            auction_only,
            grant_id,
        ) in rows:
            if instrument is None or instrument.plan_id != plan_id:
                instrument = self._instruments.get(plan_id)
                if instrument is None:
                    instrument = self._instruments[plan_id] = Instrument(plan_id)
            side = _SIDES[side_name]
            order = LiveOrder(
                seq,
                order_id,
                instrument.plan_id,
                # One object per party, not one per order.
                self._names.setdefault(party_id, party_id),
                self._names.setdefault(group, group),
                side,
                price,
                lots,
                filled,
                int(amount or 0),
                hold_id,
                expires_at,
                rank or seq,
                post_only,
                MODES[self_trade_mode] if self_trade_mode else _NEWEST,
                auction_only,
                grant_id,
            )
            left = UNLIMITED if lots is None else lots - filled
            owner, party = self.owner(order.group), self.party(party_id)
            instrument.book.restore(seq, owner, side, price, left, order.rank, party, auction_only)
            instrument.orders[seq] = by_id[order_id] = order
            instrument.counts[order.party_id] = instrument.counts.get(order.party_id, 0) + 1
            if expires_at is not None:
                note_expiry(expires_at, seq, order_id)

    def _prove(self, plan_id: UUID, state: sql.BookRow | None) -> None:
        instrument = self._instruments[plan_id]
        instrument.sequence, instrument.checksum = 0, 0
        orders = 0
        if state is not None:
            instrument.sequence, instrument.checksum = state.sequence, state.checksum
            orders = state.orders
        if (len(instrument.book), instrument.book.checksum()) != (orders, instrument.checksum):
            _log.error(
                "book_halted",
                plan_id=str(plan_id),
                sequence=instrument.sequence,
                orders_stored=orders,
                orders_found=len(instrument.book),
            )
            self._halted.add(plan_id)
            for order in instrument.orders.values():
                self._by_id.pop(order.id, None)
        else:
            enter(instrument.book, self.controls.phase(plan_id))


MODES: dict[str, SelfTrade] = {
    SelfTradeMode.CANCEL_NEWEST: SelfTrade.CANCEL_NEWEST,
    SelfTradeMode.CANCEL_OLDEST: SelfTrade.CANCEL_OLDEST,
    SelfTradeMode.CANCEL_BOTH: SelfTrade.CANCEL_BOTH,
    SelfTradeMode.DECREMENT: SelfTrade.DECREMENT,
}
_NEWEST = SelfTrade.CANCEL_NEWEST
_SIDES = {OrderSide.BUY.value: Side.BUY, OrderSide.SELL.value: Side.SELL}
