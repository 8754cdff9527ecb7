"""From counted bids to winners and prices: the rules, applied to rows (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from market.auctions.digital_goods import Offer, sell
from market.auctions.models import Rule
from market.auctions.sealed_bids import Bid, PriceRule, award


class Sealed(NamedTuple):
    """A counted bid: ``amount`` in minor units, ``ref`` its place in time."""

    bid_id: UUID
    ref: int
    amount: int


_PRICE_RULES = {Rule.FIRST_PRICE: PriceRule.FIRST, Rule.SECOND_PRICE: PriceRule.SECOND}


def exclusive_prices(
    bids: Sequence[Sealed], rule: Rule, *, reserve: int, licenses: int
) -> dict[UUID, int]:
    """What each winner pays, by bid id. KeyError for a rule of unlimited supply."""
    won = award(_rows(bids), _PRICE_RULES[rule], reserve=reserve, licenses=licenses)
    names = _names(bids)
    return {names[winner.ref]: winner.price for winner in won}


def sampled(
    bids: Sequence[Sealed], seed: bytes, committed: str, *, reserve: int
) -> tuple[Offer, dict[UUID, int]]:
    """The offers to both halves, and what each winner pays, by bid id.

    The id of a bid decides its half. Raises ValueError when the seed is not the committed one.
    """
    offer = sell(_rows(bids), seed, committed, reserve=reserve)
    names = _names(bids)
    return offer, {names[winner.ref]: winner.price for winner in offer.winners}


def _rows(bids: Sequence[Sealed]) -> list[Bid]:
    # One counted bid per bidder, so its id stands for it: the proof need not name anybody.
    return [Bid(bid.ref, bid.bid_id.int, bid.amount) for bid in bids]


def _names(bids: Sequence[Sealed]) -> Mapping[int, UUID]:
    return {bid.ref: bid.bid_id for bid in bids}
