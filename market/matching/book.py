"""The order book of one instrument: price-time priority, pure and deterministic.

No clock, no randomness, no set iteration, no I/O: the same calls give the same fills on every
machine. Everything is an ``int``: ``ref`` is the engine's order sequence number, ``owner`` the
number of a conflict group (a party with its affiliates), ``price`` minor units per lot, ``lots``
the quantity. Time priority is arrival order at a price, so the caller's refs must rise.

Layout after pricing.md B4.7: a deque per price, a heap of prices per side, cancels mark the
order and leave it in place, compaction sweeps when the dead outnumber the living. Both sides are
min-heaps over a signed key (asks ``price``, bids ``-price``), so matching is written once.
"""

from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, NamedTuple

# A posted price over non-rival data never runs out: this quantity is not counted down.
UNLIMITED: Final = 1 << 62

# Below these sizes a sweep costs more than the dead entries it frees.
_COMPACT_ORDERS_MIN: Final = 32
_COMPACT_LEVELS_MIN: Final = 64

_MASK: Final = (1 << 63) - 1


class Side(IntEnum):
    BUY = 0
    SELL = 1


class TimeInForce(IntEnum):
    GTC = 0
    IOC = 1
    FOK = 2


class Outcome(IntEnum):
    """What became of the incoming order; its fills stand in every case.

    ``SELF_TRADE``: the rest was cancelled because the next best order belongs to the same group
    (cancel newest). ``KILLED``: fill-or-kill could not fill whole, nothing happened.
    ``WOULD_CROSS``: post-only would have traded, nothing happened.
    """

    FILLED = 0
    RESTING = 1
    REMAINDER_CANCELLED = 2
    KILLED = 3
    WOULD_CROSS = 4
    SELF_TRADE = 5


# Attribute access on an enum class is slow in Python 3.11; globals are not.
_FOK: Final = TimeInForce.FOK
_FILLED: Final = Outcome.FILLED
_RESTING: Final = Outcome.RESTING
_REMAINDER_CANCELLED: Final = Outcome.REMAINDER_CANCELLED
_KILLED: Final = Outcome.KILLED
_WOULD_CROSS: Final = Outcome.WOULD_CROSS
_SELF_TRADE: Final = Outcome.SELF_TRADE


# (maker ref, price, lots, lots the maker keeps), at the resting order's price. A plain tuple:
# a named one costs 0.2 us more per fill.
Fill = tuple[int, int, int, int]


class Level(NamedTuple):
    """One price of the aggregated book. ``lots`` excludes the ``unlimited`` orders."""

    price: int
    lots: int
    orders: int
    unlimited: int


class Resting(NamedTuple):
    """A resting order as :meth:`Book.resting` reports it."""

    ref: int
    owner: int
    side: Side
    price: int
    lots: int


class _Order:
    """A resting order. ``lots`` 0 means dead (filled or cancelled, not yet swept)."""

    __slots__ = ("level", "lots", "owner", "ref")

    def __init__(self, ref: int, owner: int, lots: int, level: "_Level") -> None:
        self.ref = ref
        self.owner = owner
        self.lots = lots
        self.level = level


class _Level:
    """The queue at one price: ``total`` living limited lots, ``dead`` orders to sweep later."""

    __slots__ = ("dead", "key", "ladder", "queue", "total", "unlimited")

    def __init__(self, key: int, ladder: "_Ladder") -> None:
        self.key = key
        self.ladder = ladder
        self.queue: deque[_Order] = deque()
        self.total = 0
        self.dead = 0
        self.unlimited = 0

    def shed(self) -> None:
        """Keep a living order (or nothing) at the head; sweep when most of the queue is dead."""
        queue = self.queue
        while queue and not queue[0].lots:
            queue.popleft()
            self.dead -= 1
        if self.dead > _COMPACT_ORDERS_MIN and self.dead * 2 > len(queue):
            self.queue = deque([order for order in queue if order.lots])
            self.dead = 0
        if not queue:
            self.ladder.emptied()


