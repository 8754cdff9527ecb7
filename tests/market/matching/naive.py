"""A book so simple that it is plainly right: one list, searched whole for every step.

It shares the words (``terms``) with the real book and nothing else. Fill-or-kill and minimum
quantity are tried on a copy; the auction price is found by trying every price there is.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from market.matching.terms import (
    UNLIMITED,
    Cut,
    Execution,
    Fill,
    Outcome,
    Phase,
    Resting,
    SelfTrade,
    Side,
    TimeInForce,
)


@dataclass
class NaiveOrder:
    ref: int
    owner: int
    side: int
    price: int
    lots: int
    rank: int
    party: int
    auction_only: bool = False


def best_first(side: int, orders: list[NaiveOrder]) -> list[NaiveOrder]:
    sign = 1 if side == Side.SELL else -1
    return sorted((o for o in orders if o.side == side), key=lambda o: (o.price * sign, o.rank))


@dataclass
class NaiveBook:
    """Orders in no particular order; the best is found by comparing all of them."""

    orders: list[NaiveOrder] = field(default_factory=list)
    phase: Phase = Phase.CONTINUOUS

    def crossing(self, side: int, price: int) -> list[NaiveOrder]:
        others = best_first(1 - side, self.orders)
        return [o for o in others if (o.price <= price if side == Side.BUY else o.price >= price)]

    def submit(
        self,
        ref: int,
        owner: int,
        side: int,
        price: int,
        lots: int,
        tif: int,
        fills: list[Fill],
        party: int = 0,
        post_only: bool = False,
        prevent_by: int = 0,
        minimum: int = 0,
        cuts: list[Cut] | None = None,
        rank: int = 0,
    ) -> Outcome:
        auction = tif == TimeInForce.AUCTION
        if self.phase is Phase.HALTED or (auction and self.phase is not Phase.CALL):
            return Outcome.WRONG_PHASE
        calling = self.phase is Phase.CALL
        if calling and (
            post_only or minimum or tif in (int(TimeInForce.IOC), int(TimeInForce.FOK))
        ):
            return Outcome.WRONG_PHASE
        if post_only and self.crossing(side, price):
            return Outcome.WOULD_CROSS
        needed = lots if tif == TimeInForce.FOK else minimum
        trial: list[Fill] = []
        deepcopy(self)._match(ref, owner, side, price, lots, prevent_by, trial, [])
        if sum(fill[3] for fill in trial) < needed:
            return Outcome.KILLED if tif == TimeInForce.FOK else Outcome.BELOW_MINIMUM
        cuts = [] if cuts is None else cuts
        left, ended = self._match(
            ref, owner, side, price, lots, prevent_by, fills, cuts, only_own=calling
        )
        if ended:
            return Outcome.SELF_TRADE
        if not left:
            return Outcome.FILLED
        if tif in (int(TimeInForce.IOC), int(TimeInForce.FOK)):
            return Outcome.REMAINDER_CANCELLED
        self.orders.append(NaiveOrder(ref, owner, side, price, left, rank or ref, party, auction))
        return Outcome.RESTING

    def _match(
        self,
        ref: int,
        owner: int,
        side: int,
        price: int,
        lots: int,
        prevent_by: int,
        fills: list[Fill],
        cuts: list[Cut],
        only_own: bool = False,
    ) -> tuple[int, bool]:
        """(lots left, whether self-trade prevention ended the order)."""
        for maker in self.crossing(side, price):
            if maker.owner == owner:
                lots, ended = self._meet_own(ref, maker, lots, prevent_by, cuts)
                if ended:
                    return lots, True
            elif not only_own:
                traded = min(lots, maker.lots)
                self._reduce(maker, traded)
                fills.append((ref, maker.ref, maker.price, traded, maker.lots))
                if lots != UNLIMITED:
                    lots -= traded
                if not lots:
                    return 0, False
        return lots, False

    def _meet_own(
        self, ref: int, maker: NaiveOrder, lots: int, prevent_by: int, cuts: list[Cut]
    ) -> tuple[int, bool]:
        if prevent_by == SelfTrade.CANCEL_NEWEST:
            return lots, True
        if prevent_by != SelfTrade.DECREMENT:
            cuts.append((ref, maker.ref, maker.price, maker.lots, 0))
            self.orders.remove(maker)
            return lots, prevent_by == SelfTrade.CANCEL_BOTH
        if maker.lots == UNLIMITED:
            return 0, True
        both = min(lots, maker.lots)
        self._reduce(maker, both)
        cuts.append((ref, maker.ref, maker.price, both, maker.lots))
        left = lots if lots == UNLIMITED else lots - both
        return left, not left

    def _reduce(self, order: NaiveOrder, lots: int) -> None:
        if order.lots != UNLIMITED:
            order.lots -= lots
        if not order.lots:
            self.orders.remove(order)

    def find(self, ref: int) -> NaiveOrder | None:
        return next((order for order in self.orders if order.ref == ref), None)

    def cancel(self, ref: int) -> int:
        order = self.find(ref)
        if order is None:
            return 0
        self.orders.remove(order)
        return order.lots

    def cancel_all(self, party: int | None = None) -> list[Cut]:
        ended = sorted(
            (o for o in self.orders if party is None or o.party == party), key=lambda o: o.rank
        )
        return [(0, o.ref, o.price, self.cancel(o.ref), 0) for o in ended]

    def amend(
        self,
        ref: int,
        rank: int,
        price: int,
        lots: int,
        fills: list[Fill],
        post_only: bool = False,
        prevent_by: int = 0,
        cuts: list[Cut] | None = None,
    ) -> Outcome:
        order = self.find(ref)
        if order is None:
            return Outcome.UNKNOWN
        if lots <= 0:
            self.orders.remove(order)
            return Outcome.CANCELLED
        if price == order.price and lots <= order.lots:
            order.lots = lots
            return Outcome.AMENDED
        before = deepcopy(self.orders)
        self.orders.remove(order)
        tif = TimeInForce.AUCTION if order.auction_only else TimeInForce.GTC
        outcome = self.submit(
            ref,
            order.owner,
            order.side,
            price,
            lots,
            tif,
            fills,
            order.party,
            post_only,
            prevent_by,
            0,
            cuts,
            rank,
        )
        if outcome in (Outcome.WRONG_PHASE, Outcome.WOULD_CROSS):
            self.orders = before
        return outcome

    def price(self, reference: int | None) -> tuple[int, int, int] | None:
        """(price, volume, surplus) of the auction, by trying all prices."""
        best: dict[int, tuple[int, int]] = {}
        limits = {order.price for order in self.orders} | ({reference} if reference else set())
        for price in sorted(limits):
            bids = sum(o.lots for o in self.orders if o.side == Side.BUY and o.price >= price)
            asks = sum(o.lots for o in self.orders if o.side == Side.SELL and o.price <= price)
            best[price] = (min(bids, asks), bids - asks)
        volume = max((found[0] for found in best.values()), default=0)
        if not volume:
            return None
        best = {price: found for price, found in best.items() if found[0] == volume}
        least = min(abs(found[1]) for found in best.values())
        best = {price: found for price, found in best.items() if abs(found[1]) == least}
        if all(surplus > 0 for _, surplus in best.values()):
            chosen = max(best)
        elif all(surplus < 0 for _, surplus in best.values()):
            chosen = min(best)
        else:
            wanted = [price for price, found in best.items() if found[1] > 0]
            offered = [price for price, found in best.items() if found[1] < 0]
            low, high = max(wanted, default=min(best)), min(offered, default=max(best))
            aim = (low + high) // 2 if reference is None else reference
            between = [price for price in best if low <= price <= high]
            chosen = min(between, key=lambda price: (abs(price - aim), price))
        return chosen, *best[chosen]

    def uncross(self, reference: int | None) -> tuple[list[Execution], list[Cut]]:
        found = self.price(reference)
        executions: list[Execution] = []
        left = 0 if found is None else found[1]
        while left:
            buy = best_first(Side.BUY, self.orders)[0]
            sell = best_first(Side.SELL, self.orders)[0]
            lots = min(left, buy.lots, sell.lots)
            left -= lots
            self._reduce(buy, lots)
            self._reduce(sell, lots)
            executions.append(Execution(buy.ref, sell.ref, lots, buy.lots, sell.lots))
        ended = sorted((o for o in self.orders if o.auction_only), key=lambda o: o.rank)
        self.phase = Phase.CONTINUOUS
        return executions, [(0, o.ref, o.price, self.cancel(o.ref), 0) for o in ended]

    def resting(self) -> list[Resting]:
        found = [*best_first(Side.BUY, self.orders), *best_first(Side.SELL, self.orders)]
        return [
            Resting(o.ref, o.owner, Side(o.side), o.price, o.lots, o.rank, o.party, o.auction_only)
            for o in found
        ]
