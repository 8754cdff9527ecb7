"""The writer's memory: books, open orders, expiry order. Postgres is the truth.

Books change while a batch is matched; everything else only after its COMMIT. When a batch fails,
:meth:`Shard.drop` forgets the touched instruments and the next batch reads them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from market.kernel.logging import get_logger
from market.matching import sql
from market.matching.book import Book
from market.matching.errors import BookHalted
from market.matching.expiry import Expiries
from market.matching.models import OrderSide
from market.matching.terms import UNLIMITED, Side

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class LiveOrder:
    """An open order, as much of it as matching needs. ``lots`` None never runs out."""

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

    @property
    def left(self) -> int:
        """Lots for the book."""
        return UNLIMITED if self.lots is None else self.lots - self.filled


@dataclass(slots=True)
class Instrument:
    """The book of one plan with the state it must rebuild to."""

    plan_id: UUID
    book: Book = field(default_factory=Book)
    orders: dict[int, LiveOrder] = field(default_factory=dict)
    sequence: int = 0
    checksum: int = 0


class Shard:
    """All instruments that this writer owns."""

    def __init__(self) -> None:
        self._instruments: dict[UUID, Instrument] = {}
        self._by_id: dict[UUID, LiveOrder] = {}
        self._expiries: Expiries[UUID] = Expiries()
        self._owners: dict[UUID, int] = {}
        self._halted: set[UUID] = set()
        # A dict for its order: reloading must not depend on hash order.
        self._dropped: dict[UUID, None] = {}

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

    def instrument(self, plan_id: UUID) -> Instrument:
        """A loaded instrument. Raises BookHalted, KeyError when :meth:`load` was not called."""
        if plan_id in self._halted:
            raise BookHalted(param="plan_id")
        return self._instruments[plan_id]

    def owner(self, group: UUID) -> int:
        """The conflict group's number: affiliates share one, so they cannot trade together."""
        return self._owners.setdefault(group, len(self._owners))

    def due(self, now: datetime, limit: int) -> list[LiveOrder]:
        """Open orders whose ``expires_at`` has come, earliest first, at most ``limit``."""
        due = self._expiries.due(now, limit, self._by_id.__contains__)
        return [self._by_id[order_id] for order_id in due]

    def add(self, order: LiveOrder) -> None:
        """A new open order, after its COMMIT (the book has it already)."""
        self._instruments[order.plan_id].orders[order.seq] = order
        self._by_id[order.id] = order
        if order.expires_at is not None:
            self._expiries.add(order.expires_at, order.seq, order.id)

    def remove(self, order: LiveOrder) -> None:
        """A closed order, after its COMMIT."""
        del self._instruments[order.plan_id].orders[order.seq]
        del self._by_id[order.id]
        self._expiries.sweep(len(self._by_id), self._by_id.__contains__)

    def drop(self, plan_ids: Iterable[UUID]) -> None:
        """Forget instruments whose books a failed batch has touched."""
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
        self._halted.clear()
        self._dropped.clear()

    async def load(self, connection: Connection, plan_ids: Iterable[UUID]) -> None:
        """Read ``plan_ids`` and all dropped instruments unless in memory; prove each checksum."""
        wanted = dict.fromkeys((*self._dropped, *plan_ids))
        missing = [plan_id for plan_id in wanted if plan_id not in self._instruments]
        if not missing:
            return
        states = await sql.read_books(connection, missing)
        for plan_id in missing:
            self._instruments[plan_id] = Instrument(plan_id)
            async for row in sql.stream_open_orders(connection, plan_id):
                self._restore(row)
            self._prove(plan_id, states.get(plan_id))
            self._dropped.pop(plan_id, None)

    async def load_all(self, connection: Connection) -> int:
        """Rebuild every book from the open orders; returns how many orders rest.

        Books that do not add up to their stored checksum are halted, the others trade on.
        """
        self.clear()
        states = await sql.read_books(connection)
        async for row in sql.stream_open_orders(connection):
            self._restore(row)
        # Sorted, so that the log of a rebuild is the same on every run.
        for plan_id in sorted({*self._instruments, *states}):
            self._instruments.setdefault(plan_id, Instrument(plan_id))
            self._prove(plan_id, states.get(plan_id))
        return len(self._by_id)

    def _restore(self, row: Record) -> None:
        plan_id: UUID = row["plan_id"]
        instrument = self._instruments.get(plan_id)
        if instrument is None:
            instrument = self._instruments[plan_id] = Instrument(plan_id)
        order = LiveOrder(
            seq=row["seq"],
            id=row["id"],
            plan_id=plan_id,
            party_id=row["party_id"],
            group=row["conflict_group"],
            side=_SIDES[row["side"]],
            price=row["price_minor"],
            lots=row["lots"],
            filled=row["filled_lots"],
            amount=int(row["filled_amount_minor"]),
            hold_id=row["hold_id"],
            expires_at=row["expires_at"],
        )
        owner = self.owner(order.group)
        instrument.book.restore(order.seq, owner, order.side, order.price, order.left)
        self.add(order)

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


_SIDES = {OrderSide.BUY.value: Side.BUY, OrderSide.SELL.value: Side.SELL}
