"""The order book of one instrument: price-time priority, pure and deterministic.

No clock, no randomness, no set iteration, no I/O: the same calls give the same fills on every
machine. Everything is an ``int``: ``ref`` is the engine's order sequence number, ``owner`` the
number of a self-trade group (a party with its affiliates), ``party`` the party's own number,
``price`` minor units per lot (positive), ``lots`` the quantity. Time priority is arrival order at
a price, so the caller's refs, and the ranks of amendments among them, must rise; none comes twice.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, NamedTuple

from market.matching.call_auction import Clearing, clearing
from market.matching.ladder import LOTS, OWNER, PARTY, PRICE, REF, SIDE, Ladder, Order, Place
from market.matching.marks import add_marks, order_mark
from market.matching.terms import (
    UNLIMITED,
    Cut,
    Execution,
    Fill,
    Level,
    Outcome,
    Phase,
    Resting,
    SelfTrade,
    Side,
    TimeInForce,
)

# Attribute access on an enum class is slow in Python 3.11, globals are not; and the interpreter
# has fast comparisons of plain ints with each other, but asks an int at length if it is true.
_FOK: Final = int(TimeInForce.FOK)
_GTC: Final = int(TimeInForce.GTC)
_AUCTION: Final = int(TimeInForce.AUCTION)
_CONTINUOUS: Final = Phase.CONTINUOUS
# Below this many a sweep costs more than the dead orders it frees.
_SWEEP_MIN: Final = 256

_FILLED: Final = Outcome.FILLED
_RESTING: Final = Outcome.RESTING
_REMAINDER_CANCELLED: Final = Outcome.REMAINDER_CANCELLED
_SELF_TRADE: Final = Outcome.SELF_TRADE


class Uncrossing(NamedTuple):
    """All of a call auction's trades, at one price, and the auction-only orders that it ended."""

    clearing: Clearing | None
    executions: list[Execution]
    cancelled: list[Cut]