class _Ladder:
    """One side: levels by signed key and the min-heap of their keys.

    A level that runs empty stays in both until its key surfaces or a sweep comes; ``empty``
    counts those.
    """

    __slots__ = ("empty", "heap", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.heap: list[int] = []
        self.levels: dict[int, _Level] = {}
        self.empty = 0

    def add(self, ref: int, owner: int, key: int, lots: int) -> _Order:
        """Put an order at the back of its price."""
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = _Level(key, self)
            heappush(self.heap, key)
        elif not level.queue:
            self.empty -= 1
        order = _Order(ref, owner, lots, level)
        level.queue.append(order)
        if lots < UNLIMITED:
            level.total += lots
        else:
            level.unlimited += 1
        return order

    def best(self) -> _Level | None:
        """The level with the smallest key that has a living order; drops empty ones before it."""
        heap = self.heap
        while heap:
            level = self.levels[heap[0]]
            if level.queue:
                return level
            del self.levels[heappop(heap)]
            self.empty -= 1
        return None

    def emptied(self) -> None:
        """Count a level whose queue just ran empty, and sweep such levels when they prevail."""
        self.empty += 1
        if self.empty > _COMPACT_LEVELS_MIN and self.empty * 2 > len(self.heap):
            self.levels = {key: level for key, level in self.levels.items() if level.queue}
            self.heap = list(self.levels)
            heapify(self.heap)
            self.empty = 0

    def ascending(self) -> Iterator[_Level]:
        """Living levels, best first, without disturbing the heap: O(n log n) for the first n."""
        heap = self.heap
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            key, index = heappop(frontier)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heappush(frontier, (heap[child], child))
            level = self.levels[key]
            if level.queue:
                yield level


class Book:
    """Resting orders of one instrument. One call, one step; no call leaves it half changed."""

    __slots__ = ("_asks", "_bids", "_orders")

    def __init__(self) -> None:
        self._bids = _Ladder(-1)
        self._asks = _Ladder(1)
        self._orders: dict[int, _Order] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, ref: int) -> bool:
        return ref in self._orders

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
        """Match an incoming order, rest what GTC leaves, append its fills to ``fills``.

        ``price`` is the limit, or the protection price of a market order (sent as IOC or FOK).
        ``lots`` may be ``UNLIMITED`` for a GTC sell. Fills happen at the resting price, best
        price first, then first come. Positional, because this is the hot path.
        """
        if side:
            own, other, key, limit = self._asks, self._bids, price, -price
        else:
            own, other, key, limit = self._bids, self._asks, -price, price
        heap = other.heap
        if heap and heap[0] <= limit:
            if post_only:
                best = other.best()
                if best is not None and best.key <= limit:
                    return _WOULD_CROSS
            if tif == _FOK and not _fillable(other, limit, lots, owner):
                return _KILLED
            lots = self._take(other, owner, limit, lots, fills)
            if not lots:
                return _FILLED
            if lots < 0:
                return _SELF_TRADE
        if tif:
            return _KILLED if tif == _FOK else _REMAINDER_CANCELLED
        level = own.levels.get(key)
        if level is None or lots == UNLIMITED or not level.queue:
            self._orders[ref] = own.add(ref, owner, key, lots)
        else:
            # The common case of ``_Ladder.add`` without its call: a tenth of the whole flow.
            self._orders[ref] = order = _Order(ref, owner, lots, level)
            level.queue.append(order)
            level.total += lots
        return _RESTING

    def _take(self, other: _Ladder, owner: int, limit: int, lots: int, fills: list[Fill]) -> int:
        """Trade against ``other`` up to ``limit``: the lots left, or -1 at an own order."""
        while (level := other.best()) is not None and level.key <= limit:
            queue = level.queue
            price = level.key * other.sign
            while queue:
                maker = queue[0]
                available = maker.lots
                if maker.owner == owner and available:
                    return -1
                if lots < available:
                    if available < UNLIMITED:
                        maker.lots = available = available - lots
                        level.total -= lots
                    fills.append((maker.ref, price, lots, available))
                    return 0
                queue.popleft()
                if not available:
                    level.dead -= 1
                    continue
                maker.lots = 0
                del self._orders[maker.ref]
                level.total -= available
                fills.append((maker.ref, price, available, 0))
                if lots == available:
                    level.shed()
                    return 0
                if lots < UNLIMITED:
                    lots -= available
            other.emptied()
        return lots

    def cancel(self, ref: int) -> int:
        """Take a resting order out. Returns the lots it still had, 0 when the ref is unknown.

        Late cancels (of a filled order) are normal traffic, not errors (golden scenario G14).
        """
        order = self._orders.pop(ref, None)
        if order is None:
            return 0
        left = order.lots
        level = order.level
        if left < UNLIMITED:
            level.total -= left
        else:
            level.unlimited -= 1
        order.lots = 0
        level.dead = dead = level.dead + 1
        if level.queue[0] is order or dead > _COMPACT_ORDERS_MIN:
            level.shed()
        return left

    def restore(self, ref: int, owner: int, side: int, price: int, lots: int) -> None:
        """Rest an order without matching, for a rebuild in rising ``ref`` order."""
        own, key = (self._asks, price) if side else (self._bids, -price)
        self._orders[ref] = own.add(ref, owner, key, lots)

    def left(self, ref: int) -> int:
        """Lots still resting under ``ref`` (``UNLIMITED`` for a posted price), 0 when unknown."""
        order = self._orders.get(ref)
        return 0 if order is None else order.lots

    def best(self, side: int) -> int | None:
        """The best price of a side, or None when it is empty."""
        ladder = self._asks if side else self._bids
        level = ladder.best()
        return None if level is None else level.key * ladder.sign

    def depth(self, side: int, levels_max: int) -> list[Level]:
        """The aggregated book of a side, best price first, at most ``levels_max`` levels."""
        ladder = self._asks if side else self._bids
        return [
            Level(
                level.key * ladder.sign,
                level.total,
                len(level.queue) - level.dead,
                level.unlimited,
            )
            for level in islice(ladder.ascending(), levels_max)
        ]

    def resting(self) -> Iterator[Resting]:
        """Every living order, bids then asks, in priority order."""
        for side, ladder in ((Side.BUY, self._bids), (Side.SELL, self._asks)):
            for level in ladder.ascending():
                price = level.key * ladder.sign
                for order in level.queue:
                    if order.lots:
                        yield Resting(order.ref, order.owner, side, price, order.lots)

    def checksum(self) -> int:
        """63-bit sum of ``order_mark`` over the living orders."""
        total = 0
        for order in self.resting():
            total = add_marks(total, order_mark(order.ref, order.side, order.price, order.lots))
        return total


