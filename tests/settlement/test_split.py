"""Splits: exact sums, no take-backs, near the ideal, in any sequence of partial releases."""

from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from market.kernel.money import PPM, split
from settlement.split import Parts, SplitTerms, by_party, cumulative, fee_of, increment

A, B, SELLER = UUID(int=1), UUID(int=2), UUID(int=3)

amounts = st.integers(0, 10**15)


@st.composite
def terms(draw: st.DrawFn) -> SplitTerms:
    cuts = sorted(draw(st.sets(st.integers(1, PPM - 1), max_size=6)))
    shares = [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
    minimum = draw(st.integers(0, 10**6))
    return SplitTerms(
        draw(st.integers(0, PPM - 1)),
        tuple((UUID(int=i), s) for i, s in enumerate(shares)),
        minimum,
        draw(st.none() | st.integers(minimum, 2 * 10**6)),
    )


def flat(parts: Parts) -> list[int]:
    return [parts.fee, *parts.shares, parts.seller]


@given(amounts, terms())
def test_parts_sum_to_the_total_and_none_is_negative(total: int, rules: SplitTerms) -> None:
    parts = cumulative(total, rules)
    assert parts.total == total
    assert min(flat(parts)) >= 0


@given(st.lists(st.integers(0, 10**6), max_size=12), terms())
def test_partial_releases_pay_exactly_what_one_release_would(
    steps: list[int], rules: SplitTerms
) -> None:
    paid, before = [0] * (len(rules.shares) + 2), 0
    for step in steps:
        parts = increment(before, step, rules)
        assert parts.total == step
        assert min(flat(parts)) >= 0
        paid = [old + new for old, new in zip(paid, flat(parts), strict=True)]
        before += step
    assert paid == flat(cumulative(before, rules))


@given(amounts, terms())
def test_every_part_stays_within_half_a_unit_per_cut_of_its_ideal(
    total: int, rules: SplitTerms
) -> None:
    parts = cumulative(total, rules)
    fee = max(total * Fraction(rules.fee_ppm, PPM), Fraction(rules.fee_minimum))
    if rules.fee_cap is not None:
        fee = min(fee, Fraction(rules.fee_cap))
    net = total - min(fee, Fraction(total))
    rest = PPM - sum(ppm for _, ppm in rules.shares)
    ideals = [total - net, *(net * Fraction(ppm, PPM) for _, ppm in rules.shares)]
    ideals.append(net * Fraction(rest, PPM))
    allowed = Fraction(len(ideals) - 1, 2)
    for part, ideal in zip(flat(parts), ideals, strict=True):
        assert abs(part - ideal) <= allowed


def test_plain_largest_remainder_would_take_money_back() -> None:
    """The reason for cutting in two: adding one unit takes one from the first recipient."""
    weights = (50_000, 285_000, 665_000)
    assert split(8, weights) == [1, 2, 5]
    assert split(9, weights) == [0, 3, 6]
    rules = SplitTerms(50_000, ((A, 300_000),))
    assert flat(cumulative(8, rules)) == [0, 2, 6]
    assert flat(cumulative(9, rules)) == [0, 3, 6]
    assert flat(cumulative(10, rules)) == [1, 3, 6]


def test_golden_split() -> None:
    rules = SplitTerms(50_000, ((A, 200_000), (B, 100_000)))
    assert flat(cumulative(100_000, rules)) == [5_000, 19_000, 9_500, 66_500]
    assert flat(increment(99_999, 1, rules)) == [0, 0, 0, 1]


def test_one_party_in_several_roles_is_paid_once() -> None:
    rules = SplitTerms(0, ((A, 250_000), (SELLER, 250_000)))
    parts = cumulative(1_000, rules)
    assert by_party(parts, rules, SELLER) == {A: 250, SELLER: 750}


@pytest.mark.parametrize(
    ("fee_ppm", "shares"),
    [(-1, ()), (PPM, ()), (0, ((A, 0),)), (0, ((A, -5),)), (0, ((A, 600_000), (B, 400_000)))],
)
def test_impossible_terms_are_refused(fee_ppm: int, shares: tuple[tuple[UUID, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"fee_ppm|shares"):
        SplitTerms(fee_ppm, shares)


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        increment(0, -1, SplitTerms(0))
    with pytest.raises(ValueError, match="not negative"):
        increment(-1, 1, SplitTerms(0))


@given(amounts, terms())
def test_the_fee_is_within_minimum_and_cap_where_the_amount_allows(
    total: int, rules: SplitTerms
) -> None:
    fee = fee_of(total, rules)
    assert fee >= min(rules.fee_minimum, total)
    assert fee <= total
    if rules.fee_cap is not None:
        assert fee <= rules.fee_cap


@given(st.integers(0, 10**9), terms())
def test_one_more_unit_goes_to_exactly_one_recipient(total: int, rules: SplitTerms) -> None:
    step = flat(increment(total, 1, rules))
    assert sorted(step) == [0] * (len(step) - 1) + [1]


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.sampled_from(["release", "refund"]), st.integers(1, 10**5)), max_size=15),
    st.integers(0, PPM),
    terms(),
)
def test_releases_refunds_and_a_ruling_are_exact_together(
    escrow: int, steps: list[tuple[str, int]], buyer_ppm: int, rules: SplitTerms
) -> None:
    """A life of one deal: whatever is released is split as if it had been released at once."""
    left, released, refunded = escrow, 0, 0
    paid = [0] * (len(rules.shares) + 2)
    rulings = [("ruling", 0)]
    for kind, wanted in [*steps, *rulings]:
        amount = left if kind == "ruling" else min(wanted, left)
        if kind == "refund":
            refunded += amount
        else:
            back = split(amount, (buyer_ppm, PPM - buyer_ppm))[0] if kind == "ruling" else 0
            parts = flat(increment(released, amount - back, rules))
            assert min(parts) >= 0
            paid = [old + new for old, new in zip(paid, parts, strict=True)]
            released += amount - back
            refunded += back
        left -= amount
    assert left == 0
    assert sum(paid) + refunded == escrow
    assert paid == flat(cumulative(released, rules))


def test_golden_fee_with_minimum_and_cap() -> None:
    rules = SplitTerms(50_000, ((A, 200_000),), 300, 1_000)
    assert flat(cumulative(200, rules)) == [200, 0, 0]
    assert flat(cumulative(1_000, rules)) == [300, 140, 560]
    assert flat(cumulative(10_000, rules)) == [500, 1_900, 7_600]
    assert flat(cumulative(100_000, rules)) == [1_000, 19_800, 79_200]
    assert flat(increment(100_000, 100_000, rules))[0] == 0


@pytest.mark.parametrize(("minimum", "cap"), [(-1, None), (5, 4), (0, -1)])
def test_impossible_bounds_are_refused(minimum: int, cap: int | None) -> None:
    with pytest.raises(ValueError, match="minimum"):
        SplitTerms(0, (), minimum, cap)