class Book:
    """Resting orders of one instrument. One call, one step; no call leaves it half changed."""

    __slots__ = ("_asks", "_auction_only", "_bids", "_dead", "_orders", "_own", "_phase", "_ranks")

    def __init__(self) -> None:
        self._orders: dict[Place, Order] = {}
        self._bids = Ladder(-1, self._orders)
        self._asks = Ladder(1, self._orders)
        # The ranks of orders whose priority an amendment changed; the others have their ref's.
        self._ranks: dict[int, int] = {}
        # Places that died in their queues since the last sweep: an upper bound of those in there.
        self._dead = 0
        self._phase: Phase = Phase.CONTINUOUS
        # Places of auction-only orders, some of them gone. A dict for its order.
        self._auction_only: dict[Place, None] = {}
        # In a call auction: the places of each group's orders, some of them gone.
        self._own: dict[int, list[Place]] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, ref: int) -> bool:
        return self._place(ref) in self._orders

    def _place(self, ref: int) -> Place:
        rank = self._ranks.get(ref)
        return ref if rank is None else -rank

    @property
    def phase(self) -> Phase:
        """What the book does with incoming orders."""
        return self._phase

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
        """Match an incoming order, rest what GTC leaves, append its fills to ``fills``.

        ``price`` is the limit, or the protection price of a market order (sent as IOC or FOK).
        ``lots`` may be ``UNLIMITED`` for a GTC sell. Fills happen at the resting price, best
        price first, then first come. Unless ``minimum`` lots can trade at once, nothing happens.
        ``prevent_by`` is a ``SelfTrade`` mode (0: cancel newest); every other mode needs
        ``cuts``, which takes what it took off resting orders. ``rank``: :meth:`amend`'s.
        Positional, because this is the hot path.
        """
        if side:
            own, other, key, limit = self._asks, self._bids, price, -price
        else:
            own, other, key, limit = self._bids, self._asks, -price, price
        if tif > 1 or post_only or minimum > 0 or self._phase is not _CONTINUOUS:
            if self._phase or tif == _AUCTION:
                if post_only or minimum:
                    return Outcome.WRONG_PHASE
                order = (lots, owner, ref, side, price, party)
                return self._collect(order, rank, limit, tif, prevent_by, cuts)
            refusal = _refusal(other, limit, lots, tif, owner, prevent_by, minimum, post_only)
            if refusal is not None:
                return refusal
        heap = other.heap
        if heap and heap[0] <= limit:
            lots = self._take(ref, other, owner, limit, lots, fills, prevent_by, cuts)
            if lots <= 0:
                return _FILLED if lots == 0 else _SELF_TRADE
        if tif > 0:
            return _REMAINDER_CANCELLED
        if rank > 0:
            self._rest((lots, owner, ref, side, price, party), rank)
            return _RESTING
        self._orders[ref] = (lots, owner, ref, side, price, party)
        # ``Ladder.add`` without its call.
        queues = own.queues
        if key in queues:
            queues[key].append(ref)
        else:
            queues[key] = [ref]
            heappush(own.heap, key)
        return _RESTING

    def _take(
        self,
        ref: int,
        other: Ladder,
        owner: int,
        limit: int,
        lots: int,
        fills: list[Fill],
        prevent_by: int,
        cuts: list[Cut] | None,
    ) -> int:
        """Trade against ``other`` up to ``limit``: the lots left, or -1 at an own order."""
        orders, heap, queues = self._orders, other.heap, other.queues
        while heap and heap[0] <= limit:
            key = heap[0]
            gone = 0
            for place in queues[key]:
                order = orders.get(place)
                if order is None:
                    gone += 1
                    continue
                available, group, maker, side, price, party = order
                if group == owner:
                    lots = self._prevent(ref, place, order, lots, prevent_by, cuts)
                    if lots < 0:
                        break
                elif lots < available:
                    if available < UNLIMITED:
                        available -= lots
                        orders[place] = (available, group, maker, side, price, party)
                    fills.append((ref, maker, price, lots, available))
                    lots = 0
                    break
                else:
                    del orders[place]
                    if place < 0:
                        del self._ranks[maker]
                    fills.append((ref, maker, price, available, 0))
                    if lots == available:
                        gone += 1
                        lots = 0
                        break
                    if lots < UNLIMITED:
                        lots -= available
                gone += 1
            else:
                del queues[heappop(heap)]
                continue
            if gone > 0:
                other.drop(key, gone)
            break
        return lots

    def _prevent(
        self,
        ref: int,
        place: Place,
        order: Order,
        lots: int,
        prevent_by: int,
        cuts: list[Cut] | None,
    ) -> int:
        """Keep ``lots`` from trading with an own order: the lots left, or -1 when they must end.

        A dead order's place stays in its queue. Raises ValueError without a list for cuts.
        """
        if prevent_by == SelfTrade.CANCEL_NEWEST:
            return -1
        if cuts is None:
            raise ValueError("this self-trade mode needs a list for its cuts")
        available, price = order[LOTS], order[PRICE]
        if prevent_by == SelfTrade.DECREMENT and lots < available:
            if available < UNLIMITED:
                self._orders[place] = (available - lots, *order[OWNER:])
                cuts.append((ref, order[REF], price, lots, available - lots))
            return -1
        self._remove(place, order)
        cuts.append((ref, order[REF], price, available, 0))
        if prevent_by == SelfTrade.CANCEL_OLDEST:
            return lots
        if prevent_by == SelfTrade.CANCEL_BOTH or lots == available:
            return -1
        return lots if lots == UNLIMITED else lots - available

    def _remove(self, place: Place, order: Order) -> None:
        del self._orders[place]
        if place < 0:
            del self._ranks[order[REF]]
        self._dead += 1

    def cancel(self, ref: int) -> int:
        """Take a resting order out. Returns the lots it still had, 0 when the ref is unknown.

        Late cancels (of a filled order) are normal traffic, not errors (golden scenario G14).
        """
        order = self._orders.pop(ref, None)
        if order is None:
            if ref not in self._ranks:
                return 0
            order = self._orders.pop(-self._ranks.pop(ref))
        self._dead = dead = self._dead + 1
        if dead > _SWEEP_MIN and dead > len(self._orders):
            self._bids.sweep()
            self._asks.sweep()
            self._dead = 0
        return order[LOTS]

    def cancel_all(self, party: int | None = None) -> list[Cut]:
        """Take out all orders, or those of one party, in time priority. O(resting orders)."""
        items = self._orders.items()
        return self._cut([place for place, o in items if party is None or o[PARTY] == party])

    def _cut(self, places: list[Place]) -> list[Cut]:
        # A place is a rank but for its sign.
        found = [self._orders[place] for place in sorted(places, key=abs)]
        return [(0, o[REF], o[PRICE], self.cancel(o[REF]), 0) for o in found]

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
        """Give a resting order another price or quantity; ``lots`` are those still to trade.

        Fewer lots at the same price keep priority (``AMENDED``); anything else leaves the queue
        and enters as a new order would, at time ``rank``, and may trade. No lots cancel it.
        ``WOULD_CROSS`` and ``WRONG_PHASE`` leave the order as it was. The other arguments are
        :meth:`submit`'s.
        """
        place = self._place(ref)
        order = self._orders.get(place)
        if order is None:
            return Outcome.UNKNOWN
        if lots <= 0:
            self.cancel(ref)
            return Outcome.CANCELLED
        had, owner, _, side, at, party = order
        if price == at and lots <= had:
            self._orders[place] = (lots, owner, ref, side, price, party)
            return Outcome.AMENDED
        if self._phase is Phase.HALTED or (post_only and self._phase):
            return Outcome.WRONG_PHASE
        if post_only:
            best = self.best(1 - side)
            if best is not None and (best >= price if side else best <= price):
                return Outcome.WOULD_CROSS
        tif = _AUCTION if place in self._auction_only else _GTC
        self.cancel(ref)
        return self.submit(
            ref, owner, side, price, lots, tif, fills, party, False, prevent_by, 0, cuts, rank
        )

    def halt(self) -> None:
        """Take no more orders; cancels and reductions stay possible."""
        self._phase = Phase.HALTED
        self._own = {}

    def open_call(self) -> None:
        """Collect orders for a call auction: they rest, even across the other side."""
        self._phase = Phase.CALL
        self._own = {}
        for place, order in self._orders.items():
            self._own.setdefault(order[OWNER], []).append(place)

    def indicative(self, reference: int | None) -> Clearing | None:
        """What :meth:`uncross` would do now; None when nothing crosses."""
        bid, ask = self.best(Side.BUY), self.best(Side.SELL)
        if bid is None or ask is None or bid < ask:
            return None
        return clearing(
            self._bids.aggregated(-ask),
            self._asks.aggregated(bid),
            reference,
        )

    def uncross(self, reference: int | None) -> Uncrossing:
        """End the call auction (or a halt) at the indicative price and trade continuously.

        Pairs orders by price, then time, on either side. Auction-only orders are cancelled, all
        others rest. Self-trades cannot occur: crossing orders of one group met on entry.
        """
        found = self.indicative(reference)
        executions: list[Execution] = []
        left = 0 if found is None else found.volume
        while left:
            buy, sell = self._bids.head(), self._asks.head()
            assert buy is not None, "the volume is wanted"
            assert sell is not None, "the volume is offered"
            bid, ask = buy[1], sell[1]
            lots = min(left, bid[LOTS], ask[LOTS])
            executions.append(
                Execution(bid[REF], ask[REF], lots, self._fill(*buy, lots), self._fill(*sell, lots))
            )
            left -= lots
        cancelled = self._cut([place for place in self._auction_only if place in self._orders])
        self._phase = Phase.CONTINUOUS
        self._own, self._auction_only = {}, {}
        return Uncrossing(found, executions, cancelled)

    def _fill(self, place: Place, order: Order, lots: int) -> int:
        """Take traded lots off a resting order: what it keeps."""
        left = order[LOTS] - lots
        if order[LOTS] == UNLIMITED:
            return UNLIMITED
        if left:
            self._orders[place] = (left, *order[OWNER:])
        else:
            self.cancel(order[REF])
        return left

    def _collect(
        self,
        order: Order,
        rank: int,
        limit: int,
        tif: int,
        prevent_by: int,
        cuts: list[Cut] | None,
    ) -> Outcome:
        """Rest an order until the auction ends, if it can wait for that."""
        if self._phase is not Phase.CALL or tif not in (_GTC, _AUCTION):
            return Outcome.WRONG_PHASE
        orders = self._orders
        own = [place for place in self._own.get(order[OWNER], ()) if place in orders]
        self._own[order[OWNER]] = own
        sign = 1 if order[SIDE] == Side.BUY else -1
        crossed = [
            place
            for place in own
            if orders[place][SIDE] != order[SIDE] and orders[place][PRICE] * sign <= limit
        ]
        crossed.sort(key=lambda place: (orders[place][PRICE] * sign, abs(place)))
        lots = order[LOTS]
        for place in crossed:
            # Prevented on entry, no pair of one group crosses when the auction ends.
            lots = self._prevent(order[REF], place, orders[place], lots, prevent_by, cuts)
            if lots < 0:
                return _SELF_TRADE
        own.append(self._rest((lots, *order[OWNER:]), rank, tif == _AUCTION))
        return _RESTING

    def restore(
        self,
        ref: int,
        owner: int,
        side: int,
        price: int,
        lots: int,
        rank: int | None = None,
        party: int = 0,
        auction_only: bool = False,
    ) -> None:
        """Rest an order without matching, for a rebuild in rising rank (by default the ref)."""
        moved = 0 if rank is None or rank == ref else rank
        self._rest((lots, owner, ref, int(side), price, party), moved, auction_only)

    def _rest(self, order: Order, rank: int = 0, auction_only: bool = False) -> Place:
        ref, side, price = order[REF], order[SIDE], order[PRICE]
        place = ref
        if rank:
            self._ranks[ref], place = rank, -rank
        self._orders[place] = order
        if side:
            self._asks.add(price, place)
        else:
            self._bids.add(-price, place)
        if auction_only:
            self._auction_only[place] = None
        return place

    def quote(
        self, side: int, price: int, lots: int, owner: int, prevent_by: int = 0
    ) -> tuple[int, int]:
        """(lots, amount in minor units) that an incoming order would trade at once."""
        if self._phase:
            return 0, 0
        if side:
            return self._bids.walk(-price, lots, owner, prevent_by)
        return self._asks.walk(price, lots, owner, prevent_by)

    def left(self, ref: int) -> int:
        """Lots still resting under ``ref`` (``UNLIMITED`` for a posted price), 0 when unknown."""
        order = self._orders.get(self._place(ref))
        return 0 if order is None else order[LOTS]

    def best(self, side: int) -> int | None:
        """The best price of a side, or None when it is empty."""
        head = (self._asks if side else self._bids).head()
        return None if head is None else head[1][PRICE]

    def depth(self, side: int, levels_max: int) -> list[Level]:
        """The aggregated book of a side, best price first, at most ``levels_max`` levels.

        O(orders in them): a feed that keeps levels up to date adds up what the calls report.
        """
        return (self._asks if side else self._bids).depth(levels_max)

    def resting(self) -> Iterator[Resting]:
        """Every living order, bids then asks, in priority order."""
        for side, ladder in ((Side.BUY, self._bids), (Side.SELL, self._asks)):
            for price, places in ladder.ascending():
                for place in places:
                    lots, owner, ref, _, _, party = self._orders[place]
                    late = place in self._auction_only
                    yield Resting(ref, owner, side, price, lots, abs(place), party, late)

    def checksum(self) -> int:
        """63-bit sum of ``order_mark`` over the living orders."""
        total = 0
        late = self._auction_only
        for place, (lots, _, ref, side, price, _) in self._orders.items():
            total += order_mark(ref, side, price, lots, abs(place), place in late)
        return add_marks(0, total)


def _refusal(
    other: Ladder,
    limit: int,
    lots: int,
    tif: int,
    owner: int,
    prevent_by: int,
    minimum: int,
    post_only: bool,
) -> Outcome | None:
    """Why an order with conditions does not enter, None when it does."""
    if post_only:
        best = other.head()
        if best is not None and best[1][PRICE] * other.sign <= limit:
            return Outcome.WOULD_CROSS
    needed = lots if tif == _FOK else minimum
    if needed and other.walk(limit, lots, owner, prevent_by)[0] < needed:
        return Outcome.KILLED if tif == _FOK else Outcome.BELOW_MINIMUM
    return None
