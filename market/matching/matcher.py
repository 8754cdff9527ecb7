"""One batch in memory: applies steps to the books and notes what must become durable.

No I/O. Books change at once; live orders do not, so that forgetting the touched books
(:meth:`market.matching.shard.Shard.drop`) undoes a failed batch completely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from market.kernel.ids import new_id
from market.matching.admission import Admitted
from market.matching.marks import add_marks, order_mark
from market.matching.models import CloseReason, OrderSide, OrderStatus, TimeInForceName
from market.matching.phases import enter
from market.matching.shard import LiveOrder, Shard
from market.matching.terms import UNLIMITED, Fill, Outcome, Phase, Side, TimeInForce

SIDES = {OrderSide.BUY: Side.BUY, OrderSide.SELL: Side.SELL}
_TIFS = {
    TimeInForceName.GTC: TimeInForce.GTC,
    TimeInForceName.IOC: TimeInForce.IOC,
    TimeInForceName.FOK: TimeInForce.FOK,
}
_CLOSED = {
    Outcome.REMAINDER_CANCELLED: (OrderStatus.CANCELLED, CloseReason.IOC_REMAINDER),
    Outcome.KILLED: (OrderStatus.CANCELLED, CloseReason.FOK_UNFILLABLE),
    Outcome.WOULD_CROSS: (OrderStatus.REJECTED, CloseReason.POST_ONLY_WOULD_CROSS),
    Outcome.SELF_TRADE: (OrderStatus.CANCELLED, CloseReason.SELF_TRADE),
}


class Match(NamedTuple):
    """A trade to be: it forms ``agreement_id``."""

    trade_id: UUID
    agreement_id: UUID
    taker: Touched
    maker: Touched
    lots: int
    price: int

    @property
    def buy(self) -> Touched:
        return self.taker if self.taker.order.side is Side.BUY else self.maker

    @property
    def sell(self) -> Touched:
        return self.maker if self.taker.order.side is Side.BUY else self.taker

    @property
    def amount(self) -> int:
        """Minor units."""
        return self.lots * self.price

    @property
    def terms(self) -> Admitted:
        """Plan and listing of the trade: those that the taker was admitted under."""
        assert self.taker.admitted is not None
        return self.taker.admitted

    @property
    def currency(self) -> str:
        return self.terms.plan.currency


@dataclass(slots=True, eq=False)
class Touched:
    """An order that this batch changes, with its state after it. ``admitted`` for a new one."""

    order: LiveOrder
    admitted: Admitted | None
    filled: int
    amount: int
    status: OrderStatus
    hold_id: UUID | None
    reason: CloseReason | None = None
    closed_seq: int | None = None
    matches: list[Match] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Lots that still rest; only asked of limited orders."""
        assert self.order.lots is not None
        return self.order.lots - self.filled

    def close(self, status: OrderStatus, reason: CloseReason | None, *, seq: int) -> None:
        """End the order at input sequence ``seq``."""
        self.status, self.reason, self.closed_seq = status, reason, seq


class Matcher:
    """Steps of one batch, in input order."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.touched: dict[UUID, Touched] = {}
        self.matches: list[Match] = []
        self._by_seq: dict[int, Touched] = {}
        self._marks: dict[UUID, int] = {}

    @property
    def changes(self) -> dict[UUID, int]:
        """Touched plans with the change of their checksum."""
        return self._marks

    def place(self, admitted: Admitted, *, seq: int) -> Touched:
        """Match a new order. Raises BookHalted and then changes nothing."""
        body = admitted.place.body
        instrument = self._shard.instrument(admitted.plan.id)
        order = LiveOrder(
            seq=seq,
            id=admitted.place.order_id,
            plan_id=admitted.plan.id,
            party_id=admitted.place.party_id,
            group=admitted.group,
            side=SIDES[body.side],
            price=body.limit_minor,
            lots=body.lots,
            filled=0,
            amount=0,
            hold_id=new_id() if admitted.reserve_minor else None,
            expires_at=admitted.expires_at,
            grant_id=body.grant_id,
        )
        taker = Touched(order, admitted, 0, 0, OrderStatus.OPEN, order.hold_id)
        self.touched[order.id] = self._by_seq[seq] = taker
        fills: list[Fill] = []
        outcome = instrument.book.submit(
            seq,
            self._shard.owner(order.group),
            order.side,
            order.price,
            order.left,
            _TIFS[body.effective_tif],
            fills,
            post_only=body.post_only,
        )
        for fill in fills:
            self._fill(taker, fill, seq)
        if outcome is Outcome.RESTING:
            resting = instrument.book.left(seq)
            self._mark(order.plan_id, order_mark(seq, order.side, order.price, resting))
        elif outcome is Outcome.FILLED:
            taker.close(OrderStatus.FILLED, None, seq=seq)
        else:
            taker.close(*_CLOSED[outcome], seq=seq)
        return taker

    def cancel(self, order: LiveOrder, reason: CloseReason, *, seq: int) -> Touched | None:
        """Take an open order out; None when this batch has filled or cancelled it already."""
        instrument = self._shard.instrument(order.plan_id)
        left = instrument.book.cancel(order.seq)
        if not left:
            return None
        self._mark(order.plan_id, -order_mark(order.seq, order.side, order.price, left))
        touched = self._touch(order)
        touched.close(OrderStatus.CANCELLED, reason, seq=seq)
        return touched

    def enter(self, plan_id: UUID, phase: Phase) -> None:
        """Bring a book that does not cross into a phase. Raises BookHalted."""
        enter(self._shard.instrument(plan_id).book, phase)

    def opened(self, party_id: UUID, plan_id: UUID) -> int:
        """By how many this batch has changed the party's open orders on an instrument."""
        return sum(
            touched.status.is_open - (touched.admitted is None)
            for touched in self.touched.values()
            if touched.order.party_id == party_id and touched.order.plan_id == plan_id
        )

    def _fill(self, taker: Touched, fill: Fill, seq: int) -> None:
        _, maker_seq, price, lots, left = fill
        plan_id = taker.order.plan_id
        maker = self._by_seq.get(maker_seq)
        if maker is None:
            maker = self._touch(self._shard.instrument(plan_id).orders[maker_seq])
        if left != UNLIMITED:
            side = maker.order.side
            before = order_mark(maker_seq, side, price, left + lots)
            self._mark(plan_id, order_mark(maker_seq, side, price, left) - before)
        match = Match(new_id(), new_id(), taker, maker, lots, price)
        self.matches.append(match)
        for touched in (taker, maker):
            touched.filled += lots
            touched.amount += lots * price
            touched.status = OrderStatus.PARTIALLY_FILLED
            touched.matches.append(match)
        if not left:
            maker.close(OrderStatus.FILLED, None, seq=seq)

    def _touch(self, order: LiveOrder) -> Touched:
        touched = self.touched.get(order.id)
        if touched is None:
            status = OrderStatus.PARTIALLY_FILLED if order.filled else OrderStatus.OPEN
            touched = Touched(order, None, order.filled, order.amount, status, order.hold_id)
            self.touched[order.id] = self._by_seq[order.seq] = touched
        return touched

    def _mark(self, plan_id: UUID, change: int) -> None:
        self._marks[plan_id] = self._marks.get(plan_id, 0) + change

    def checksum(self, plan_id: UUID) -> int:
        """The checksum that the plan's book must have after this batch."""
        return add_marks(self._shard.instrument(plan_id).checksum, self._marks[plan_id])
