"""One side of a book: a queue per price and a heap of prices.

Layout after pricing.md B4.7, with what measuring changed: both sides are min-heaps over a signed
key (asks ``price``, bids ``-price``), so matching is written once. A queue holds places, numbers
under which the book keeps the living orders: a cancel takes the order out of the book and leaves
its place in the queue, where matching drops it when it comes by, and a sweep otherwise. A level
without a living order stays until then as well. Thus resting or cancelling an order touches no
more than its queue.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import islice, takewhile
from typing import Final

from market.matching.terms import UNLIMITED, Level, SelfTrade

# A resting order, indexed by the names below: (lots, owner, ref, side, price, party). Making and
# touching memory is most of what an order costs: a tuple is one block of 96 bytes, a list two of
# 128, an instance takes five times as long to make. Fewer lots make another tuple.
Order = tuple[int, int, int, int, int, int]
LOTS: Final = 0
OWNER: Final = 1
REF: Final = 2
SIDE: Final = 3
PRICE: Final = 4
PARTY: Final = 5

# Where an order is kept: under its ref, or under minus its rank once an amendment has given it
# another time priority. No place is ever used again, so one without an order is dead.
Place = int

# A deque takes from its front in O(1), but is ten times slower to make, and 0.6 kB: most prices
# hold a few orders only, so a queue becomes a deque when it is first taken from while long.
Queue = list[Place] | deque[Place]
_LONG: Final = 1_024


class Ladder:
    """One side: queues by signed key, the min-heap of their keys. ``orders`` are the book's."""

    __slots__ = ("heap", "orders", "queues", "sign")

    def __init__(self, sign: int, orders: dict[Place, Order]) -> None:
        self.sign = sign
        self.orders = orders
        self.heap: list[int] = []
        self.queues: dict[int, Queue] = {}

    def add(self, key: int, place: Place) -> None:
        """Put a place at the back of its price."""
        queue = self.queues.get(key)
        if queue is None:
            self.queues[key] = [place]
            heappush(self.heap, key)
        else:
            queue.append(place)

    def drop(self, key: int, count: int) -> None:
        """Drop the first places of a queue; they are dead."""
        queue = self.queues[key]
        if isinstance(queue, list):
            if len(queue) <= _LONG:
                del queue[:count]
            else:
                self.queues[key] = deque(islice(queue, count, None))
            return
        for _ in range(count):
            queue.popleft()

    def sweep(self) -> None:
        """Drop all dead places and empty levels. O(places and levels)."""
        orders = self.orders
        living = {
            key: [place for place in queue if place in orders] for key, queue in self.queues.items()
        }
        self.queues = {key: queue for key, queue in living.items() if queue}
        self.heap = list(self.queues)
        heapify(self.heap)

    def head(self) -> tuple[Place, Order] | None:
        """The living order with the highest priority; drops the dead before it."""
        heap, orders = self.heap, self.orders
        while heap:
            for dead, place in enumerate(self.queues[heap[0]]):
                order = orders.get(place)
                if order is not None:
                    if dead:
                        self.drop(heap[0], dead)
                    return place, order
            del self.queues[heappop(heap)]
        return None

    def ascending(self) -> Iterator[tuple[int, list[Place]]]:
        """(price, living places) of the levels, best first: O(n log n) for the first n."""
        heap, orders = self.heap, self.orders
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            key, index = heappop(frontier)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heappush(frontier, (heap[child], child))
            living = [place for place in self.queues[key] if place in orders]
            if living:
                yield key * self.sign, living

    def levels(self) -> Iterator[tuple[int, list[Order]]]:
        """(price, living orders) of the levels, best first."""
        orders = self.orders
        for price, places in self.ascending():
            yield price, [orders[place] for place in places]

    def aggregated(self, limit: int) -> list[tuple[int, int]]:
        """(price, lots) of the levels up to the key ``limit``, best first."""
        levels = takewhile(lambda level: level[0] * self.sign <= limit, self.levels())
        return [(price, sum(order[LOTS] for order in orders)) for price, orders in levels]

    def depth(self, levels_max: int) -> list[Level]:
        """The first levels, best first. O(orders in them)."""
        found: list[Level] = []
        for price, orders in islice(self.levels(), levels_max):
            limited = [order[LOTS] for order in orders if order[LOTS] < UNLIMITED]
            found.append(Level(price, sum(limited), len(orders), len(orders) - len(limited)))
        return found

    def walk(self, limit: int, lots: int, owner: int, prevent_by: int) -> tuple[int, int]:
        """What ``lots`` up to the key ``limit`` would trade now: (lots, amount in minor units).

        Own orders count as self-trade prevention will treat them (``prevent_by``: a SelfTrade).
        OrderBook-rs#96 forgot that and half-filled a fill-or-kill.
        """
        traded = amount = 0
        for price, orders in self.levels():
            if price * self.sign > limit:
                break
            for order in orders:
                available = order[LOTS]
                if order[OWNER] != owner:
                    available = min(available, lots)
                    traded += available
                    amount += available * price
                    lots -= available
                elif prevent_by == SelfTrade.DECREMENT:
                    lots -= available
                elif prevent_by != SelfTrade.CANCEL_OLDEST:
                    return traded, amount
                if lots <= 0:
                    return traded, amount
        return traded, amount
