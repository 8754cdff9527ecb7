"""Money: integer minor units and an ISO 4217 currency. No float anywhere."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt

# Ten trillion units of a two-digit currency; below 2**53, so that every JSON reader keeps it
# exact, and far below bigint, so that sums of millions of amounts do not overflow.
MAX_MINOR = 10**15

PPM = 1_000_000

# ISO 4217 list one (2024-06), exponent of the minor unit.
_EXPONENTS: dict[int, str] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN "
        "BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS "
        "GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR "
        "LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD "
        "PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN "
        "SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: dict[str, int] = {
    code: exponent for exponent, codes in _EXPONENTS.items() for code in codes.split()
}


def exponent(currency: str) -> int:
    """Digits of the minor unit (CNY 2, JPY 0, KWD 3). Raises KeyError for an unknown code."""
    return EXPONENTS[currency]


def _known(code: str) -> str:
    if code not in EXPONENTS:
        raise ValueError("unknown ISO 4217 currency code")
    return code


Currency = Annotated[
    str,
    Field(pattern=r"^[A-Z]{3}$", json_schema_extra={"enum": sorted(EXPONENTS)}, examples=["CNY"]),
    AfterValidator(_known),
]
AmountMinor = Annotated[
    StrictInt, Field(ge=1, le=MAX_MINOR, description="Amount in minor units, at least 1.")
]
BalanceMinor = Annotated[
    StrictInt,
    Field(ge=-(2**62), le=2**62, description="Signed amount in minor units."),
]


class Money(BaseModel):
    """A positive amount: ``{"amount_minor": 1250, "currency": "CNY"}`` is ¥12.50."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount_minor: AmountMinor
    currency: Currency


def decimal_text(amount_minor: int, currency: str) -> str:
    """For programs: ``decimal_text(-125005, "CNY")`` is ``"-1250.05"``. Integer arithmetic only."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    return f"{sign}{whole}.{fraction:0{digits}d}" if digits else f"{sign}{whole}"


def display(amount_minor: int, currency: str) -> str:
    """For people: ``display(-1250, "CNY")`` is ``"-12.50 CNY"``. Integer arithmetic only."""
    digits = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    if digits == 0:
        return f"{sign}{whole:,} {currency}"
    return f"{sign}{whole:,}.{fraction:0{digits}d} {currency}"


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` minor units by integer ``weights``; the parts sum to ``total`` exactly.

    Largest remainder (Hamilton); ties go to the earlier weight, so that the same input gives
    the same parts on every machine. Raises ValueError for a negative total or weight, or when
    the weights sum to zero while there is something to split.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError("split needs a non-negative total and non-negative weights")
    whole = sum(weights)
    if whole == 0:
        if total == 0:
            return [0] * len(weights)
        raise ValueError("split needs at least one positive weight")
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts
