"""Aggregated price levels of a book, kept up to date by what batches change (pure).

A level costs what changed on it, not the orders that rest there (``Book.depth`` walks them all).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from market.matching.terms import UNLIMITED
from market.matching.words import pack, unpack

_WORDS = 5


class LevelChange(NamedTuple):
    """A level as it is now; without orders it is gone. ``lots`` excludes ``unlimited`` orders."""

    side: int
    price: int
    lots: int
    orders: int
    unlimited: int


class Levels:
    """Both sides of one book, from the ``resting`` orders: (side, price, lots) each."""

    __slots__ = ("_changed", "_levels")

    def __init__(self, resting: Iterable[tuple[int, int, int]] = ()) -> None:
        # By twice the price, plus one for asks: [lots, orders, unlimited orders].
        self._levels: dict[int, list[int]] = {}
        # What touched levels were at the last call of ``changes``.
        self._changed: dict[int, tuple[int, ...]] = {}
        for side, price, lots in resting:
            self.add(side, price, lots)
        self._changed.clear()

    def add(self, side: int, price: int, lots: int) -> None:
        """An order with ``lots`` left rests at a price."""
        key = price << 1 | side
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = [0, 0, 0]
        if key not in self._changed:
            self._changed[key] = tuple(level)
        level[1] += 1
        if lots == UNLIMITED:
            level[2] += 1
        else:
            level[0] += lots

    def remove(self, side: int, price: int, lots: int) -> None:
        """An order that had ``lots`` left rests there no more. Raises KeyError if none did."""
        key = price << 1 | side
        level = self._levels[key]
        if key not in self._changed:
            self._changed[key] = tuple(level)
        level[1] -= 1
        if lots == UNLIMITED:
            level[2] -= 1
        else:
            level[0] -= lots

    def changes(self) -> list[LevelChange]:
        """The levels that are not what they were at the last call, in the order of their touch."""
        found = []
        for key, before in self._changed.items():
            level = self._levels[key]
            if tuple(level) != before:
                found.append(LevelChange(key & 1, key >> 1, *level))
            if not level[1]:
                del self._levels[key]
        self._changed.clear()
        return found

    def __iter__(self) -> Iterator[LevelChange]:
        """All levels with orders, in no useful order."""
        for key, (lots, orders, unlimited) in self._levels.items():
            if orders:
                yield LevelChange(key & 1, key >> 1, lots, orders, unlimited)


def pack_levels(changes: Iterable[LevelChange]) -> bytes:
    """Changes as they are stored."""
    return pack([number for change in changes for number in change])


def unpack_levels(data: bytes) -> list[LevelChange]:
    """The reverse of :func:`pack_levels`. Raises ValueError."""
    words = unpack(data)
    if len(words) % _WORDS:
        raise ValueError("not a whole number of levels")
    return [LevelChange(*words[i : i + _WORDS]) for i in range(0, len(words), _WORDS)]
