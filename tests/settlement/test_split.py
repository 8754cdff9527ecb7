"""Splits: exact sums, no take-backs, near the ideal, in any sequence of partial releases."""

from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from market.kernel.money import PPM, split
from settlement.split import Parts, SplitTerms, by_party, cumulative, increment

A, B, SELLER = UUID(int=1), UUID(int=2), UUID(int=3)

amounts = st.integers(0, 10**15)


@st.composite
def terms(draw: st.DrawFn) -> SplitTerms:
    cuts = sorted(draw(st.sets(st.integers(1, PPM - 1), max_size=6)))
    shares = [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
    return SplitTerms(
        draw(st.integers(0, PPM - 1)), tuple((UUID(int=i), s) for i, s in enumerate(shares))
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
    net = total * Fraction(PPM - rules.fee_ppm, PPM)
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
