"""A book so simple that it is plainly right: one list, searched whole for every step."""

from dataclasses import dataclass, field

from market.matching.terms import UNLIMITED, Fill, Outcome, Side, TimeInForce


@dataclass
class NaiveOrder:
    ref: int
    owner: int
    side: int
    price: int
    lots: int


@dataclass
class NaiveBook:
    """Orders in arrival order; the best is found by comparing all of them."""

    orders: list[NaiveOrder] = field(default_factory=list)

    def _crossing(self, side: int, price: int) -> list[NaiveOrder]:
        if side == Side.BUY:
            found = [o for o in self.orders if o.side == Side.SELL and o.price <= price]
            return sorted(found, key=lambda order: (order.price, order.ref))
        found = [o for o in self.orders if o.side == Side.BUY and o.price >= price]
        return sorted(found, key=lambda order: (-order.price, order.ref))

    def submit(
        self,
        ref: int,
        owner: int,
        side: int,
        price: int,
        lots: int,
        tif: int,
        fills: list[Fill],
        post_only: bool = False,
    ) -> Outcome:
        crossing = self._crossing(side, price)
        if post_only and crossing:
            return Outcome.WOULD_CROSS
        if tif == TimeInForce.FOK and _reachable(crossing, owner) < lots:
            return Outcome.KILLED
        for maker in crossing:
            if maker.owner == owner:
                return Outcome.SELF_TRADE
            traded = min(lots, maker.lots)
            if maker.lots != UNLIMITED:
                maker.lots -= traded
            if lots != UNLIMITED:
                lots -= traded
            fills.append((ref, maker.ref, maker.price, traded, maker.lots))
            if not maker.lots:
                self.orders.remove(maker)
            if not lots:
                return Outcome.FILLED
        if tif != TimeInForce.GTC:
            return Outcome.REMAINDER_CANCELLED
        self.orders.append(NaiveOrder(ref, owner, side, price, lots))
        return Outcome.RESTING

    def cancel(self, ref: int) -> int:
        for order in self.orders:
            if order.ref == ref:
                self.orders.remove(order)
                return order.lots
        return 0

    def resting(self) -> list[tuple[int, int, int, int, int]]:
        bids = sorted(
            (o for o in self.orders if o.side == Side.BUY), key=lambda o: (-o.price, o.ref)
        )
        asks = sorted(
            (o for o in self.orders if o.side == Side.SELL), key=lambda o: (o.price, o.ref)
        )
        return [(o.ref, o.owner, o.side, o.price, o.lots) for o in [*bids, *asks]]


def _reachable(crossing: list[NaiveOrder], owner: int) -> int:
    """Lots before the first order of the same owner."""
    lots = 0
    for order in crossing:
        if order.owner == owner:
            break
        lots += order.lots
    return lots
