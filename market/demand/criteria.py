"""Does a listing meet a request, and how closely? Pure.

Every stated constraint gives one check; a listing matches when all are met, and nearly matches
when exactly one is not. A check depends on its own constraint only, so relaxing a constraint can
never turn a match into anything else (``tests/market/demand/test_criteria_property.py``).

Closeness, in ppm per check, says how little more than asked for the listing brings: columns,
regions, days, rows or purposes wanted over found; the quality score itself; the age left. A
listing's closeness is the mean over the stated constraints, 0 without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from listings.classification import Grade
from listings.market_facts import MarketFacts
from listings.text import normalize
from market.demand.schemas import LOTS_MAX, Constraint, Constraints
from market.kernel.money import MAX_MINOR, PPM, display

# A part of a country that only the country's data covers.
_WITHIN_PPM = PPM // 2
_STRICTNESS = {Grade.GENERAL: 0, Grade.IMPORTANT: 1, Grade.CORE: 2}
_LISTED_MAX = 10


@dataclass(frozen=True, slots=True)
class Price:
    """An active plan: ``minor`` units of ``currency`` per lot of ``lot_units`` ``unit``."""

    plan_id: UUID
    unit: str
    lot_units: int
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Check:
    """One constraint against one listing; ``closeness`` None does not count for the mean."""

    constraint: Constraint
    met: bool
    wanted: str
    found: str
    closeness: int | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """What the wanted quantity costs: ``lots`` of the plan, ``minor`` units in all."""

    plan_id: UUID
    lots: int
    minor: int
    currency: str


def cost(wanted: Constraints, prices: Sequence[Price]) -> Bill | None:
    """The cheapest way to buy the quantity, ties to the older plan; None if no plan sells it.

    With a budget only plans in its currency count; what is more than one order can buy has no
    price.
    """
    bills = []
    for price in prices:
        if wanted.budget is not None and price.currency != wanted.budget.currency:
            continue
        lots = 1
        if wanted.quantity is not None:
            if price.unit != wanted.quantity.unit.value:
                continue
            lots = -(-wanted.quantity.units // price.lot_units)
        if lots <= LOTS_MAX and lots * price.minor <= MAX_MINOR:
            bills.append(Bill(price.plan_id, lots, lots * price.minor, price.currency))
    return min(bills, key=lambda bill: (bill.minor, bill.plan_id), default=None)


def check(
    wanted: Constraints,
    facts: MarketFacts,
    prices: Sequence[Price],
    *,
    country: str,
    now: datetime,
) -> list[Check]:
    """Every check of a listing, in a fixed order. ``country`` is the buyer's jurisdiction."""
    checks = (
        _category(wanted, facts),
        _fields(wanted, facts),
        _regions(wanted, facts),
        _period(wanted, facts),
        _volume(wanted, facts),
        _grade(wanted, facts),
        _purposes(wanted, facts),
        _territory(facts, country),
        _quantity(wanted, prices),
        _budget(wanted, prices),
        _quality(wanted, facts),
        _freshness(wanted, facts, now),
    )
    return [each for each in checks if each is not None]


def closeness(checks: Sequence[Check]) -> int:
    """The mean closeness in ppm, rounded down; 0 when no stated constraint measures any."""
    parts = [each.closeness for each in checks if each.closeness is not None]
    return sum(parts) // len(parts) if parts else 0


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(values[:_LISTED_MAX])
    return f"{shown} and {len(values) - _LISTED_MAX} more" if len(values) > _LISTED_MAX else shown


