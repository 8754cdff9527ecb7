"""Contribution values: golden tables of reference/pricing.md A3 and the axioms."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from pricing.contribution import (
    Floats,
    Utility,
    banzhaf,
    by_owner,
    knn_shapley,
    permutation_shapley,
    shapley,
    tabulate,
    to_ppm,
)

# Castro, Gómez, Tejada 2009, airport game: players per cost 1 to 10.
AIRPORT_100 = [c for c, n in enumerate([8, 12, 6, 14, 8, 9, 13, 10, 10, 10], 1) for _ in range(n)]


def airport(costs: Sequence[int]) -> Utility:
    return lambda players: float(max(map(costs.__getitem__, players), default=0))


def shoes(left: int, right: int) -> Utility:
    return lambda players: float(
        min(sum(i < left for i in players), sum(left <= i < left + right for i in players))
    )


def line(flags: Sequence[int]) -> dict[str, Any]:
    """Training rows at 1, 2, 3 … from a single test row of label 1."""
    return {
        "train_x": np.arange(1.0, len(flags) + 1)[:, None],
        "train_y": np.array(flags),
        "test_x": np.zeros((1, 1)),
        "test_y": np.array([1]),
    }


def knn_game(train_x: Floats, train_y: Any, test_x: Floats, test_y: Any, k: int) -> Utility:
    def utility(players: frozenset[int]) -> float:
        rows = sorted(players)
        total = 0.0
        for point, label in zip(test_x, test_y, strict=True):
            squared = [float(((train_x[i] - point) ** 2).sum()) for i in rows]
            nearest = sorted(range(len(rows)), key=lambda j: (squared[j], rows[j]))[:k]
            total += sum(train_y[rows[j]] == label for j in nearest) / k
        return total / len(test_y)

    return utility


@pytest.mark.parametrize(
    ("flags", "k", "expected"),
    [
        ([1, 0, 1, 1], 2, ["1/4", "-1/4", "1/4", "1/4"]),
        ([1, 0, 1, 1], 1, ["3/4", "-1/4", "1/4", "1/4"]),
        ([1, 1, 0, 1, 0], 3, ["1/4", "1/4", "-1/12", "1/4", "0"]),
        ([0, 1], 3, ["0", "1/3"]),
        ([1], 5, ["1/5"]),
    ],
)
def test_knn_toys_match_the_reference(flags: list[int], k: int, expected: list[str]) -> None:
    values = knn_shapley(**line(flags), k=k)
    assert values == pytest.approx([float(Fraction(text)) for text in expected], abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
        )
    ),
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 2)),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 8),
)
def test_knn_equals_the_exact_group_value_with_ties_and_few_rows(
    train: tuple[list[tuple[int, int]], list[int]], tests: list[tuple[int, int, int]], k: int
) -> None:
    train_x, train_y = np.array(train[0], dtype=float), np.array(train[1])
    test_x, test_y = np.array([t[:2] for t in tests], dtype=float), np.array([t[2] for t in tests])
    fast = knn_shapley(train_x, train_y, test_x=test_x, test_y=test_y, k=k)
    slow = shapley(tabulate(knn_game(train_x, train_y, test_x, test_y, k), len(train_y)))
    assert fast == pytest.approx(slow.tolist(), abs=1e-12)


def test_knn_sorts_exactly_where_packed_keys_cannot_tell() -> None:
    # 1,000 rows need 10 index bits; these distances differ in the last 3 bits of the mantissa.
    base = np.float64(1.5)
    x = np.array([base + i % 8 * np.spacing(base) for i in range(1_000)])[::-1]
    y = np.arange(1_000) % 3
    squared = x**2
    order = np.argsort(squared, kind="stable")
    match = (y[order] == 1).astype(float)
    expected = np.zeros(1_000)
    value = match[-1] * 5 / (1_000 * 5)
    expected[order[-1]] = value
    for i in range(999, 0, -1):
        value += (match[i - 1] - match[i]) / 5 * min(5, i) / i
        expected[order[i - 1]] = value
    values = knn_shapley(x[:, None], y, test_x=np.zeros((1, 1)), test_y=np.array([1]), k=5)
    assert values == pytest.approx(expected.tolist(), abs=1e-15)


def test_knn_copies_of_a_row_earn_the_same_and_owners_add_up() -> None:
    generator = np.random.default_rng(7)
    x = generator.normal(size=(300, 7))
    y = generator.integers(0, 2, 300)
    x[150:], y[150:] = x[:150], y[:150]
    test_x, test_y = generator.normal(size=(40, 7)), generator.integers(0, 2, 40)
    values = knn_shapley(x, y, test_x=test_x, test_y=test_y, k=5)
    assert values[150:] == pytest.approx(values[:150].tolist(), abs=1e-15)
    owners = ["a"] * 150 + ["b"] * 150
    parts = by_owner(values, owners)
    assert list(parts) == ["a", "b"]
    assert sum(parts.values()) == pytest.approx(float(values.sum()), abs=1e-12)


def test_knn_is_the_same_in_one_block_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(200, 4)), generator.choice(["a", "b", "c"], 200)
    test = {"test_x": generator.normal(size=(50, 4)), "test_y": generator.choice(["a", "b"], 50)}
    whole = knn_shapley(x, y, **test, k=3)
    monkeypatch.setattr("pricing.contribution._BLOCK_CELLS", 1)
    assert knn_shapley(x, y, **test, k=3) == pytest.approx(whole.tolist(), abs=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"train_x": np.array([[np.nan], [1.0]])}, "finite"),
        ({"train_x": np.array([[np.inf], [1.0]])}, "finite"),
        ({"train_x": np.array([[1e200], [1.0]])}, "finite"),
        ({"train_x": np.zeros((0, 1)), "train_y": np.array([])}, "at least one row"),
        ({"test_x": np.zeros((1, 2))}, "different numbers"),
        ({"test_y": np.array([1, 1])}, "one per row"),
        ({"train_y": np.array([1])}, "one per row"),
    ],
)
def test_knn_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_shapley(**{**line([1, 0]), "k": 1, **change})


def test_knn_bounds_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pricing.contribution.TRAINING_ROWS_MAX", 1)
    with pytest.raises(ValueError, match="at most 1 training rows"):
        knn_shapley(**line([1, 0]), k=1)


@pytest.mark.parametrize(
    ("utility", "players", "expected"),
    [
        (shoes(1, 2), 3, ["2/3", "1/6", "1/6"]),
        (shoes(2, 3), 5, ["13/20", "13/20", "7/30", "7/30", "7/30"]),
        (airport([1, 2, 3]), 3, ["1/3", "5/6", "11/6"]),
        (lambda s: float(len(s) == 1), 1, ["1"]),
    ],
)
def test_games_of_the_reference(utility: Utility, players: int, expected: list[str]) -> None:
    values = shapley(tabulate(utility, players))
    assert values == pytest.approx([float(Fraction(text)) for text in expected], abs=1e-12)


def test_banzhaf_of_a_majority_game() -> None:
    # Weights 2, 1, 1 and quota 3: player 0 swings in 3 of 4 coalitions, the others in 1 of 4.
    weights = [2, 1, 1]
    table = tabulate(lambda s: float(sum(weights[i] for i in s) >= 3), 3)
    assert banzhaf(table).tolist() == [0.75, 0.25, 0.25]


tables = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.integers(-1_000, 1_000), min_size=1 << n, max_size=1 << n)
)


@settings(deadline=None)
@given(tables)
def test_shapley_is_efficient_and_equals_the_mean_over_permutations(entries: list[int]) -> None:
    table = np.array(entries, dtype=float)
    players = len(entries).bit_length() - 1
    values = shapley(table)
    assert values.sum() == pytest.approx(table[-1] - table[0], abs=1e-9)
    totals = [Fraction(0)] * players
    orders = list(permutations(range(players)))
    for order in orders:
        mask = 0
        for player in order:
            totals[player] += entries[mask | 1 << player] - entries[mask]
            mask |= 1 << player
    assert values == pytest.approx([float(t / len(orders)) for t in totals], abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_symmetric_players_earn_the_same_and_a_dummy_nothing(costs: list[int]) -> None:
    costs = [*costs, costs[0], 0]
    for values in (
        shapley(tabulate(airport(costs), len(costs))),
        banzhaf(tabulate(airport(costs), len(costs))),
    ):
        assert values[0] == pytest.approx(values[-2], abs=1e-12)
        assert values[-1] == 0.0


@settings(deadline=None)
@given(tables, st.integers(-5, 5))
def test_values_are_linear_in_the_game(entries: list[int], factor: int) -> None:
    table = np.array(entries, dtype=float)
    scaled = (shapley(table) * factor).tolist()
    assert shapley(table * factor) == pytest.approx(scaled, abs=1e-9)


def test_tables_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 12 players"):
        tabulate(lambda s: 0.0, 13)
    with pytest.raises(ValueError, match="not finite"):
        tabulate(lambda s: float("nan"), 2)
    for size in (0, 1, 3, 8192):
        with pytest.raises(ValueError, match="power of two"):
            shapley(np.zeros(size))
    with pytest.raises(ValueError, match="one owner"):
        by_owner(np.zeros(2), ["a"])


def test_sampling_covers_the_airport_game_of_100_and_repeats_by_seed() -> None:
    exact = []
    total, previous = 0.0, 0
    for cost in range(1, 11):
        total += (cost - previous) / sum(c >= cost for c in AIRPORT_100)
        previous = cost
        exact.append(total)
    assert exact[0] == pytest.approx(0.01)
    assert exact[1] == pytest.approx(0.020869565, abs=1e-9)
    assert exact[9] == pytest.approx(0.289369662, abs=1e-9)
    truth = np.array([exact[c - 1] for c in AIRPORT_100])

    run = permutation_shapley(
        airport(AIRPORT_100), 100, seed=11, permutations_max=500, confidence=0.999
    )
    assert run.permutations == 500
    assert run.evaluations == 50_001
    assert not run.converged
    assert run.values.sum() == pytest.approx(10.0, abs=1e-9)
    assert (np.abs(run.values - truth) <= run.half_widths + 1e-12).mean() >= 0.97
    again = permutation_shapley(
        airport(AIRPORT_100), 100, seed=11, permutations_max=500, confidence=0.999
    )
    assert again.values.tolist() == run.values.tolist()
    assert again.half_widths.tolist() == run.half_widths.tolist()


def test_sampling_stops_at_the_target_and_an_additive_game_is_exact() -> None:
    additive = permutation_shapley(
        lambda s: float(sum(s)), 4, seed=1, permutations_max=500, half_width_target=1e-9
    )
    assert additive.values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert additive.permutations == 30
    assert additive.converged
    loose = permutation_shapley(
        shoes(1, 2), 3, seed=5, permutations_max=100_000, half_width_target=0.01
    )
    assert loose.converged
    assert loose.half_widths.max() <= 0.01
    assert loose.values == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=0.03)


@pytest.mark.parametrize(
    "change",
    [
        {"players": 0},
        {"players": 1_001},
        {"permutations_max": 1},
        {"permutations_max": 10**8},
        {"confidence": 1.0},
        {"confidence": float("nan")},
        {"half_width_target": -1.0},
        {"half_width_target": float("nan")},
        {"utility": lambda s: float("inf") if s else 0.0},
    ],
)
def test_sampling_refuses_bounds_out_of_range(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "utility": lambda s: 0.0,
        "players": 2,
        "seed": 1,
        "permutations_max": 10,
    }
    with pytest.raises(ValueError, match=r"players|permutations|confidence|finite"):
        permutation_shapley(**{**arguments, **change})


def test_to_ppm_by_largest_remainder_with_negatives_clipped() -> None:
    assert to_ppm([1, 1, 1]) == [333_334, 333_333, 333_333]
    assert to_ppm([3, 2, 1], total_ppm=100_01) == [5_000, 3_334, 1_667]
    assert to_ppm([2.0, -5.0, 2.0]) == [500_000, 0, 500_000]
    assert to_ppm([-1.0, 0.0]) == [0, 0]
    assert to_ppm([]) == []
    assert to_ppm([5e-324, 1e308]) == [0, 1_000_000]
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="finite"):
            to_ppm([1.0, bad])
    with pytest.raises(ValueError, match="ppm"):
        to_ppm([1.0], total_ppm=1_000_001)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(0, 1_000_000),
)
def test_to_ppm_sums_exactly_keeps_order_and_is_within_one(values: list[float], total: int) -> None:
    parts = to_ppm(values, total_ppm=total)
    clipped = [max(Fraction(v), Fraction(0)) for v in values]
    whole = sum(clipped)
    assert sum(parts) == (total if whole else 0)
    for part, value in zip(parts, clipped, strict=True):
        if whole:
            assert abs(part - total * value / whole) < 1
    for (part, value), (other_part, other) in pairwise(zip(parts, clipped, strict=True)):
        assert value <= other or part >= other_part
