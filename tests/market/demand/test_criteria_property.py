"""Any request, any listings: relaxing a constraint never removes a match."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given, settings, strategies as st

from listings.classification import Grade
from listings.market_facts import MarketFacts
from listings.vocabulary import Category, Purpose
from market.demand.criteria import Price, check, closeness, cost
from market.demand.ranking import Candidate, rank
from market.demand.schemas import Constraints
from tests.market.demand.samples import NOW, facts

DAYS = st.integers(0, 40).map(lambda day: date(2025, 1, 1) + timedelta(days=day))
PERIODS = st.tuples(DAYS, DAYS).map(lambda pair: (min(pair), max(pair)))
FIELDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True)
REGIONS = st.lists(st.sampled_from(["CN", "CN-SH", "CN-BJ", "JP"]), unique=True)
PURPOSES = st.lists(st.sampled_from(list(Purpose)), unique=True, max_size=3)
GRADES = st.sampled_from([Grade.GENERAL, Grade.IMPORTANT])
CATEGORIES = st.sampled_from([Category.ENERGY, Category.TRANSPORT])


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


WANTED = st.fixed_dictionaries(
    {
        "category": _maybe(CATEGORIES),
        "fields": FIELDS,
        "regions": REGIONS,
        "period": _maybe(PERIODS.map(lambda pair: {"start": pair[0], "end": pair[1]})),
        "rows_min": _maybe(st.integers(1, 10)),
        "rows_max": _maybe(st.integers(10, 20)),
        "grade_max": _maybe(GRADES),
        "purposes": PURPOSES,
        "quantity": _maybe(
            st.fixed_dictionaries(
                {"unit": st.sampled_from(["row", "call"]), "units": st.integers(1, 40)}
            )
        ),
        "budget": _maybe(
            st.fixed_dictionaries(
                {"amount_minor": st.integers(1, 60), "currency": st.sampled_from(["CNY", "USD"])}
            )
        ),
        "quality_min": _maybe(st.sampled_from(["0.1000", "0.5000", "0.9000"])),
        "freshness_days": _maybe(st.integers(1, 20)),
    }
)
PRICES = st.lists(
    st.builds(
        Price,
        plan_id=st.integers(1, 5).map(lambda number: UUID(int=number)),
        unit=st.sampled_from(["row", "call", "license"]),
        lot_units=st.integers(1, 20),
        minor=st.integers(1, 40),
        currency=st.sampled_from(["CNY", "USD"]),
    ),
    max_size=4,
)
LISTINGS = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {
                "category": CATEGORIES,
                "columns": FIELDS.map(tuple),
                "regions": REGIONS.map(tuple),
                "periods": st.lists(PERIODS, max_size=2).map(tuple),
                "rows": st.integers(1, 20),
                "grade": GRADES,
                "purposes": PURPOSES.map(lambda each: tuple(word.value for word in each)),
                "quality": st.integers(0, 10_000),
                "latest": _maybe(st.integers(0, 25).map(lambda age: NOW - timedelta(days=age))),
                "text_score": st.integers(0, 3),
            }
        ),
        PRICES,
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def relaxed(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request and the same one asking for less: one constraint dropped or loosened."""
    wanted = draw(WANTED)
    name = draw(st.sampled_from(sorted(wanted)))
    less = dict(wanted)
    value = wanted[name]
    loosened: list[Any] = [[] if isinstance(value, list) else None]
    if isinstance(value, list) and value:
        loosened.append(value[1:])
    if name == "rows_min" and value:
        loosened.append(max(1, value - 1))
    if name in ("rows_max", "freshness_days") and value:
        loosened.append(value + 1)
    if name == "grade_max" and value:
        loosened.append(Grade.IMPORTANT)
    if name == "budget" and value:
        loosened.append({**value, "amount_minor": value["amount_minor"] + 7})
    if name == "quantity" and value:
        loosened.append({**value, "units": max(1, value["units"] - 3)})
    if name == "period" and value:
        loosened.append({**value, "end": value["start"]})
    less[name] = draw(st.sampled_from(loosened))
    return wanted, less


def _matches(wanted: Constraints, listings: list[tuple[MarketFacts, list[Price]]]) -> list[UUID]:
    candidates = []
    for each, prices in listings:
        checks = check(wanted, each, prices, country="CN", now=NOW)
        if all(made.met for made in checks):
            bill = cost(wanted, prices)
            candidates.append(
                Candidate(
                    each.listing_id,
                    closeness(checks),
                    each.text_score,
                    bill.minor if bill else None,
                )
            )
    return [ranked.listing_id for ranked in rank(candidates)]


@given(pair=relaxed(), found=LISTINGS)
@settings(max_examples=400, deadline=None)
def test_relaxing_a_constraint_never_removes_a_match(
    pair: tuple[dict[str, Any], dict[str, Any]],
    found: list[tuple[dict[str, Any], list[Price]]],
) -> None:
    wanted, less = (Constraints.model_validate(each) for each in pair)
    listings = [
        (facts(number, **changes), prices) for number, (changes, prices) in enumerate(found, 1)
    ]
    assert set(_matches(wanted, listings)) <= set(_matches(less, listings))


@given(wanted=WANTED, found=LISTINGS, order=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_depends_on_the_listings_only(
    wanted: dict[str, Any], found: list[tuple[dict[str, Any], list[Price]]], order: Any
) -> None:
    asked = Constraints.model_validate(wanted)
    listings = [
        (facts(number, **changes), prices) for number, (changes, prices) in enumerate(found, 1)
    ]
    shuffled = list(listings)
    order.shuffle(shuffled)
    assert _matches(asked, shuffled) == _matches(asked, listings)


@given(listings=LISTINGS, near=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_closeness_is_a_share_and_places_are_ranks(
    listings: list[tuple[dict[str, Any], list[Price]]], near: int
) -> None:
    candidates = [
        Candidate(UUID(int=number), (near * number) % 10**6, changes["text_score"], None)
        for number, (changes, _) in enumerate(listings, 1)
    ]
    ranked = {each.listing_id: each for each in rank(candidates)}
    for one in candidates:
        better = sum(other.closeness > one.closeness for other in candidates)
        assert ranked[one.listing_id].closeness_place == better + 1
