"""Facet counts from cells. Pure.

A cell counts the hits that share all facet values. A facet's counts keep every filter but its
own, so that the alternatives to the chosen value stay visible.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

DIMENSIONS = ("category", "grade", "currency", "plan_kind")
VALUES_MAX = 50


@dataclass(frozen=True, slots=True)
class Cell:
    """``currency`` is empty for listings without a price."""

    category: str
    grade: str
    currency: str
    plan_kinds: tuple[str, ...]
    count: int


def _values(cell: Cell, dimension: str) -> tuple[str, ...]:
    if dimension == "plan_kind":
        return cell.plan_kinds
    value = str(getattr(cell, dimension))
    return (value,) if value else ()


def _passes(cell: Cell, chosen: Mapping[str, str], *, except_for: str | None) -> bool:
    return all(
        dimension == except_for or value in _values(cell, dimension)
        for dimension, value in chosen.items()
    )


def total(cells: Iterable[Cell], chosen: Mapping[str, str]) -> int:
    """Hits that pass every chosen filter."""
    return sum(cell.count for cell in cells if _passes(cell, chosen, except_for=None))


def count(cells: Sequence[Cell], chosen: Mapping[str, str]) -> dict[str, list[tuple[str, int]]]:
    """Per dimension the values and counts, most frequent first, then alphabetically."""
    found: dict[str, list[tuple[str, int]]] = {}
    for dimension in DIMENSIONS:
        counter: Counter[str] = Counter()
        for cell in cells:
            if cell.count > 0 and _passes(cell, chosen, except_for=dimension):
                for value in _values(cell, dimension):
                    counter[value] += cell.count
        ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        found[dimension] = ranked[:VALUES_MAX]
    return found
