"""Sealed-bid auction of exclusive licenses: first price or second price (pure).

Vickrey (1961), with k equal licenses: the k highest bids win; each pays its own bid, or all pay
the highest losing bid ((k+1)-price), never less than the reserve. Under the second rule a bidder
does best by bidding what the license is worth to them.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class PriceRule(StrEnum):
    FIRST = "first"
    SECOND = "second"


class Bid(NamedTuple):
    """``ref`` rises with the time of the bid; ``price`` in minor units for one license."""

    ref: int
    bidder: int
    price: int


class Award(NamedTuple):
    """``price``: what the winner pays, minor units."""

    ref: int
    bidder: int
    price: int


def award(
    bids: Iterable[Bid], rule: PriceRule, *, reserve: int = 0, licenses: int = 1
) -> list[Award]:
    """Winners, highest bid first; equal bids by time. Bids below ``reserve`` do not count.

    A bidder wins one license at most, with their highest bid, and never sets their own price.
    Raises ValueError for a negative reserve or less than one license.
    """
    if reserve < 0 or licenses < 1:
        raise ValueError("an auction needs a reserve of at least 0 and at least one license")
    ranked = sorted(
        (bid for bid in bids if bid.price >= reserve), key=lambda bid: (-bid.price, bid.ref)
    )
    best: dict[int, Bid] = {}
    for bid in ranked:
        best.setdefault(bid.bidder, bid)
    standing = list(best.values())
    winners = standing[:licenses]
    if rule is PriceRule.FIRST:
        return [Award(*bid) for bid in winners]
    losing = standing[licenses].price if len(standing) > licenses else reserve
    return [Award(bid.ref, bid.bidder, losing) for bid in winners]
