"""One side of a book: a queue per price and a heap of prices.

Layout after pricing.md B4.7: a deque per price, a heap of prices, cancels mark the order and
leave it in place, compaction sweeps when the dead outnumber the living. Both sides are min-heaps
over a signed key (asks ``price``, bids ``-price``), so matching is written once.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from market.matching.terms import UNLIMITED, SelfTrade

# Below these sizes a sweep costs more than the dead entries it frees.
COMPACT_ORDERS_MIN: Final = 32
COMPACT_LEVELS_MIN: Final = 64


# A resting order, indexed by the names below: a list is built in a fifth of an instance's time,
# and the order is the only object that every limit order needs. LOTS 0 means dead (filled or
# cancelled, not yet swept); KEY is the signed price; RANK the time priority.
Order = list[int]
LOTS: Final = 0
OWNER: Final = 1
REF: Final = 2
SIDE: Final = 3
KEY: Final = 4
RANK: Final = 5
PARTY: Final = 6


class PriceLevel:
    """The queue at one price: ``total`` living limited lots, ``dead`` orders to sweep later."""

    __slots__ = ("dead", "key", "ladder", "queue", "total", "unlimited")

    def __init__(self, key: int, ladder: "Ladder") -> None:
        self.key = key
        self.ladder = ladder
        self.queue: deque[Order] = deque()
        self.total = 0
        self.dead = 0
        self.unlimited = 0

    @property
    def price(self) -> int:
        """Minor units per lot."""
        return self.key * self.ladder.sign

    def bury(self, order: Order) -> None:
        """Mark a living order dead and leave it in the queue."""
        lots = order[LOTS]
        if lots < UNLIMITED:
            self.total -= lots
        else:
            self.unlimited -= 1
        order[LOTS] = 0
        self.dead += 1

    def revive(self, order: Order, lots: int) -> None:
        """Give a buried order that never left its queue ``lots`` again."""
        order[LOTS] = lots
        self.dead -= 1
        if lots < UNLIMITED:
            self.total += lots
        else:
            self.unlimited += 1

    def shed(self) -> None:
        """Keep a living order (or nothing) at the head; sweep when most of the queue is dead."""
        queue = self.queue
        while queue and not queue[0][LOTS]:
            queue.popleft()
            self.dead -= 1
        if self.dead > COMPACT_ORDERS_MIN and self.dead * 2 > len(queue):
            self.queue = deque([order for order in queue if order[LOTS]])
            self.dead = 0
        if not queue:
            self.ladder.emptied()


class Ladder:
    """One side: levels by signed key and the min-heap of their keys.

    A level that runs empty stays in both until its key surfaces or a sweep comes; ``empty``
    counts those.
    """

    __slots__ = ("empty", "heap", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.heap: list[int] = []
        self.levels: dict[int, PriceLevel] = {}
        self.empty = 0

    def add(self, order: Order) -> None:
        """Put an order at the back of its price."""
        key, lots = order[KEY], order[LOTS]
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = PriceLevel(key, self)
            heappush(self.heap, key)
        elif not level.queue:
            self.empty -= 1
        level.queue.append(order)
        if lots < UNLIMITED:
            level.total += lots
        else:
            level.unlimited += 1

    def remove(self, order: Order) -> None:
        """Mark a living order dead, free what can be freed."""
        level = self.levels[order[KEY]]
        level.bury(order)
        if level.queue[0] is order or level.dead > COMPACT_ORDERS_MIN:
            level.shed()

    def best(self) -> PriceLevel | None:
        """The level with the smallest key that has a living order; drops empty ones before it."""
        heap = self.heap
        while heap:
            level = self.levels[heap[0]]
            if level.queue:
                return level
            del self.levels[heappop(heap)]
            self.empty -= 1
        return None

    def head(self) -> Order:
        """The living order with the highest priority. Raises IndexError on an empty side."""
        level = self.best()
        if level is None:
            raise IndexError("no order rests on this side")
        return level.queue[0]

    def emptied(self) -> None:
        """Count a level whose queue just ran empty, and sweep such levels when they prevail."""
        self.empty += 1
        if self.empty > COMPACT_LEVELS_MIN and self.empty * 2 > len(self.heap):
            self.levels = {key: level for key, level in self.levels.items() if level.queue}
            self.heap = list(self.levels)
            heapify(self.heap)
            self.empty = 0

    def ascending(self) -> Iterator[PriceLevel]:
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

    def walk(self, limit: int, lots: int, owner: int, prevent_by: int) -> tuple[int, int]:
        """What ``lots`` up to the key ``limit`` would trade now: (lots, amount in minor units).

        Own orders count as self-trade prevention will treat them (``prevent_by``: a SelfTrade).
        OrderBook-rs#96 forgot that and half-filled a fill-or-kill.
        """
        traded = amount = 0
        for level in self.ascending():
            if level.key > limit:
                break
            for order in level.queue:
                available = order[LOTS]
                if not available:
                    continue
                if order[OWNER] != owner:
                    available = min(available, lots)
                    traded += available
                    amount += available * level.price
                    lots -= available
                elif prevent_by == SelfTrade.DECREMENT:
                    lots -= available
                elif prevent_by != SelfTrade.CANCEL_OLDEST:
                    return traded, amount
                if lots <= 0:
                    return traded, amount
        return traded, amount
