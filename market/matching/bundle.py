"""All-or-none orders over several instruments (pure): every leg fills whole, or nothing happens."""

from collections.abc import Sequence
from typing import NamedTuple

from market.matching.book import Book
from market.matching.terms import Cut, Fill, Outcome, SelfTrade, Side, TimeInForce


class Leg(NamedTuple):
    """``price``: this leg's own limit, minor units per lot."""

    book: Book
    ref: int
    side: Side
    price: int
    lots: int


def cost(
    legs: Sequence[Leg], owner: int, *, prevent_by: SelfTrade = SelfTrade.CANCEL_NEWEST
) -> int | None:
    """What the bundle would cost now, minor units (negative: it earns); None: it cannot fill.

    Raises ValueError when two legs name one book: what one takes, the other cannot see.
    """
    if len({id(leg.book) for leg in legs}) != len(legs):
        raise ValueError("a bundle has one leg per instrument")
    total = 0
    for leg in legs:
        lots, amount = leg.book.quote(leg.side, leg.price, leg.lots, owner, prevent_by)
        if lots < leg.lots:
            return None
        total += amount if leg.side is Side.BUY else -amount
    return total


def fill(
    legs: Sequence[Leg],
    owner: int,
    party: int,
    *,
    cost_max: int | None = None,
    prevent_by: SelfTrade = SelfTrade.CANCEL_NEWEST,
) -> list[tuple[list[Fill], list[Cut]]] | None:
    """Fill all legs, or none: then None, and no book has changed.

    ``cost_max`` limits the sum of all legs beyond each leg's own limit (minor units). Raises
    ValueError as :func:`cost` does.
    """
    total = cost(legs, owner, prevent_by=prevent_by)
    if total is None or (cost_max is not None and total > cost_max):
        return None
    done: list[tuple[list[Fill], list[Cut]]] = []
    for leg in legs:
        fills: list[Fill] = []
        cuts: list[Cut] = []
        outcome = leg.book.submit(
            leg.ref,
            owner,
            leg.side,
            leg.price,
            leg.lots,
            TimeInForce.FOK,
            fills,
            party,
            prevent_by=prevent_by,
            cuts=cuts,
        )
        assert outcome is Outcome.FILLED, "a quote holds until the book changes"
        done.append((fills, cuts))
    return done
