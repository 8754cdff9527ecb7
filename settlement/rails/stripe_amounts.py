"""Stripe's own minor units (docs.stripe.com/currencies), to and from ISO 4217. Pure.

ISK and UGX have no decimals but are written with two, which must be zero. MGA is written without
its two. Three-digit currencies must end in zero. Payouts in HUF and TWD have whole units only.
"""

from __future__ import annotations

from market.kernel.money import exponent
from settlement.errors import AmountNotPayable

_WRITTEN_DIGITS = {"ISK": 2, "UGX": 2, "MGA": 0}
_UNSUPPORTED = frozenset({"CLF", "CUP", "IQD", "IRR", "KPW", "LYD", "SDG", "SYP", "UYI", "UYW"})
_PAYOUT_STEP = {"HUF": 100, "TWD": 100}
# Largest amount of one charge: eight digits in Stripe's minor units.
CHARGE_MAX = 99_999_999


def to_stripe(amount_minor: int, currency: str) -> int:
    """ISO 4217 minor units as Stripe writes them. Raises AmountNotPayable (422)."""
    if currency in _UNSUPPORTED:
        raise AmountNotPayable(f"Stripe does not take {currency}.", param="money.currency")
    digits = exponent(currency)
    if digits == 3 and amount_minor % 10:
        raise AmountNotPayable(
            f"Stripe takes {currency} in steps of ten minor units.", param="money.amount_minor"
        )
    written = _WRITTEN_DIGITS.get(currency, digits)
    if written >= digits:
        return amount_minor * int(10 ** (written - digits))
    scale: int = 10 ** (digits - written)
    if amount_minor % scale:
        raise AmountNotPayable(
            f"Stripe takes whole units of {currency} only.", param="money.amount_minor"
        )
    return amount_minor // scale


def from_stripe(amount: int, currency: str) -> int:
    """The reverse of :func:`to_stripe`; signed. Raises ValueError when it does not come out even,
    which Stripe rules out for what it writes with more digits than ISO 4217 has."""
    code = currency.upper()
    digits = exponent(code)
    written = _WRITTEN_DIGITS.get(code, digits)
    if written <= digits:
        return amount * int(10 ** (digits - written))
    scale: int = 10 ** (written - digits)
    if amount % scale:
        raise ValueError(f"{amount} {code} has a fraction that the currency does not know")
    return amount // scale


def to_charge(amount_minor: int, currency: str) -> int:
    """:func:`to_stripe`, at most eight digits. Raises AmountNotPayable."""
    amount = to_stripe(amount_minor, currency)
    if amount > CHARGE_MAX:
        raise AmountNotPayable("Stripe charges at most eight digits.", param="money.amount_minor")
    return amount


def to_payout(amount_minor: int, currency: str) -> int:
    """:func:`to_stripe` for a payout: HUF and TWD in whole units. Raises AmountNotPayable."""
    amount = to_stripe(amount_minor, currency)
    if amount % _PAYOUT_STEP.get(currency, 1):
        raise AmountNotPayable(
            f"Stripe pays out whole units of {currency} only.", param="money.amount_minor"
        )
    return amount


def payable(amount_minor: int, currency: str) -> int:
    """The largest amount up to ``amount_minor`` that :func:`to_payout` takes; minor units."""
    digits = exponent(currency)
    step = _PAYOUT_STEP.get(currency, 10 if digits == 3 else 1)
    # Written with fewer digits than ISO 4217 has (MGA): whole units only.
    step = max(step, int(10 ** (digits - min(digits, _WRITTEN_DIGITS.get(currency, digits)))))
    return amount_minor - amount_minor % step
