"""All choices of a step, from one number.

Clients race, so the state that a choice looks at may differ from one run to the next. Hypothesis
gives up (FlakyStrategyDefinition) when a draw depends on that; it therefore draws only the
number, and a step maps the number onto whatever state it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
SEED_MAX = 2**32 - 1


class Dice:
    """The same throws for the same ``seed``."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def number(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self._random.randint(low, high)

    def rarely(self, one_in: int) -> bool:
        """Yes once in ``one_in``."""
        return self._random.randrange(one_in) == 0

    def one(self, items: Sequence[T]) -> T:
        """One of them."""
        return self._random.choice(items)

    def some(self, items: Iterable[T], most: int) -> list[T]:
        """One to ``most`` different ones, in any order."""
        different = list(dict.fromkeys(items))
        return self._random.sample(different, self.number(1, min(most, len(different))))

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """All of them in any order."""
        mixed = list(items)
        self._random.shuffle(mixed)
        return mixed
