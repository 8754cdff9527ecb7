"""Reciprocal-rank fusion of the three rankings of a request's matches. Pure.

Score = Σ 1 / (60 + place) over closeness, text and price (Cormack et al., SIGIR 2009, k = 60),
counted in whole billionths, so that equal markets give equal orders on every machine. Equal
values share a place (1, 1, 3), and equal scores are ordered by listing id: never by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

K = 60
UNIT = 10**9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One listing: more closeness and text are better, less cost is; None has no place."""

    listing_id: UUID
    closeness: int
    text: int | None
    cost: int | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate's score and its places; 1 is best."""

    listing_id: UUID
    score: int
    closeness_place: int
    text_place: int | None
    price_place: int | None

    @property
    def key(self) -> tuple[int, UUID]:
        """What the order goes by, ascending: the best score first, then the id."""
        return (-self.score, self.listing_id)


def rank(candidates: Sequence[Candidate]) -> list[Ranked]:
    """All candidates, best first."""
    near = _places(candidates, lambda each: -each.closeness)
    text = _places(candidates, lambda each: None if not each.text else -each.text)
    price = _places(candidates, lambda each: each.cost)
    ranked = [
        Ranked(
            each.listing_id,
            _score(near[each.listing_id], text.get(each.listing_id), price.get(each.listing_id)),
            near[each.listing_id],
            text.get(each.listing_id),
            price.get(each.listing_id),
        )
        for each in candidates
    ]
    return sorted(ranked, key=lambda each: each.key)


def _places(
    candidates: Sequence[Candidate], value: Callable[[Candidate], int | None]
) -> dict[UUID, int]:
    """Places by ascending value, equal values sharing the better place."""
    valued = sorted(
        (found, each.listing_id) for each in candidates if (found := value(each)) is not None
    )
    places: dict[UUID, int] = {}
    last: tuple[int, int] | None = None
    for at, (found, listing_id) in enumerate(valued, start=1):
        place = last[1] if last is not None and last[0] == found else at
        places[listing_id] = place
        last = (found, place)
    return places


def _score(*places: int | None) -> int:
    return sum(UNIT // (K + place) for place in places if place is not None)
