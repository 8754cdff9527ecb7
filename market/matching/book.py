"""The order book of one instrument: price-time priority, pure and deterministic.

No clock, no randomness, no set iteration, no I/O: the same calls give the same fills on every
machine. Everything is an ``int``: ``ref`` is the engine's order sequence number, ``owner`` the
number of a self-trade group (a party with its affiliates), ``party`` the party's own number,
``price`` minor units per lot, ``lots`` the quantity. Time priority is arrival order at a price,
so the caller's refs, and the ranks of amendments among them, must rise.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice, takewhile
from operator import itemgetter
from typing import Final, NamedTuple

from market.matching.call_auction import Clearing, clearing
from market.matching.ladder import KEY, LOTS, OWNER, PARTY, RANK, REF, SIDE, Ladder, Order
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
# has a fast comparison for plain ints only.
_FOK: Final = int(TimeInForce.FOK)
_GTC: Final = int(TimeInForce.GTC)
_AUCTION: Final = int(TimeInForce.AUCTION)
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

    __slots__ = ("_asks", "_auction_only", "_bids", "_orders", "_own", "_phase")

    def __init__(self) -> None:
        self._bids = Ladder(-1)
        self._asks = Ladder(1)
        self._orders: dict[int, Order] = {}
        self._phase: Phase = Phase.CONTINUOUS
        # Refs of auction-only orders, some of them gone. A dict for its order.
        self._auction_only: dict[int, None] = {}
        # In a call auction: the orders of each group, some of them gone.
        self._own: dict[int, list[Order]] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, ref: int) -> bool:
        return ref in self._orders

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
        if tif > 1 or post_only or minimum or self._phase:
            if self._phase or tif == _AUCTION:
                if post_only or minimum:
                    return Outcome.WRONG_PHASE
                order = [lots, owner, ref, side, key, rank or ref, party]
                return self._collect(order, limit, tif, prevent_by, cuts)
            refusal = _refusal(other, limit, lots, tif, owner, prevent_by, minimum, post_only)
            if refusal is not None:
                return refusal
        heap = other.heap
        if heap and heap[0] <= limit:
            lots = self._take(ref, other, owner, limit, lots, fills, prevent_by, cuts)
            if not lots:
                return _FILLED
            if lots < 0:
                return _SELF_TRADE
        if tif:
            return _REMAINDER_CANCELLED
        self._orders[ref] = order = [lots, owner, ref, side, key, rank or ref, party]
        # ``Ladder.add`` without its call.
        queue = own.queues.get(key)
        if queue is None:
            own.queues[key] = [order]
            heappush(own.heap, key)
        else:
            queue.append(order)
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
        heap = other.heap
        while heap and heap[0] <= limit:
            key = heap[0]
            price = key * other.sign
            gone = 0
            for maker in other.queues[key]:
                available = maker[LOTS]
                if not available:
                    other.dead -= 1
                elif maker[OWNER] == owner:
                    lots = self._prevent(ref, maker, price, lots, prevent_by, cuts)
                    if lots < 0:
                        gone += not maker[LOTS]
                        break
                elif lots < available:
                    if available < UNLIMITED:
                        maker[LOTS] = available = available - lots
                    fills.append((ref, maker[REF], price, lots, available))
                    lots = 0
                    break
                else:
                    maker[LOTS] = 0
                    del self._orders[maker[REF]]
                    fills.append((ref, maker[REF], price, available, 0))
                    if lots == available:
                        gone += 1
                        lots = 0
                        break
                    if lots < UNLIMITED:
                        lots -= available
                gone += 1
            else:
                del other.queues[heappop(heap)]
                continue
            if gone:
                other.drop(key, gone)
            break
        return lots

    def _prevent(
        self,
        ref: int,
        maker: Order,
        price: int,
        lots: int,
        prevent_by: int,
        cuts: list[Cut] | None,
    ) -> int:
        """Keep ``lots`` from trading with an own order: the lots left, or -1 when they must end.

        A dead ``maker`` stays in its queue, uncounted. Raises ValueError without a list for cuts.
        """
        if prevent_by == SelfTrade.CANCEL_NEWEST:
            return -1
        if cuts is None:
            raise ValueError("this self-trade mode needs a list for its cuts")
        available = maker[LOTS]
        if prevent_by == SelfTrade.DECREMENT and lots < available:
            if available < UNLIMITED:
                maker[LOTS] = available - lots
                cuts.append((ref, maker[REF], price, lots, maker[LOTS]))
            return -1
        del self._orders[maker[REF]]
        maker[LOTS] = 0
        cuts.append((ref, maker[REF], price, available, 0))
        if prevent_by == SelfTrade.CANCEL_OLDEST:
            return lots
        if prevent_by == SelfTrade.CANCEL_BOTH or lots == available:
            return -1
        return lots if lots == UNLIMITED else lots - available

    def cancel(self, ref: int) -> int:
        """Take a resting order out. Returns the lots it still had, 0 when the ref is unknown.

        Late cancels (of a filled order) are normal traffic, not errors (golden scenario G14).
        """
        order = self._orders.pop(ref, None)
        if order is None:
            return 0
        left = order[LOTS]
        order[LOTS] = 0
        ladder = self._asks if order[SIDE] else self._bids
        ladder.dead = dead = ladder.dead + 1
        if dead > _SWEEP_MIN and dead > len(self._orders):
            ladder.sweep()
        return left

    def cancel_all(self, party: int | None = None) -> list[Cut]:
        """Take out all orders, or those of one party, in time priority. O(resting orders)."""
        found = [o for o in self._orders.values() if party is None or o[PARTY] == party]
        return self._cut(found)

    def _cut(self, orders: list[Order]) -> list[Cut]:
        orders.sort(key=itemgetter(RANK))
        return [(0, o[REF], abs(o[KEY]), self.cancel(o[REF]), 0) for o in orders]

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
        order = self._orders.get(ref)
        if order is None:
            return Outcome.UNKNOWN
        if lots <= 0:
            self.cancel(ref)
            return Outcome.CANCELLED
        side, had = order[SIDE], order[LOTS]
        key = price if side else -price
        if key == order[KEY] and lots <= had:
            order[LOTS] = lots
            return Outcome.AMENDED
        if self._phase is Phase.HALTED or (post_only and self._phase):
            return Outcome.WRONG_PHASE
        if post_only:
            best = (self._bids if side else self._asks).head()
            if best is not None and best[KEY] <= -key:
                return Outcome.WOULD_CROSS
        tif = _AUCTION if ref in self._auction_only else _GTC
        self.cancel(ref)
        owner, party = order[OWNER], order[PARTY]
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
        for order in self._orders.values():
            self._own.setdefault(order[OWNER], []).append(order)

    def indicative(self, reference: int | None) -> Clearing | None:
        """What :meth:`uncross` would do now; None when nothing crosses."""
        bid, ask = self.best(Side.BUY), self.best(Side.SELL)
        if bid is None or ask is None or bid < ask:
            return None
        return clearing(
            _aggregated(self._bids, -ask),
            _aggregated(self._asks, bid),
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
            lots = min(left, buy[LOTS], sell[LOTS])
            executions.append(
                Execution(buy[REF], sell[REF], lots, self._fill(buy, lots), self._fill(sell, lots))
            )
            left -= lots
        ended = [self._orders[ref] for ref in self._auction_only if ref in self._orders]
        cancelled = self._cut(ended)
        self._phase = Phase.CONTINUOUS
        self._own, self._auction_only = {}, {}
        return Uncrossing(found, executions, cancelled)

    def _fill(self, order: Order, lots: int) -> int:
        """Take traded lots off a resting order: what it keeps."""
        left = order[LOTS] - lots
        if order[LOTS] == UNLIMITED:
            return UNLIMITED
        if left:
            order[LOTS] = left
        else:
            self.cancel(order[REF])
        return left

    def _collect(
        self, order: Order, limit: int, tif: int, prevent_by: int, cuts: list[Cut] | None
    ) -> Outcome:
        """Rest an order until the auction ends, if it can wait for that."""
        if self._phase is not Phase.CALL or tif not in (_GTC, _AUCTION):
            return Outcome.WRONG_PHASE
        own = self._own[order[OWNER]] = [o for o in self._own.get(order[OWNER], ()) if o[LOTS]]
        crossed = [o for o in own if o[SIDE] != order[SIDE] and o[KEY] <= limit]
        crossed.sort(key=itemgetter(KEY, RANK))
        other = self._bids if order[SIDE] else self._asks
        for maker in crossed:
            # Prevented on entry, no pair of one group crosses when the auction ends.
            price = abs(maker[KEY])
            lots = self._prevent(order[REF], maker, price, order[LOTS], prevent_by, cuts)
            other.dead += not maker[LOTS]
            if lots < 0:
                return _SELF_TRADE
            order[LOTS] = lots
        own.append(order)
        self._rest(order, tif == _AUCTION)
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
        key = price if side else -price
        time = ref if rank is None else rank
        self._rest([lots, owner, ref, int(side), key, time, party], auction_only)

    def _rest(self, order: Order, auction_only: bool) -> None:
        self._orders[order[REF]] = order
        (self._asks if order[SIDE] else self._bids).add(order)
        if auction_only:
            self._auction_only[order[REF]] = None

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
        order = self._orders.get(ref)
        return 0 if order is None else order[LOTS]

    def best(self, side: int) -> int | None:
        """The best price of a side, or None when it is empty."""
        order = (self._asks if side else self._bids).head()
        return None if order is None else abs(order[KEY])

    def depth(self, side: int, levels_max: int) -> list[Level]:
        """The aggregated book of a side, best price first, at most ``levels_max`` levels.

        O(orders in them): a feed that keeps levels up to date adds up what the calls report.
        """
        ladder = self._asks if side else self._bids
        found: list[Level] = []
        for price, orders in islice(ladder.ascending(), levels_max):
            limited = [order[LOTS] for order in orders if order[LOTS] < UNLIMITED]
            found.append(Level(price, sum(limited), len(orders), len(orders) - len(limited)))
        return found

    def resting(self) -> Iterator[Resting]:
        """Every living order, bids then asks, in priority order."""
        for side, ladder in ((Side.BUY, self._bids), (Side.SELL, self._asks)):
            for price, orders in ladder.ascending():
                for lots, owner, ref, _, _, rank, party in orders:
                    late = ref in self._auction_only
                    yield Resting(ref, owner, side, price, lots, rank, party, late)

    def checksum(self) -> int:
        """63-bit sum of ``order_mark`` over the living orders."""
        total = 0
        for o in self.resting():
            mark = order_mark(o.ref, o.side, o.price, o.lots, o.rank, o.auction_only)
            total = add_marks(total, mark)
        return total


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
        if best is not None and best[KEY] <= limit:
            return Outcome.WOULD_CROSS
    needed = lots if tif == _FOK else minimum
    if needed and other.walk(limit, lots, owner, prevent_by)[0] < needed:
        return Outcome.KILLED if tif == _FOK else Outcome.BELOW_MINIMUM
    return None


def _aggregated(ladder: Ladder, limit: int) -> list[tuple[int, int]]:
    """(price, lots) of the levels up to a key, best first."""
    levels = takewhile(lambda level: level[0] * ladder.sign <= limit, ladder.ascending())
    return [(price, sum(order[LOTS] for order in orders)) for price, orders in levels]
