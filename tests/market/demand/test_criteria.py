"""Each constraint against one listing: met or not, what is said, how close."""

from typing import Any
from uuid import UUID

import pytest

from listings.classification import Grade
from market.demand.criteria import Bill, closeness, cost
from market.demand.schemas import Constraint, Constraints
from tests.market.demand.samples import checks_of, facts, price

# constraint, request, changes of the listing, met, what was found, closeness in ppm.
CASES: list[tuple[Constraint, dict[str, Any], dict[str, Any], bool, str, int]] = [
    (Constraint.CATEGORY, {"category": "transport"}, {}, True, "transport", 1_000_000),
    (Constraint.CATEGORY, {"category": "energy"}, {}, False, "transport", 0),
    # Width and case do not matter: ＲＯＡＤ is Road.
    (Constraint.FIELDS, {"fields": ["ＲＯＡＤ", "DAY"]}, {}, True, "all among 4 columns", 500_000),
    (Constraint.FIELDS, {"fields": ["day", "wind"]}, {}, False, "missing wind", 250_000),
    (Constraint.REGIONS, {"regions": ["CN"]}, {}, True, "CN", 1_000_000),
    (Constraint.REGIONS, {"regions": ["CN-SH"]}, {}, True, "CN", 500_000),
    (Constraint.REGIONS, {"regions": ["CN"]}, {"regions": ("CN-SH",)}, False, "CN-SH", 0),
    (Constraint.REGIONS, {"regions": ["CN", "JP"]}, {}, False, "CN", 500_000),
    (
        Constraint.PERIOD,
        {"period": {"start": "2025-01-01", "end": "2025-03-14"}},
        {},
        True,
        "2025-01-01 to 2025-12-31",
        200_000,
    ),
    (
        Constraint.PERIOD,
        {"period": {"start": "2024-12-31", "end": "2025-01-02"}},
        {},
        False,
        "2025-01-01 to 2025-12-31",
        0,
    ),
    (
        Constraint.PERIOD,
        {"period": {"start": "2025-01-01", "end": "2025-01-02"}},
        {"periods": ()},
        False,
        "no column with dates",
        0,
    ),
    (Constraint.VOLUME, {"rows_min": 1_000}, {}, True, "1000 rows", 1_000_000),
    (Constraint.VOLUME, {"rows_min": 250, "rows_max": 1_000}, {}, True, "1000 rows", 250_000),
    (Constraint.VOLUME, {"rows_min": 1_001}, {}, False, "1000 rows", 999_000),
    (Constraint.VOLUME, {"rows_max": 999}, {}, False, "1000 rows", 999_000),
    (Constraint.VOLUME, {"rows_max": 2_000}, {}, True, "1000 rows", 500_000),
    (Constraint.GRADE, {"grade_max": "general"}, {}, True, "general", 1_000_000),
    (
        Constraint.GRADE,
        {"grade_max": "general"},
        {"grade": Grade.IMPORTANT},
        False,
        "important",
        500_000,
    ),
    (
        Constraint.GRADE,
        {"grade_max": "important"},
        {"grade": Grade.IMPORTANT},
        True,
        "important",
        500_000,
    ),
    (
        Constraint.PURPOSES,
        {"purposes": ["model_training"]},
        {},
        True,
        "internal_analytics, model_training",
        500_000,
    ),
    (
        Constraint.PURPOSES,
        {"purposes": ["model_training", "public_service"]},
        {},
        False,
        "internal_analytics, model_training",
        500_000,
    ),
    (Constraint.QUALITY, {"quality_min": "0.9000"}, {}, True, "0.9000", 900_000),
    (Constraint.QUALITY, {"quality_min": "0.9001"}, {}, False, "0.9000", 900_000),
    (Constraint.FRESHNESS, {"freshness_days": 40}, {}, True, "10 days old", 750_000),
    (Constraint.FRESHNESS, {"freshness_days": 10}, {}, True, "10 days old", 0),
    (Constraint.FRESHNESS, {"freshness_days": 9}, {}, False, "10 days old", 0),
    (
        Constraint.FRESHNESS,
        {"freshness_days": 9},
        {"latest": None},
        False,
        "no column with dates",
        0,
    ),
]


