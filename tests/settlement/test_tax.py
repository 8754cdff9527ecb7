"""Contained tax: integers that add up, in any number of steps."""

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from market.kernel.money import PPM
from settlement.tax import contained, contained_in_step, including

rates = st.integers(0, PPM - 1)


@given(st.integers(0, 10**15), rates)
def test_amounts_add_up_and_are_the_nearest(total: int, rate: int) -> None:
    taxed = contained(total, rate)
    assert (taxed.without_tax + taxed.tax, taxed.total) == (total, total)
    assert abs(taxed.tax - Fraction(total * rate, PPM + rate)) <= Fraction(1, 2)


@given(st.lists(st.integers(0, 10**6), max_size=12), rates)
def test_steps_are_never_negative_and_equal_one_cut(steps: list[int], rate: int) -> None:
    before, without, tax = 0, 0, 0
    for step in steps:
        taxed = contained_in_step(before, step, rate)
        assert min(taxed) >= 0
        assert taxed.total == step
        before, without, tax = before + step, without + taxed.without_tax, tax + taxed.tax
    assert (without, tax) == tuple(contained(before, rate))


def test_golden_amounts() -> None:
    assert contained(10_600, 60_000) == (10_000, 600)
    assert contained(100, 130_000) == (88, 12)
    assert contained(100, 0) == (100, 0)
    assert including(10_000, 60_000) == (10_000, 600)
    assert including(25, 60_000) == (25, 2)


@pytest.mark.parametrize("rate", [-1, PPM])
def test_impossible_rates_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="tax rate"):
        contained(1, rate)
    with pytest.raises(ValueError, match="tax rate"):
        including(1, rate)
