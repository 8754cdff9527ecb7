"""Auction of a good in unlimited supply: random-sampling optimal price (pure).

RSOP (Goldberg, Hartline, Wright; 4.68-competitive by Alaei, Malekian, Srinivasan 2009,
pricing.md A1): bidders are split by chance, each half is offered the price that would have
earned most from the other, so no bid moves its own price.

The split comes from a seed that the seller commits to before the first bid (``commitment``) and
reveals with the result: anybody can recompute it, and nobody could choose it after the bids.
"""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from market.auctions.sealed_bids import Award, Bid

SEED_BYTES_MIN: Final = 16


class Offer(NamedTuple):
    """``prices``: what bidders of half 0 and half 1 were offered, minor units; None: nothing."""

    prices: tuple[int | None, int | None]
    winners: list[Award]

    @property
    def revenue(self) -> int:
        """Minor units."""
        return sum(winner.price for winner in self.winners)


def commitment(seed: bytes) -> str:
    """What is published before the first bid: 64 hex digits. Raises ValueError below 16 bytes."""
    if len(seed) < SEED_BYTES_MIN:
        raise ValueError(f"a seed of less than {SEED_BYTES_MIN} bytes could be guessed")
    return sha256(seed).hexdigest()


def half(seed: bytes, bidder: int) -> int:
    """0 or 1. By bidder, so that several bids of one cannot inform on themselves."""
    return hmac.digest(seed, str(bidder).encode(), "sha256")[0] & 1


def optimal_price(prices: Iterable[int], reserve: int = 0) -> int | None:
    """The single price >= ``reserve`` with the largest revenue, ``max i * b_(i)``.

    The highest of equally good ones; None when there is no such bid. Minor units, O(n log n).
    """
    ranked = sorted((price for price in prices if price >= reserve and price > 0), reverse=True)
    if not ranked:
        return None
    return max(enumerate(ranked, start=1), key=lambda item: (item[0] * item[1], item[1]))[1]


def sell(bids: Iterable[Bid], seed: bytes, committed: str, *, reserve: int = 0) -> Offer:
    """Prices for both halves and who accepts them, highest bid first; equal bids by time.

    Every bidder counts once, with their highest bid. A half whose other half has no acceptable
    bid is offered ``reserve`` (nothing without one). Raises ValueError when ``seed`` is not the
    one that was committed to.
    """
    if not hmac.compare_digest(commitment(seed), committed):
        raise ValueError("this is not the seed that was committed to")
    best: dict[int, Bid] = {}
    for bid in sorted(bids, key=lambda bid: (-bid.price, bid.ref)):
        best.setdefault(bid.bidder, bid)
    halves: tuple[list[Bid], list[Bid]] = ([], [])
    for bid in best.values():
        halves[half(seed, bid.bidder)].append(bid)
    learned = [optimal_price((bid.price for bid in part), reserve) for part in halves]
    prices = tuple(price if price is not None else reserve or None for price in reversed(learned))
    winners = [
        (bid, price)
        for part, price in zip(halves, prices, strict=True)
        for bid in part
        if price is not None and bid.price >= price
    ]
    winners.sort(key=lambda item: (-item[0].price, item[0].ref))
    return Offer(
        (prices[0], prices[1]),
        [Award(bid.ref, bid.bidder, price) for bid, price in winners],
    )