@pytest.mark.parametrize(("constraint", "wanted", "changes", "met", "found", "near"), CASES)
def test_a_constraint(
    constraint: Constraint,
    wanted: dict[str, Any],
    changes: dict[str, Any],
    met: bool,
    found: str,
    near: int,
) -> None:
    checks = checks_of(facts(**changes), **wanted)
    # The stated one, and the territory, which is always looked at.
    assert list(checks) == sorted({constraint, Constraint.TERRITORY}, key=list(Constraint).index)
    made = checks[constraint]
    assert (made.met, made.found, made.closeness) == (met, found, near)
    assert checks[Constraint.TERRITORY].met


@pytest.mark.parametrize(
    ("territory", "country", "met"),
    [((), "US", True), (("CN",), "CN", True), (("CN-SH",), "CN", True), (("CN",), "US", False)],
)
def test_the_policy_must_allow_use_where_the_buyer_is(
    territory: tuple[str, ...], country: str, met: bool
) -> None:
    checks = checks_of(facts(territory=territory), country=country)
    assert [(each.constraint, each.met) for each in checks.values()] == [
        (Constraint.TERRITORY, met)
    ]


def test_the_budget_is_compared_with_the_cheapest_way_to_buy_the_quantity() -> None:
    # 2,500 rows: 3 lots of 1,000 at 400 are 1,200; 25 lots of 100 at 50 are 1,250.
    prices = (
        price(400, unit="row", lot_units=1_000, plan=UUID(int=1)),
        price(50, unit="row", lot_units=100, plan=UUID(int=2)),
        price(1, unit="call", lot_units=1, plan=UUID(int=3)),
    )
    quantity = {"unit": "row", "units": 2_500}
    enough = {"amount_minor": 1_200, "currency": "CNY"}
    short = {"amount_minor": 1_199, "currency": "CNY"}
    wanted = Constraints.model_validate({"quantity": quantity, "budget": enough})
    assert cost(wanted, prices) == Bill(UUID(int=1), 3, 1_200, "CNY")
    met = checks_of(facts(), *prices, quantity=quantity, budget=enough)[Constraint.BUDGET]
    assert (met.met, met.wanted, met.found) == (True, "at most 12.00 CNY", "12.00 CNY")
    assert not checks_of(facts(), *prices, quantity=quantity, budget=short)[Constraint.BUDGET].met


def test_no_price_in_the_budgets_currency_and_no_plan_for_the_unit() -> None:
    dollars = {"amount_minor": 10**6, "currency": "USD"}
    made = checks_of(facts(), price(1), budget=dollars)[Constraint.BUDGET]
    assert (made.met, made.found) == (False, "no price in USD for it")
    quantity = {"unit": "row", "units": 1}
    made = checks_of(facts(), price(1), quantity=quantity)[Constraint.QUANTITY]
    assert (made.met, made.found) == (False, "plans by license")


def test_what_one_order_cannot_buy_has_no_price() -> None:
    wanted = Constraints.model_validate({"quantity": {"unit": "row", "units": 1_000_000_001}})
    assert cost(wanted, [price(1, unit="row")]) is None
    assert cost(wanted, [price(10**15, unit="row", lot_units=10**9)]) is None
    assert cost(wanted, [price(5, unit="row", lot_units=10**9)]) == Bill(UUID(int=7), 2, 10, "CNY")


def test_closeness_is_the_mean_over_the_stated_constraints() -> None:
    checks = checks_of(facts(), regions=["CN-SH"], rows_min=250, quality_min="0.5000")
    # (500,000 + 250,000 + 900,000) / 3; the territory does not count.
    assert closeness(list(checks.values())) == 550_000
    assert closeness(list(checks_of(facts()).values())) == 0
