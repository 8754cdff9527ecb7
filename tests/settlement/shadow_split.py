"""Who gets what of a sale, computed with fractions from the text of the terms. No rounding trick.

The fee is its rate of everything released so far, rounded to the nearest unit (halves go to the
fee); of the rest each contributor in turn gets its rate, as a part of the rates not served yet,
of what is still there, rounded the same way; the seller keeps what is left. A release pays the
difference between two such totals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from uuid import UUID

WHOLE = 1_000_000


def nearest(amount: Fraction) -> int:
    """The nearest integer; a half goes up."""
    return math.floor(amount + Fraction(1, 2))


def parts_of(total: int, fee_ppm: int, shares_ppm: Sequence[int]) -> list[int]:
    """Fee, each contributor and the seller, of ``total`` minor units released so far."""
    fee = nearest(Fraction(total * fee_ppm, WHOLE))
    left, left_ppm, given = total - fee, WHOLE, []
    for ppm in shares_ppm:
        share = nearest(Fraction(left * ppm, left_ppm))
        given.append(share)
        left, left_ppm = left - share, left_ppm - ppm
    return [fee, *given, left]


def pay(
    before: int, amount: int, fee_ppm: int, shares: Sequence[tuple[UUID, int]], seller: UUID
) -> tuple[int, dict[UUID, int]]:
    """The fee and what each party gets when ``amount`` is released after ``before``."""
    rates = [ppm for _, ppm in shares]
    earlier, later = parts_of(before, fee_ppm, rates), parts_of(before + amount, fee_ppm, rates)
    fee, *given = (new - old for new, old in zip(later, earlier, strict=True))
    paid: dict[UUID, int] = {}
    for party, money in zip([*(party for party, _ in shares), seller], given, strict=True):
        if money:
            paid[party] = paid.get(party, 0) + money
    return fee, paid
