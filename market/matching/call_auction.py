"""The price of a call auction, from the two aggregated sides (pure).

Order of the rules: largest volume, then smallest surplus, then market pressure, then the price
nearest to the reference. Venues differ on ties (pricing.md B5 G9: CoinTossX takes the highest
price, others the lowest), hence the last two steps.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


class Clearing(NamedTuple):
    """``surplus`` > 0: lots wanted beyond ``volume`` at ``price``; < 0: lots offered beyond it."""

    price: int
    volume: int
    surplus: int


def clearing(
    bids: Sequence[tuple[int, int]], asks: Sequence[tuple[int, int]], reference: int | None
) -> Clearing | None:
    """The clearing of two sides of (price, lots), best price first; None when nothing crosses.

    Candidates are the limits between best ask and best bid and, inside that range, ``reference``
    (the last price; minor units, on the tick). Among prices of equal volume and surplus, demand
    left at all of them pulls the price up, supply left at all of them pushes it down; between
    the two, or without surplus, the nearest to ``reference`` wins (without one: to the middle of
    the range), the lower of two equally near. O(n log n).
    """
    if not bids or not asks or bids[0][0] < asks[0][0]:
        return None
    low, high = asks[0][0], bids[0][0]
    prices = {price for price, _ in (*bids, *asks) if low <= price <= high}
    if reference is not None and low <= reference <= high:
        prices.add(reference)
    bid_keys, demand = [-price for price, _ in bids], [0, *accumulate(lots for _, lots in bids)]
    ask_keys, supply = [price for price, _ in asks], [0, *accumulate(lots for _, lots in asks)]
    candidates: list[Clearing] = []
    for price in sorted(prices):
        wanted = demand[bisect_right(bid_keys, -price)]
        offered = supply[bisect_right(ask_keys, price)]
        candidates.append(Clearing(price, min(wanted, offered), wanted - offered))
    volume = max(found.volume for found in candidates)
    surplus = min(abs(found.surplus) for found in candidates if found.volume == volume)
    tied = [item for item in candidates if (item.volume, abs(item.surplus)) == (volume, surplus)]
    return _nearest(_under_pressure(tied), reference)


def _under_pressure(tied: list[Clearing]) -> list[Clearing]:
    """From the highest price with demand left to the lowest with supply left.

    Surplus falls as the price rises, so the first rule cuts off low prices, the second high ones.
    """
    lowest = max((found.price for found in tied if found.surplus > 0), default=tied[0].price)
    highest = min((found.price for found in tied if found.surplus < 0), default=tied[-1].price)
    prices = [found.price for found in tied]
    return tied[bisect_left(prices, lowest) : bisect_right(prices, highest)]


def _nearest(tied: list[Clearing], reference: int | None) -> Clearing:
    aim = (tied[0].price + tied[-1].price) // 2 if reference is None else reference
    return min(tied, key=lambda found: (abs(found.price - aim), found.price))
