"""The three approaches: golden numbers of reference/pricing.md A3 row 7, ranges, properties."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from market.kernel.money import MAX_MINOR
from pricing.errors import ValuationImpossible
from pricing.valuation import (
    Appraisal,
    Approach,
    Comparable,
    CostInputs,
    Estimate,
    IncomeInputs,
    IncomeMethod,
    MarketInputs,
    Step,
    Term,
    TraceUnit,
    combine,
    cost,
    income,
    market,
    per_lot,
    quantile,
)

exact = Estimate.exact
ONE = exact(1_000_000)
NO_FACTORS = dict.fromkeys(("X_quality", "X_supply_demand", "X_date", "X_capacity", "X_other"), ONE)


def cost_inputs(**changes: Any) -> CostInputs:
    stated: dict[str, Any] = {
        "lines": [exact(50_000), exact(30_000)],
        "return_rate": exact(150_000),
        "quality": exact(950_000),
        "circulation": exact(850_000),
        "monopoly": exact(100_000),
        "risk": exact(50_000),
    }
    return CostInputs(**{**stated, **changes})


def flows(
    *amounts: int,
    rate: int = 100_000,
    method: IncomeMethod = IncomeMethod.DIRECT,
    other: int = 0,
) -> IncomeInputs:
    terms = [Term(exact(amount), exact(other)) for amount in amounts]
    return IncomeInputs(method, terms, exact(rate))


def step(appraisal: Appraisal, name: str) -> Step:
    return next(line for line in appraisal.trace if line.name == name)


def test_cost_approach_of_the_reference() -> None:
    # TC = 800.00, R = 15 %, U = .8438375, P = 776.3305, in minor units of a two-digit currency.
    found = cost(cost_inputs())
    assert step(found, "U").result == "0.8438375"
    assert step(found, "U").inputs == {"α": "0.95", "β": "0.85", "l": "0.1", "r": "0.05"}
    assert step(found, "TC").result == "80000"
    assert step(found, "TC").inputs == {"C_1": "50000", "C_2": "30000"}
    assert found.exact == Decimal("77633.05")
    assert step(found, "P").result == "77633.05"
    assert step(found, "P").unit is TraceUnit.MINOR
    assert found.value_minor == found.low_minor == found.high_minor == 77_633
    assert found.sensitivity == ()


def test_income_approach_of_the_reference() -> None:
    # F = 120, 130, 140 at 10 % is 321.7130.
    found = income(flows(12_000, 13_000, 14_000))
    assert (found.exact / 100).quantize(Decimal("1e-4")) == Decimal("321.7130")
    assert found.value_minor == 32_171
    assert [line.name for line in found.trace] == [
        "F_1",
        "PV_1",
        "F_2",
        "PV_2",
        "F_3",
        "PV_3",
        "V",
    ]
    assert step(found, "PV_1").result == "10909.0909090909"
    assert step(found, "PV_3").inputs == {"F_t": "14000", "i": "0.1", "t": "3"}


def test_market_approach_of_the_reference() -> None:
    # 500 × 1.05 × .90 × 1.02 × 1.20 is 578.34.
    factors = {
        "X_quality": exact(1_050_000),
        "X_supply_demand": exact(900_000),
        "X_date": exact(1_020_000),
        "X_capacity": exact(1_200_000),
        "X_other": ONE,
    }
    found = market(MarketInputs(1, exact(50_000), [], factors))
    assert found.exact == Decimal("57834")
    assert found.value_minor == 57_834
    assert found.trace[-1].formula == "V = V_ref·" + "·".join(factors)


@pytest.mark.parametrize(
    ("method", "other", "value"),
    [
        (IncomeMethod.DIRECT, 7, 220),
        (IncomeMethod.EXCESS, 30, 160),
        (IncomeMethod.INCREMENTAL, 100, 20),
        (IncomeMethod.SHARE, 250_000, 55),
    ],
)
def test_each_income_method_finds_its_flow(method: IncomeMethod, other: int, value: int) -> None:
    assert income(flows(110, 110, rate=0, method=method, other=other)).value_minor == value


def test_range_is_the_worst_and_best_combination_and_swings_move_one_input() -> None:
    found = cost(
        cost_inputs(
            lines=[Estimate(80_000, 60_000, 100_000)],
            risk=Estimate(50_000, 0, 200_000),
        )
    )
    assert found.value_minor == 77_633
    # 60,000·1.15·.95·.85·1.1·.8 and 100,000·1.15·.95·.85·1.1·1.
    assert found.low_minor == 49_031
    assert found.high_minor == 102_149
    assert [(s.input, s.at_low_minor, s.at_high_minor) for s in found.sensitivity] == [
        ("TC", 58_225, 97_041),
        ("r", 81_719, 65_375),
    ]


def test_income_range_with_mixed_signs_and_a_floor_of_zero() -> None:
    terms = [
        Term(Estimate(100, 0, 200), exact(150)),
        Term(Estimate(400, 100, 400), exact(150)),
    ]
    found = income(IncomeInputs(IncomeMethod.EXCESS, terms, Estimate(100_000, 0, 1_000_000)))
    # Center: -50/1.1 + 250/1.21 = 161.16; best: 50 + 250; worst: -150 - 50, shown as 0.
    assert (found.value_minor, found.low_minor, found.high_minor) == (161, 0, 300)
    assert [swing.input for swing in found.sensitivity] == ["R_t", "i"]


def test_income_range_of_a_share_moves_revenue_and_share() -> None:
    terms = [Term(Estimate(1_000, 900, 1_200), Estimate(500_000, 400_000, 750_000))]
    found = income(IncomeInputs(IncomeMethod.SHARE, terms, exact(0)))
    assert (found.value_minor, found.low_minor, found.high_minor) == (500, 360, 900)
    assert [(s.input, s.at_low_minor, s.at_high_minor) for s in found.sensitivity] == [
        ("R_t", 450, 600),
        ("K_t", 400, 750),
    ]


def test_comparables_and_reference_meet_in_a_median_with_quartiles() -> None:
    comparables = [
        Comparable("lst_a", Decimal("1.0"), 5),
        Comparable("lst_b", Decimal("1.2"), 1),
        Comparable("lst_c", Decimal("9"), 2),
    ]
    alone = market(MarketInputs(1_000, None, comparables, NO_FACTORS))
    assert (alone.value_minor, alone.low_minor, alone.high_minor) == (1_200, 1_100, 5_100)
    assert step(alone, "V_2 (lst_b)").inputs == {"p": "1.2", "Q": "1000", "trades": "1"}
    both = market(MarketInputs(1_000, Estimate(1_400, 1, 5_000), comparables, NO_FACTORS))
    assert (both.value_minor, both.low_minor, both.high_minor) == (1_300, 1_150, 3_300)
    assert both.trace[-2].inputs["V_stated"] == "1400"
    stated = market(MarketInputs(1_000, Estimate(1_400, 1_000, 5_000), [], NO_FACTORS))
    assert (stated.value_minor, stated.low_minor, stated.high_minor) == (1_400, 1_000, 5_000)
    with pytest.raises(ValuationImpossible, match="no comparable trades"):
        market(MarketInputs(1_000, None, [], NO_FACTORS))


def test_values_without_a_price_are_refused() -> None:
    with pytest.raises(ValuationImpossible, match="gives 0 minor units"):
        cost(cost_inputs(risk=exact(1_000_000)))
    with pytest.raises(ValuationImpossible, match="gives -100 minor units"):
        income(flows(50, 50, rate=0, method=IncomeMethod.EXCESS, other=100))
    with pytest.raises(ValuationImpossible, match="between 1 and"):
        cost(cost_inputs(lines=[exact(MAX_MINOR)], circulation=exact(10_000_000)))
    with pytest.raises(ValueError, match="low <= central <= high"):
        Estimate(1, 2, 3)


def test_combined_value_is_the_weighted_mean() -> None:
    appraisals = [cost(cost_inputs()), income(flows(12_000, 13_000, 14_000))]
    equal = combine(appraisals, {Approach.COST: 1, Approach.INCOME: 1})
    assert equal.value_minor == (77_633 + 32_171) // 2
    assert equal.step.inputs == {
        "V_cost": "77633",
        "w_cost": "1",
        "V_income": "32171",
        "w_income": "1",
    }
    skewed = combine(appraisals, {Approach.COST: 0, Approach.INCOME: 7})
    assert skewed.value_minor == 32_171
    with pytest.raises(ValuationImpossible, match="positive weight"):
        combine(appraisals, {Approach.COST: 0, Approach.INCOME: 0})
    with pytest.raises(ValuationImpossible, match="positive weight"):
        combine(appraisals, {Approach.COST: 3, Approach.INCOME: -1})


def test_lot_price_rounds_half_up_and_never_to_zero() -> None:
    assert [per_lot(n, 10) for n in (0, 4, 5, 14, 15, 100)] == [1, 1, 1, 1, 2, 10]
    with pytest.raises(ValueError, match="lot"):
        per_lot(1, 0)
    with pytest.raises(ValueError, match="lot"):
        per_lot(-1, 1)


def test_quantiles_interpolate() -> None:
    points = [Decimal(n) for n in (4, 1, 3, 2)]
    assert quantile(points, Decimal("0.5")) == Decimal("2.5")
    assert quantile(points, Decimal("0.25")) == Decimal("1.75")
    assert quantile(points, Decimal(1)) == 4
    with pytest.raises(ValueError, match="needs a point"):
        quantile([], Decimal("0.5"))


def estimates(low: int, high: int) -> st.SearchStrategy[Estimate]:
    return st.tuples(*[st.integers(low, high)] * 3).map(
        lambda three: Estimate(sorted(three)[1], min(three), max(three))
    )


cost_cases = st.builds(
    CostInputs,
    lines=st.lists(estimates(1_000, 10**9), min_size=1, max_size=5),
    return_rate=estimates(0, 1_000_000),
    quality=estimates(100_000, 2_000_000),
    circulation=estimates(100_000, 2_000_000),
    monopoly=estimates(0, 1_000_000),
    risk=estimates(0, 900_000),
)


@settings(deadline=None)
@given(cost_cases, st.integers(0, 10**9))
def test_higher_cost_never_lowers_the_value_and_the_range_holds_it(
    inputs: CostInputs, more: int
) -> None:
    found = cost(inputs)
    assert found.low_minor <= found.value_minor <= found.high_minor
    for swing in found.sensitivity:
        assert found.low_minor <= swing.at_low_minor <= found.high_minor
        assert found.low_minor <= swing.at_high_minor <= found.high_minor
    dearer = CostInputs(
        [*inputs.lines, exact(more)],
        inputs.return_rate,
        inputs.quality,
        inputs.circulation,
        inputs.monopoly,
        inputs.risk,
    )
    assert cost(dearer).value_minor >= found.value_minor


@settings(deadline=None)
@given(
    st.lists(st.integers(1_000, 10**12), min_size=1, max_size=50),
    st.integers(0, 999_999),
    st.integers(1, 1_000_000),
)
def test_income_falls_with_the_rate_and_equals_exact_fractions(
    amounts: list[int], rate: int, more: int
) -> None:
    found = income(flows(*amounts, rate=rate))
    assert income(flows(*amounts, rate=rate + more)).value_minor <= found.value_minor
    numerator = sum(
        amount * 1_000_000**t * (1_000_000 + rate) ** (len(amounts) - t)
        for t, amount in enumerate(amounts, 1)
    )
    denominator = (1_000_000 + rate) ** len(amounts)
    assert found.value_minor == (2 * numerator + denominator) // (2 * denominator)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    estimates(1, 10_000_000),
    st.integers(1, 10**6),
)
def test_market_range_holds_the_value_and_order_does_not_matter(
    prices: list[int], quality: Estimate, quantity: int
) -> None:
    comparables = [Comparable(str(n), Decimal(p), 1) for n, p in enumerate(prices)]
    factors = {**NO_FACTORS, "X_quality": quality}
    try:
        found = market(MarketInputs(quantity, None, comparables, factors))
    except ValuationImpossible:
        return
    assert found.low_minor <= found.value_minor <= found.high_minor
    turned = market(MarketInputs(quantity, None, comparables[::-1], factors))
    assert (turned.value_minor, turned.low_minor, turned.high_minor) == (
        found.value_minor,
        found.low_minor,
        found.high_minor,
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(1, MAX_MINOR), min_size=2, max_size=2),
    st.lists(st.integers(0, 10**6), min_size=2, max_size=2),
)
def test_combined_lies_between_its_parts(totals: list[int], weights: list[int]) -> None:
    parts = [cost(_plain(totals[0])), income(flows(totals[1], rate=0))]
    given_weights = dict(zip((Approach.COST, Approach.INCOME), weights, strict=True))
    if not any(weights):
        with pytest.raises(ValuationImpossible):
            combine(parts, given_weights)
        return
    combined = combine(parts, given_weights)
    assert min(totals) <= combined.value_minor <= max(totals)
    assert combined.low_minor <= combined.value_minor <= combined.high_minor


def _plain(total: int) -> CostInputs:
    zero = exact(0)
    return CostInputs([exact(total)], zero, ONE, ONE, zero, zero)
