"""Money: exact splits, ISO exponents, display."""

import pytest
from hypothesis import given, strategies as st

from market.kernel.money import EXPONENTS, MAX_MINOR, Money, display, exponent, split


def test_golden_splits() -> None:
    # pricing.md A3 row 6.
    assert split(10_001, [3, 2, 1]) == [5_000, 3_334, 1_667]
    assert split(10_000, [1, 1, 1]) == [3_334, 3_333, 3_333]


@given(st.integers(0, MAX_MINOR), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_split_is_exact_and_fair(total: int, weights: list[int]) -> None:
    if sum(weights) == 0:
        weights = [1, *weights]
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        exact = total * weight // sum(weights)
        assert part in (exact, exact + 1)
        assert part == 0 or weight > 0


def test_split_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        split(-1, [1])
    with pytest.raises(ValueError, match="positive weight"):
        split(1, [0, 0])
    assert split(0, [0, 0]) == [0, 0]


def test_exponents() -> None:
    assert (exponent("JPY"), exponent("CNY"), exponent("KWD"), exponent("CLF")) == (0, 2, 3, 4)
    assert len(EXPONENTS) > 150


def test_display() -> None:
    assert display(-1250, "CNY") == "-12.50 CNY"
    assert display(1_234_567, "JPY") == "1,234,567 JPY"
    assert display(5, "KWD") == "0.005 KWD"


@pytest.mark.parametrize("amount", [0, -1, MAX_MINOR + 1, 1.5, float("nan"), "10", True, None])
def test_money_refuses(amount: object) -> None:
    with pytest.raises(ValueError, match="amount_minor"):
        Money.model_validate({"amount_minor": amount, "currency": "CNY"})


def test_money_refuses_currency() -> None:
    with pytest.raises(ValueError, match="currency"):
        Money.model_validate({"amount_minor": 1, "currency": "XXX"})
