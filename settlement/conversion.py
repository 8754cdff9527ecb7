"""What an amount becomes in another currency. Pure integer arithmetic.

Both roundings go down: ``gross`` in favor of the exchange's fx account (less than one minor unit
of the target), ``fee`` in favor of the party.
"""

from __future__ import annotations

from typing import NamedTuple

from market.kernel.money import exponent

BPS = 10_000


class Converted(NamedTuple):
    """Minor units of the target currency; the party receives ``gross - fee``."""

    gross: int
    fee: int

    @property
    def net(self) -> int:
        return self.gross - self.fee


def convert(
    amount_minor: int,
    source: str,
    target: str,
    *,
    numerator: int,
    denominator: int,
    spread_bps: int,
) -> Converted:
    """``amount_minor`` of ``source`` at numerator/denominator target units per source unit.

    The rate is per major unit; the exponents of ISO 4217 bring it to minor units. Raises
    ValueError for numbers outside their range.
    """
    if amount_minor < 1 or numerator < 1 or denominator < 1 or not 0 <= spread_bps < BPS:
        raise ValueError("amount and ratio are positive, the spread is below 100 %")
    gross = (amount_minor * numerator * 10 ** exponent(target)) // (
        denominator * 10 ** exponent(source)
    )
    return Converted(gross, gross * spread_bps // BPS)
