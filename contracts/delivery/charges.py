"""What a delivery costs in each unit of the meter: whole, broken off, or not known before it.

The table in docs/metering.md is this module in words.
"""

from __future__ import annotations

from contracts.delivery.once import Earlier, reserve_once
from contracts.errors import QuotaExhausted
from contracts.metering import Hold
from contracts.metering_records import Fact
from contracts.models import Unit
from market.kernel.context import Kernel

NS_PER_MS = 1_000_000
# Units of which a part of a delivery costs a part; of the others it is all or nothing.
DIVISIBLE = frozenset({Unit.ROW, Unit.BYTE, Unit.MILLISECOND})


def whole_units(unit: Unit, *, rows: int, size: int) -> int:
    """Units of an answer of ``rows`` rows and ``size`` bytes before content coding.

    Time is not known from an answer: see :func:`whole_ms`.
    """
    if unit is Unit.ROW:
        return rows
    return size if unit is Unit.BYTE else 1


def whole_ms(nanoseconds: int) -> int:
    """Begun milliseconds, at least one."""
    return max(1, -(-nanoseconds // NS_PER_MS))


def part_units(unit: Unit, units: int, *, sent: int, size: int) -> int:
    """Units owed when ``sent`` of ``size`` bytes were delivered of what costs ``units`` whole."""
    if sent >= size:
        return units
    return units * sent // size if unit in DIVISIBLE else 0


async def reserve_up_to(
    kernel: Kernel,
    whole: Fact,
    *,
    delivery_id: str | None,
    seller_safe: bool,
    sub_lease_units: int = 0,
) -> Hold | Earlier:
    """Reserve ``whole.units`` or, if fewer are left, all of these; the hold says how many.

    For what is known only afterwards. Raises as
    :func:`contracts.delivery.once.reserve_once`; QuotaExhausted (402) when nothing is left, or
    others take it meanwhile.
    """
    asked = whole
    while True:
        try:
            return await reserve_once(
                kernel,
                asked,
                delivery_id=delivery_id,
                seller_safe=seller_safe,
                sub_lease_units=sub_lease_units,
            )
        except QuotaExhausted as refusal:
            # Of the token's own quota or of the grant: first the one, then the other may say so.
            left = refusal.extra.get("remaining")
            if not isinstance(left, int) or not 0 < left < asked.units:
                raise
            asked = asked._replace(units=left)


def remaining_after(hold: Hold, charged: int) -> int | None:
    """Units left once ``hold`` is settled for ``charged``; None: no bound."""
    return None if hold.remaining is None else hold.remaining + hold.units - charged


def not_enough(hold: Hold, unit: Unit) -> QuotaExhausted:
    """The 402 of a delivery that turned out to need more than ``hold``, all that was left."""
    left = remaining_after(hold, 0)
    return QuotaExhausted(
        f"It needs more than the {hold.units} that are left ({unit.value}).",
        remaining=left,
        unit=unit.value,
    )
