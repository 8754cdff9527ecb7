"""From the units that plans sell to those that agreements and grants count. Pure.

A plan may sell a unit that no delivery comes in: one of 3 KiB must not cost a MiB. Such a plan is
scaled once, when an agreement is formed; from there on terms, quota, usage, money, receipts and
resale all count in the finer unit.
"""

from typing import Literal, NamedTuple

from pricing.models import Unit

MIB_BYTES = 1 << 20
SECOND_MS = 1_000


CountedUnit = Literal["row", "call", "byte", "query", "millisecond", "license"]
Way = Literal["rows", "sharing", "bulk", "proxy"]

# What has what is counted. A file is no query and takes no time of one; a call of a seller's API
# has neither rows nor queries. ``proxy`` needs an upstream; every product has a version to read.
WAYS_OUT: dict[CountedUnit, tuple[Way, ...]] = {
    "row": ("rows", "sharing", "bulk"),
    "call": ("rows", "sharing", "bulk", "proxy"),
    "byte": ("rows", "sharing", "bulk", "proxy"),
    "query": ("rows", "sharing"),
    "millisecond": ("rows", "proxy"),
    "license": ("rows", "sharing", "bulk", "proxy"),
}


class Counted(NamedTuple):
    """What is counted, and how many of it one unit of the plan is."""

    unit: CountedUnit
    per_unit: int


_COUNTED = {
    Unit.ROW: Counted("row", 1),
    Unit.CALL: Counted("call", 1),
    Unit.MIB: Counted("byte", MIB_BYTES),
    Unit.QUERY: Counted("query", 1),
    Unit.COMPUTE_SECOND: Counted("millisecond", SECOND_MS),
    Unit.LICENSE: Counted("license", 1),
}


def counted(unit: Unit) -> Counted:
    """How the meter counts ``unit``: itself, unless it has to be finer."""
    return _COUNTED[unit]


def counted_units(unit: Unit, units: int) -> int:
    """``units`` of a plan in what the meter counts."""
    return units * counted(unit).per_unit
