"""All-or-none orders over several instruments (pure): every leg fills whole, or nothing happens.

What was quoted holds until a book changes: a fill-or-kill order per leg right after it fills.
"""

from collections.abc import Sequence
from typing import NamedTuple

from market.matching.book import Book
from market.matching.terms import SelfTrade, Side


class Leg(NamedTuple):
    """``price``: this leg's own limit, minor units per lot."""

    book: Book
    side: Side
    price: int
    lots: int


class Quote(NamedTuple):
    """What a leg would trade now: lots, and their price in minor units."""

    lots: int
    amount: int


def quote(legs: Sequence[Leg], owner: int, prevent_by: SelfTrade) -> list[Quote]:
    """What each leg would trade at once for the self-trade group ``owner``; changes nothing.

    Raises ValueError when two legs name one book: what one takes, the other cannot see.
    """
    if len({id(leg.book) for leg in legs}) != len(legs):
        raise ValueError("a bundle has one leg per instrument")
    return [
        Quote(*leg.book.quote(leg.side, leg.price, leg.lots, owner, prevent_by)) for leg in legs
    ]


def short(legs: Sequence[Leg], quotes: Sequence[Quote]) -> int | None:
    """The first leg that would not fill whole, None when all do."""
    for index, (leg, found) in enumerate(zip(legs, quotes, strict=True)):
        if found.lots < leg.lots:
            return index
    return None


def cost(legs: Sequence[Leg], quotes: Sequence[Quote]) -> int:
    """What is bought less what is sold, minor units; negative: it earns."""
    return sum(
        found.amount if leg.side is Side.BUY else -found.amount
        for leg, found in zip(legs, quotes, strict=True)
    )
