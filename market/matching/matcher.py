"""One batch in memory: applies steps to the books and notes what must become durable.

No I/O. Books change at once; live orders do not, so that forgetting the touched books
(:meth:`market.matching.shard.Shard.drop`) undoes a failed batch completely.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from market.matching.admission import Admitted
from market.matching.desk import Desk, Step
from market.matching.errors import InstrumentClosed, OrderClosed, PostOnlyWouldCross
from market.matching.journal import Journal
from market.matching.marks import add_marks
from market.matching.models import CloseReason, OrderSide, OrderStatus, TimeInForceName
from market.matching.shard import MODES, LiveOrder, Shard
from market.matching.terms import UNLIMITED, Cut, Fill, Outcome, Phase, SelfTrade, Side, TimeInForce
from market.matching.touched import Match, Offer, Touched

if TYPE_CHECKING:
    from market.matching.amendments import Change

SIDES = {OrderSide.BUY: Side.BUY, OrderSide.SELL: Side.SELL}
TIFS = {
    TimeInForceName.GTC: TimeInForce.GTC,
    TimeInForceName.GTD: TimeInForce.GTC,
    TimeInForceName.IOC: TimeInForce.IOC,
    TimeInForceName.FOK: TimeInForce.FOK,
    TimeInForceName.AUCTION: TimeInForce.AUCTION,
}
_CLOSED = {
    Outcome.FILLED: (OrderStatus.FILLED, None),
    Outcome.REMAINDER_CANCELLED: (OrderStatus.CANCELLED, CloseReason.IOC_REMAINDER),
    Outcome.KILLED: (OrderStatus.CANCELLED, CloseReason.FOK_UNFILLABLE),
    Outcome.BELOW_MINIMUM: (OrderStatus.CANCELLED, CloseReason.BELOW_MINIMUM),
    Outcome.WOULD_CROSS: (OrderStatus.REJECTED, CloseReason.POST_ONLY_WOULD_CROSS),
    Outcome.SELF_TRADE: (OrderStatus.CANCELLED, CloseReason.SELF_TRADE),
}


_NOT_AMENDED: dict[Outcome, type[MarketError]] = {
    Outcome.UNKNOWN: OrderClosed,
    Outcome.WOULD_CROSS: PostOnlyWouldCross,
    Outcome.WRONG_PHASE: InstrumentClosed,
}


class Matcher:
    """Steps of one batch, in input order."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._desk = Desk(shard)
        self.touched: dict[UUID, Touched] = {}
        self.matches: list[Match] = []
        self._by_seq: dict[int, Touched] = {}
        self._marks: dict[UUID, int] = {}

    @property
    def changes(self) -> dict[UUID, int]:
        """Touched plans with the change of their checksum."""
        return self._marks

    @property
    def journal(self) -> Journal:
        """Every step that the books were given."""
        return self._desk.journal

    def place(self, admitted: Admitted, *, seq: int) -> Touched:
        """Match a new order. Raises BookHalted or InstrumentClosed and then changes nothing."""
        body = admitted.place.body
        tif = body.effective_tif
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
            rank=seq,
            post_only=body.post_only,
            prevent_by=MODES[body.self_trade_prevention],
            auction_only=tif is TimeInForceName.AUCTION,
            grant_id=body.grant_id,
        )
        step = self._desk.submit(order, tif=TIFS[tif], minimum=body.min_lots or 0)
        if step.outcome is Outcome.WRONG_PHASE:
            raise InstrumentClosed(param="plan_id")
        taker = Touched(order, admitted, 0, 0, OrderStatus.OPEN, order.hold_id)
        self.touched[order.id] = self._by_seq[seq] = taker
        self._take(taker, admitted, step, seq)
        if step.outcome is Outcome.RESTING:
            self._mark(order.plan_id, taker.mark(self._desk.left(order)))
        return taker

    def cancel(self, order: LiveOrder, reason: CloseReason, *, seq: int) -> Touched | None:
        """Take an open order out; None when this batch has filled or cancelled it already."""
        left = self._desk.cancel(order)
        if not left:
            return None
        touched = self._touch(order)
        self._mark(order.plan_id, -touched.mark(left))
        touched.close(OrderStatus.CANCELLED, reason, seq=seq)
        return touched

    def amend(
        self, order: LiveOrder, change: Change, currency: str, offer: Offer | None, *, seq: int
    ) -> Touched:
        """Give a resting order other terms; it may trade, rest elsewhere or end.

        Without an ``offer`` it must be a reduction, which cannot trade. Raises OrderClosed,
        PostOnlyWouldCross, InstrumentClosed or BookHalted, and has then changed nothing.
        """
        before = self._desk.left(order)
        step = self._desk.amend(
            order, rank=seq, price=change.price, lots=change.left, post_only=change.post_only
        )
        refusal = _NOT_AMENDED.get(step.outcome)
        if refusal is not None:
            raise refusal()
        touched = self._touch(order)
        self._mark(order.plan_id, -touched.mark(before))
        if step.outcome is Outcome.CANCELLED:
            touched.close(OrderStatus.CANCELLED, CloseReason.REQUESTED, seq=seq)
            return touched
        revision = touched.revise(currency)
        revision.price, revision.lots = change.price, change.lots
        revision.post_only, revision.expires_at = change.post_only, change.expires_at
        revision.amendments += 1
        revision.amended_by = change.command_id
        if step.outcome is not Outcome.AMENDED:
            assert offer is not None, "an order that keeps its place does not trade"
            revision.rank = seq
            self._take(touched, offer, step, seq)
        self._mark(order.plan_id, touched.mark(self._desk.left(order)))
        return touched

    def _take(self, taker: Touched, terms: Admitted | Offer, step: Step, seq: int) -> None:
        """Note what an entering order traded and cut, and how it ended unless it rests."""
        for fill in step.fills:
            self._fill(taker, terms, fill, seq)
        if step.cuts:
            self._cut(taker, terms.plan.currency, step, seq)
        if step.outcome is not Outcome.RESTING:
            taker.close(*_CLOSED[step.outcome], seq=seq)

    def enter(self, plan_id: UUID, phase: Phase) -> None:
        """Bring a book that does not cross into a phase. Raises BookHalted."""
        self._desk.enter(plan_id, phase)

    def uncross(self, plan_id: UUID, reference: int, terms: Offer, *, seq: int) -> None:
        """Trade a call auction at its one price; end its auction-only orders. Raises BookHalted.

        Of each pair the later order is the taker.
        """
        done = self._desk.uncross(plan_id, reference)
        for buy_seq, sell_seq, lots, buy_left, sell_left in done.executions:
            assert done.clearing is not None
            buy, sell = self._resting(plan_id, buy_seq), self._resting(plan_id, sell_seq)
            for touched, left in ((buy, buy_left), (sell, sell_left)):
                if left != UNLIMITED:
                    self._mark(plan_id, touched.mark(left) - touched.mark(left + lots))
            bought_last = buy.order.rank > sell.order.rank
            taker, maker = (buy, sell) if bought_last else (sell, buy)
            self._trade(taker, maker, lots, done.clearing.price, terms)
            for touched, left in ((buy, buy_left), (sell, sell_left)):
                if not left:
                    touched.close(OrderStatus.FILLED, None, seq=seq)
        for _, order_seq, _, lots, _ in done.cancelled:
            ended = self._resting(plan_id, order_seq)
            self._mark(plan_id, -ended.mark(lots))
            ended.close(OrderStatus.CANCELLED, CloseReason.AUCTION_ENDED, seq=seq)

    def opened(self, party_id: UUID, plan_id: UUID) -> int:
        """By how many this batch has changed the party's open orders on an instrument."""
        return sum(
            touched.status.is_open - (touched.admitted is None)
            for touched in self.touched.values()
            if touched.order.party_id == party_id and touched.order.plan_id == plan_id
        )

    def _fill(self, taker: Touched, terms: Admitted | Offer, fill: Fill, seq: int) -> None:
        _, maker_seq, price, lots, left = fill
        maker = self._resting(taker.order.plan_id, maker_seq)
        if left != UNLIMITED:
            self._mark(maker.order.plan_id, maker.mark(left) - maker.mark(left + lots))
        self._trade(taker, maker, lots, price, terms)
        if not left:
            maker.close(OrderStatus.FILLED, None, seq=seq)

    def _trade(
        self, taker: Touched, maker: Touched, lots: int, price: int, terms: Admitted | Offer
    ) -> None:
        match = Match(new_id(), new_id(), taker, maker, lots, price, terms)
        self.matches.append(match)
        for touched in (taker, maker):
            touched.filled += lots
            touched.amount += lots * price
            touched.status = OrderStatus.PARTIALLY_FILLED
            touched.matches.append(match)

    def _cut(self, taker: Touched, currency: str, step: Step, seq: int) -> None:
        """What self-trade prevention took off, of resting orders and of the entering one."""
        plan_id = taker.order.plan_id
        for _, maker_seq, _, lots, left in step.cuts:
            maker = self._resting(plan_id, maker_seq)
            self._mark(plan_id, maker.mark(left) - maker.mark(left + lots))
            if left:
                _reduce(maker, lots, currency)
            else:
                maker.close(OrderStatus.CANCELLED, CloseReason.SELF_TRADE, seq=seq)
        decrements = taker.order.prevent_by is SelfTrade.DECREMENT
        if decrements and taker.lots is not None and step.outcome is not Outcome.SELF_TRADE:
            _reduce(taker, _sum(step.cuts), currency)

    def _resting(self, plan_id: UUID, seq: int) -> Touched:
        touched = self._by_seq.get(seq)
        if touched is None:
            touched = self._touch(self._shard.instrument(plan_id).orders[seq])
        return touched

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
        return add_marks(self._shard.instrument(plan_id).checksum, self._marks.get(plan_id, 0))


def _reduce(touched: Touched, lots: int, currency: str) -> None:
    revision = touched.revise(currency)
    assert revision.lots is not None
    revision.lots -= lots
    revision.cut += lots


def _sum(cuts: Iterable[Cut]) -> int:
    return sum(cut[3] for cut in cuts)
