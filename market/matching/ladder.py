"""One side of a book: a queue per price and a heap of prices.

Layout after pricing.md B4.7, with what measuring changed: both sides are min-heaps over a signed
key (asks ``price``, bids ``-price``), so matching is written once. A cancel marks the order and
leaves it in its queue; matching drops the dead that it meets, a sweep the others once they
outnumber the living. A level without a living order stays until then as well. Thus resting or
cancelling an order touches no more than its queue.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from market.matching.terms import SelfTrade

# A resting order, indexed by the names below: a list is built in a fifth of an instance's time,
# and the order is the only object that every limit order needs. LOTS 0 means dead (filled or
# cancelled, not yet dropped); KEY is the signed price; RANK the time priority.
Order = list[int]
LOTS: Final = 0
OWNER: Final = 1
REF: Final = 2
SIDE: Final = 3
KEY: Final = 4
RANK: Final = 5
PARTY: Final = 6

# A deque takes from its front in O(1), but is ten times slower to make, and 0.6 kB: most prices
# hold a few orders only, so a queue becomes a deque when it is first taken from while long.
Queue = list[Order] | deque[Order]
_LONG: Final = 256


class Ladder:
    """One side: queues by signed key, the min-heap of their keys, the number of dead orders."""

    __slots__ = ("dead", "heap", "queues", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.heap: list[int] = []
        self.queues: dict[int, Queue] = {}
        self.dead = 0

    def add(self, order: Order) -> None:
        """Put an order at the back of its price."""
        key = order[KEY]
        queue = self.queues.get(key)
        if queue is None:
            self.queues[key] = [order]
            heappush(self.heap, key)
        else:
            queue.append(order)

    def drop(self, key: int, count: int) -> None:
        """Drop the first orders of a queue; they are dead."""
        queue = self.queues[key]
        if isinstance(queue, deque):
            for _ in range(count):
                queue.popleft()
        elif len(queue) <= _LONG:
            del queue[:count]
        else:
            self.queues[key] = deque(islice(queue, count, None))

    def sweep(self) -> None:
        """Drop all dead orders and empty levels. O(orders and levels)."""
        living = {
            key: [order for order in queue if order[LOTS]] for key, queue in self.queues.items()
        }
        self.queues = {key: queue for key, queue in living.items() if queue}
        self.heap = list(self.queues)
        heapify(self.heap)
        self.dead = 0

    def head(self) -> Order | None:
        """The living order with the highest priority; drops the dead before it."""
        heap = self.heap
        while heap:
            dead = 0
            for order in self.queues[heap[0]]:
                if order[LOTS]:
                    if dead:
                        self.drop(heap[0], dead)
                        self.dead -= dead
                    return order
                dead += 1
            self.dead -= dead
            del self.queues[heappop(heap)]
        return None

    def ascending(self) -> Iterator[tuple[int, list[Order]]]:
        """(price, living orders) of the levels, best first: O(n log n) for the first n."""
        heap = self.heap
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            key, index = heappop(frontier)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heappush(frontier, (heap[child], child))
            living = [order for order in self.queues[key] if order[LOTS]]
            if living:
                yield key * self.sign, living

    def walk(self, limit: int, lots: int, owner: int, prevent_by: int) -> tuple[int, int]:
        """What ``lots`` up to the key ``limit`` would trade now: (lots, amount in minor units).

        Own orders count as self-trade prevention will treat them (``prevent_by``: a SelfTrade).
        OrderBook-rs#96 forgot that and half-filled a fill-or-kill.
        """
        traded = amount = 0
        for price, orders in self.ascending():
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