def _category(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if wanted.category is None:
        return None
    met = facts.category == wanted.category
    return Check(Constraint.CATEGORY, met, wanted.category.value, facts.category.value, PPM * met)


def _fields(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if not wanted.fields:
        return None
    names = {normalize(name).strip(): name for name in facts.columns}
    asked = {normalize(name).strip(): name for name in wanted.fields}
    missing = [name for key, name in asked.items() if key not in names]
    found = f"missing {_listed(missing)}" if missing else f"all among {len(facts.columns)} columns"
    near = (len(asked) - len(missing)) * PPM // max(len(names), len(asked))
    return Check(Constraint.FIELDS, not missing, _listed(wanted.fields), found, near)


def _regions(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if not wanted.regions:
        return None
    covered = [_covered(region, facts.regions) for region in wanted.regions]
    return Check(
        Constraint.REGIONS,
        all(covered),
        _listed(wanted.regions),
        _listed(facts.regions),
        sum(covered) // len(covered),
    )


def _covered(region: str, regions: Sequence[str]) -> int:
    if region in regions:
        return PPM
    return _WITHIN_PPM if region[:2] in regions else 0


def _period(wanted: Constraints, facts: MarketFacts) -> Check | None:
    period = wanted.period
    if period is None:
        return None
    asked = (period.end - period.start).days + 1
    covering = [
        asked * PPM // ((end - start).days + 1)
        for start, end in facts.periods
        if start <= period.start and period.end <= end
    ]
    found = _listed([f"{start} to {end}" for start, end in facts.periods])
    return Check(
        Constraint.PERIOD,
        bool(covering),
        f"{period.start} to {period.end}",
        found or "no column with dates",
        max(covering, default=0),
    )


def _volume(wanted: Constraints, facts: MarketFacts) -> Check | None:
    low, high = wanted.rows_min, wanted.rows_max
    if low is None and high is None:
        return None
    met = (low is None or facts.rows >= low) and (high is None or facts.rows <= high)
    aim = low if low is not None else high
    assert aim is not None
    near = min(aim, facts.rows) * PPM // max(aim, facts.rows)
    bounds = f"{low or 1} to {high} rows" if high is not None else f"at least {low} rows"
    return Check(Constraint.VOLUME, met, bounds, f"{facts.rows} rows", near)


def _grade(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if wanted.grade_max is None:
        return None
    met = _STRICTNESS[facts.grade] <= _STRICTNESS[wanted.grade_max]
    near = PPM // (1 + _STRICTNESS[facts.grade])
    return Check(
        Constraint.GRADE, met, f"at most {wanted.grade_max.value}", facts.grade.value, near
    )


def _purposes(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if not wanted.purposes:
        return None
    allowed = [purpose for purpose in wanted.purposes if purpose.value in facts.purposes]
    near = len(allowed) * PPM // max(len(facts.purposes), len(wanted.purposes))
    return Check(
        Constraint.PURPOSES,
        len(allowed) == len(wanted.purposes),
        _listed([purpose.value for purpose in wanted.purposes]),
        _listed(facts.purposes),
        near,
    )


def _territory(facts: MarketFacts, country: str) -> Check:
    # As contracts.policy reads it: a subdivision in the territory admits its country.
    met = not facts.territory or any(region[:2] == country for region in facts.territory)
    return Check(
        Constraint.TERRITORY, met, f"use in {country}", _listed(facts.territory) or "anywhere"
    )


def _quantity(wanted: Constraints, prices: Sequence[Price]) -> Check | None:
    if wanted.quantity is None:
        return None
    units = sorted({price.unit for price in prices})
    return Check(
        Constraint.QUANTITY,
        wanted.quantity.unit.value in units,
        f"{wanted.quantity.units} of unit {wanted.quantity.unit.value}",
        f"plans by {_listed(units)}" if units else "no active plan",
    )


def _budget(wanted: Constraints, prices: Sequence[Price]) -> Check | None:
    budget = wanted.budget
    if budget is None:
        return None
    bill = cost(wanted, prices)
    return Check(
        Constraint.BUDGET,
        bill is not None and bill.minor <= budget.amount_minor,
        f"at most {display(budget.amount_minor, budget.currency)}",
        display(bill.minor, bill.currency) if bill else f"no price in {budget.currency} for it",
    )


def _quality(wanted: Constraints, facts: MarketFacts) -> Check | None:
    if wanted.quality_min is None:
        return None
    least = int(wanted.quality_min.replace(".", ""))
    found = f"{facts.quality // 10_000}.{facts.quality % 10_000:04d}"
    return Check(
        Constraint.QUALITY,
        facts.quality >= least,
        f"at least {wanted.quality_min}",
        found,
        facts.quality * (PPM // 10_000),
    )


def _freshness(wanted: Constraints, facts: MarketFacts, now: datetime) -> Check | None:
    if wanted.freshness_days is None:
        return None
    asked = f"at most {wanted.freshness_days} days old"
    if facts.latest is None:
        return Check(Constraint.FRESHNESS, False, asked, "no column with dates", 0)
    limit, age = timedelta(days=wanted.freshness_days), max(now - facts.latest, timedelta(0))
    near = max(limit - age, timedelta(0)) * PPM // limit
    return Check(Constraint.FRESHNESS, age <= limit, asked, f"{age.days} days old", near)
