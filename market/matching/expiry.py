"""Good-till-date: which orders are due (pure; time is an argument)."""

import heapq
from collections.abc import Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

_COMPACT_MIN: Final = 1_024


class Expiries(Generic[Key]):
    """Due times of orders. Orders that end before stay until they surface or a sweep comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, int, Key]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: datetime, seq: int, key: Key) -> None:
        """Note an order; ``seq`` (unique) orders those that are due together."""
        heapq.heappush(self._heap, (due, seq, key))

    def due(self, now: datetime, limit: int, is_open: Callable[[Key], bool]) -> list[Key]:
        """Open orders with due time <= ``now``, earliest first, at most ``limit``.

        They stay noted: the batch that ends them may fail. Ended ones are forgotten. O(due).
        """
        kept: list[tuple[datetime, int, Key]] = []
        while self._heap and self._heap[0][0] <= now and len(kept) < limit:
            entry = heapq.heappop(self._heap)
            if is_open(entry[2]):
                kept.append(entry)
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return [key for _, _, key in kept]

    def sweep(self, open_count: int, is_open: Callable[[Key], bool]) -> None:
        """Forget ended orders once most of the notes are theirs."""
        if len(self._heap) > _COMPACT_MIN and len(self._heap) > 2 * open_count:
            self._heap = [entry for entry in self._heap if is_open(entry[2])]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()
