"""Tax inside an amount. Pure.

Amounts on the exchange contain their tax (价税合计). An amount ``g`` at rate ``r`` ppm is cut into
``g × 1,000,000 ÷ (1,000,000 + r)`` without tax and the tax, by largest remainder in two, so both
parts are integers, add up exactly, and neither shrinks as the amount grows: the tax of several
partial releases is the difference of two cumulative cuts and equals that of one release.
"""

from typing import NamedTuple

from market.kernel.money import PPM, split

RATE_MAX_PPM = PPM - 1


class Taxed(NamedTuple):
    """Minor units without tax, of tax, and with tax; the first two add up to the third."""

    without_tax: int
    tax: int

    @property
    def total(self) -> int:
        return self.without_tax + self.tax


def contained(total: int, rate_ppm: int) -> Taxed:
    """The tax inside ``total`` minor units. Raises ValueError below zero or above the rate."""
    if not 0 <= rate_ppm <= RATE_MAX_PPM:
        raise ValueError(f"a tax rate is 0 to {RATE_MAX_PPM} ppm, not {rate_ppm}")
    without_tax, tax = split(total, (PPM, rate_ppm))
    return Taxed(without_tax, tax)


def contained_in_step(before: int, amount: int, rate_ppm: int) -> Taxed:
    """The tax of ``amount`` after ``before`` was taxed already: the difference of two cuts."""
    earlier, later = contained(before, rate_ppm), contained(before + amount, rate_ppm)
    return Taxed(later.without_tax - earlier.without_tax, later.tax - earlier.tax)


def including(without_tax: int, rate_ppm: int) -> Taxed:
    """Add tax to a price without it, rounded half up to a minor unit. Raises as above."""
    if without_tax < 0 or not 0 <= rate_ppm <= RATE_MAX_PPM:
        raise ValueError("a price is not negative, a tax rate is below 1,000,000 ppm")
    return Taxed(without_tax, (2 * without_tax * rate_ppm + PPM) // (2 * PPM))
