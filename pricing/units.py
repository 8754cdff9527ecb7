"""From the units that plans sell to those that agreements and grants count. Pure.

A plan may sell a unit that no delivery comes in: one of 3 KiB must not cost a MiB. Such a plan is
scaled once, when an agreement is formed; from there on terms, quota, usage, money, receipts and
resale all count in the finer unit.
"""

from typing import NamedTuple

from pricing.models import Unit

MIB_BYTES = 1 << 20
SECOND_MS = 1_000


class Counted(NamedTuple):
    """What is counted, and how many of it one unit of the plan is."""

    unit: str
    per_unit: int


_FINER = {
    Unit.MIB: Counted("byte", MIB_BYTES),
    Unit.COMPUTE_SECOND: Counted("millisecond", SECOND_MS),
}


def counted(unit: Unit) -> Counted:
    """How the meter counts ``unit``: itself, unless it has to be finer."""
    return _FINER.get(unit, Counted(unit.value, 1))


def counted_units(unit: Unit, units: int) -> int:
    """``units`` of a plan in what the meter counts."""
    return units * counted(unit).per_unit