def _fillable(other: _Ladder, limit: int, lots: int, owner: int) -> bool:
    """Whether ``lots`` can trade in full before meeting an order of the same owner.

    Own orders count as a wall: OrderBook-rs#96 skipped this and half-filled a fill-or-kill.
    """
    for level in other.ascending():
        if level.key > limit:
            return False
        for order in level.queue:
            if order.lots and order.owner == owner:
                return False
            lots -= order.lots
            if lots <= 0:
                return True
    return False


def order_mark(ref: int, side: int, price: int, lots: int) -> int:
    """63-bit mark of one resting order for the book checksum; 0 lots (gone) marks 0.

    The checksum is the sum of the marks, so a batch updates it by what it touched. Refs are
    unique and order a price level, hence (ref, side, price, lots) of all orders is the whole
    book. Mixing after SplitMix64 (Steele, Lea, Flood 2014), so that near values land far apart.
    """
    if not lots:
        return 0
    mixed = (ref * 0x9E3779B97F4A7C15 + price * 0xBF58476D1CE4E5B9 + lots * 0x94D049BB133111EB) ^ (
        side + 1
    )
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) & _MASK


def add_marks(checksum: int, change: int) -> int:
    """The checksum after a (possibly negative) change of marks."""
    return (checksum + change) & _MASK
