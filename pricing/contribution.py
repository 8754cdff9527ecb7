"""How much each source adds to a derived product: Shapley and Banzhaf values (pure).

Values are statistics and therefore floats; :func:`to_ppm` turns them into the integer shares
that move money. Formulas and golden tables: reference/pricing.md A1 and A3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.kernel.money import PPM, split

Floats = NDArray[np.float64]
Utility = Callable[[frozenset[int]], float]

# 2**12 coalitions; one more player doubles the evaluations of the caller's utility.
EXACT_PLAYERS_MAX = 12
SAMPLED_PLAYERS_MAX = 1_000
# Bounds the caller's utility calls in one run, whatever permutations and players are asked for.
EVALUATIONS_MAX = 10_000_000
# The packed sort keys below keep at least 28 bits of the distance's mantissa.
TRAINING_ROWS_MAX = 2**24
# Squares of larger coordinates overflow a float64 when features are summed.
COORDINATE_ABS_MAX = 1e150
# Distances per block: 512 kB, an array stays in a second-level cache (10 % faster than 2 MB).
_BLOCK_CELLS = 2**16
_PERMUTATIONS_MIN = 30


@dataclass(frozen=True, slots=True)
class Estimated:
    """Sampled values with the half width of their confidence interval, per player."""

    values: Floats
    half_widths: Floats
    permutations: int
    evaluations: int
    converged: bool


def knn_shapley(
    train_x: Floats, train_y: NDArray[Any], *, test_x: Floats, test_y: NDArray[Any], k: int
) -> Floats:
    """Exact Shapley value of every training row for a K-nearest-neighbor classifier.

    The game: v(S) = mean over test rows of (1/K)·Σ_{j≤min(K,|S|)} 1[label of the j-th nearest
    row of S = test label]. Recursion of Jia et al. 2019 from far to near, with
    ``s_N = 1[y_N = y]·min(K,N)/(N·K)``, which is also right for N < K (pyDVL 0.10.0 is not).
    Equally distant rows rank by position. Euclidean distance; O(T·N·(d + log N)), memory O(N).

    Returns one value per training row; they sum to v(all). Raises ValueError for shapes that do
    not fit, non-finite coordinates, or ``k`` < 1.
    """
    train_x, test_x = _points(train_x, "train_x"), _points(test_x, "test_x")
    rows = train_x.shape[0]
    if k < 1:
        raise ValueError("k must be at least 1")
    if rows > TRAINING_ROWS_MAX:
        raise ValueError(f"at most {TRAINING_ROWS_MAX} training rows")
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError("training and test rows have different numbers of features")
    if train_y.shape != (rows,) or test_y.shape != (test_x.shape[0],):
        raise ValueError("labels must be one per row")
    _, codes = np.unique(np.concatenate([train_y, test_y]), return_inverse=True)
    train_codes, test_codes = codes[:rows].astype(np.int32), codes[rows:].astype(np.int32)

    features = np.ascontiguousarray(train_x.T)
    rank = np.arange(1, rows + 1)
    weights = np.minimum(k, rank) / (float(k) * rank)
    values = np.zeros(rows)
    block = max(1, _BLOCK_CELLS // rows)
    for start in range(0, test_x.shape[0], block):
        order = _nearest_first(_squared_distances(features, test_x[start : start + block]))
        labels = test_codes[start : start + block, np.newaxis]
        match = (train_codes[order] == labels).view(np.int8)
        steps = match * weights
        steps[:, :-1] -= match[:, 1:] * weights[:-1]
        suffix_sums = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
        values += np.bincount(order.ravel(), weights=suffix_sums.ravel(), minlength=rows)
    result: Floats = values / test_x.shape[0]
    return result


def by_owner(values: Floats, owners: Sequence[Hashable]) -> dict[Hashable, float]:
    """Row values added up per owner, in order of first appearance.

    Shapley values are additive over rows; this sum is the owner's rows' worth, not the value of
    the owner as one player (that is :func:`shapley` over owners). Raises ValueError unless there
    is one owner per value.
    """
    if len(values) != len(owners):
        raise ValueError("one owner per value")
    parts: dict[Hashable, list[float]] = {}
    for value, owner in zip(values.tolist(), owners, strict=True):
        parts.setdefault(owner, []).append(value)
    return {owner: math.fsum(part) for owner, part in parts.items()}


def tabulate(utility: Utility, players: int) -> Floats:
    """The utility of every coalition: index = Σ 2**i over its players i. Calls it 2**n times.

    Raises ValueError unless 1 ≤ players ≤ 12, or when the utility is not finite.
    """
    if not 1 <= players <= EXACT_PLAYERS_MAX:
        raise ValueError(f"exact values take 1 to {EXACT_PLAYERS_MAX} players")
    table = np.empty(1 << players)
    for mask in range(1 << players):
        table[mask] = utility(frozenset(i for i in range(players) if mask >> i & 1))
    if not np.isfinite(table).all():
        raise ValueError("the utility is not finite for every coalition")
    return table


def shapley(table: Floats) -> Floats:
    """Exact Shapley values of a tabulated game: φ_i = Σ_S |S|!(n−|S|−1)!/n!·[v(S∪i)−v(S)].

    Efficient (they sum to v(all) − v(∅)), symmetric, zero for a dummy. Raises ValueError when the
    table is not one of :func:`tabulate`'s sizes.
    """
    players = _players(table)
    weight = [
        math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
        for size in range(players)
    ]
    return _semivalue(table, np.array(weight))


def banzhaf(table: Floats) -> Floats:
    """Exact Data Banzhaf values: φ_i = 2^{−(n−1)}·Σ_S [v(S∪i)−v(S)] (Wang & Jia 2023).

    More robust to a noisy utility than Shapley, but not efficient: the values need not sum to
    v(all) − v(∅). Raises ValueError as :func:`shapley`.
    """
    players = _players(table)
    return _semivalue(table, np.full(players, 0.5 ** (players - 1)))


def permutation_shapley(
    utility: Utility,
    players: int,
    *,
    seed: int,
    permutations_max: int,
    half_width_target: float = 0.0,
    confidence: float = 0.95,
) -> Estimated:
    """Shapley values by sampled permutations (Castro et al. 2009), with confidence intervals.

    Same seed, same values. Stops after ``permutations_max`` permutations, or, from the 30th on,
    once every half width is at most ``half_width_target``. The half width is
    z·s/√m of the normal approximation, per player and not simultaneous. Every permutation is
    efficient, so the values sum to v(all) − v(∅) up to rounding.

    Raises ValueError for bounds out of range or a utility that is not finite.
    """
    if not 1 <= players <= SAMPLED_PLAYERS_MAX:
        raise ValueError(f"sampling takes 1 to {SAMPLED_PLAYERS_MAX} players")
    if permutations_max < 2 or permutations_max * players > EVALUATIONS_MAX:
        raise ValueError(f"2 permutations at least, {EVALUATIONS_MAX} evaluations at most")
    if not 0.0 < confidence < 1.0 or not half_width_target >= 0.0:
        raise ValueError("confidence lies between 0 and 1, the target is not negative")
    generator = np.random.Generator(np.random.PCG64(seed))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    empty = float(utility(frozenset()))
    mean, squares = np.zeros(players), np.zeros(players)
    half_widths = np.full(players, math.inf)
    done = 0
    converged = False
    while done < permutations_max and not converged:
        marginals = _marginals(utility, empty, generator.permutation(players))
        done += 1
        # Welford: a running variance that does not cancel.
        offset = marginals - mean
        mean = mean + offset / done
        squares = squares + offset * (marginals - mean)
        if done >= 2:
            half_widths = z * np.sqrt(squares / (done - 1) / done)
        converged = done >= _PERMUTATIONS_MIN and bool((half_widths <= half_width_target).all())
    return Estimated(mean, half_widths, done, 1 + done * players, converged)


def to_ppm(values: Iterable[float], *, total_ppm: int = PPM) -> list[int]:
    """Integer shares of ``total_ppm`` in proportion to ``values``, negative ones taken as zero.

    Largest remainder, ties to the earlier value; the parts sum to ``total_ppm`` exactly, or are
    all zero when nobody contributes. Floats count at their exact binary value, so every machine
    splits alike. Raises ValueError for a NaN or infinite value or a total outside 0 to 1,000,000.
    """
    if not 0 <= total_ppm <= PPM:
        raise ValueError("the total lies between 0 and 1,000,000 ppm")
    exact: list[Fraction] = []
    for value in values:
        if not math.isfinite(value):
            raise ValueError("contribution values must be finite")
        exact.append(max(Fraction(value), Fraction(0)))
    scale = math.lcm(*(fraction.denominator for fraction in exact)) if exact else 1
    weights = [fraction.numerator * (scale // fraction.denominator) for fraction in exact]
    return split(total_ppm if any(weights) else 0, weights)


def _points(points: Floats, name: str) -> Floats:
    checked: Floats = np.asarray(points, dtype=np.float64)
    if checked.ndim != 2 or 0 in checked.shape:
        raise ValueError(f"{name} must be a table of at least one row and one feature")
    # A NaN fails the comparison too.
    if not (np.abs(checked) <= COORDINATE_ABS_MAX).all():
        raise ValueError(f"{name} must be finite, at most {COORDINATE_ABS_MAX:g} in size")
    return checked


def _squared_distances(features: Floats, test_x: Floats) -> Floats:
    """|x − t|² per test row, summed feature by feature.

    Not the faster |x|² + |t|² − 2x·t: that rounds differently per position, so copies of one row
    would not tie and the split between their owners would depend on the BLAS.
    """
    total = np.zeros((test_x.shape[0], features.shape[1]))
    difference = np.empty_like(total)
    for column, points in zip(features, test_x.T, strict=True):
        np.subtract(column, points[:, np.newaxis], out=difference)
        np.multiply(difference, difference, out=difference)
        total += difference
    return total


def _nearest_first(squared: Floats) -> NDArray[np.int64]:
    """Stable argsort of every row, by sorting (high distance bits | position) as one integer.

    Non-negative floats order like their bits, and numpy's plain integer sort is vectorized: 0.27
    against 1.9 ms for a stable argsort of 20,000 (2-core AVX2 machine). Neighbors that differ in
    the dropped low bits only are sorted again, exactly.
    """
    rows = squared.shape[1]
    mask = np.int64((1 << max(1, (rows - 1).bit_length())) - 1)
    keys = squared.view(np.int64) & ~mask
    keys |= np.arange(rows, dtype=np.int64)
    keys.sort(axis=1)
    order: NDArray[np.int64] = keys & mask
    keys -= order
    near, place = np.nonzero(keys[:, 1:] == keys[:, :-1])
    if near.size:
        left = squared[near, order[near, place]]
        right = squared[near, order[near, place + 1]]
        for row in np.unique(near[left != right]):
            order[row] = np.argsort(squared[row], kind="stable")
    return order


def _players(table: Floats) -> int:
    players = len(table).bit_length() - 1
    if not 1 <= players <= EXACT_PLAYERS_MAX or len(table) != 1 << players:
        raise ValueError("a table of 2 to 4096 coalitions, a power of two")
    return players


def _semivalue(table: Floats, weight_by_size: Floats) -> Floats:
    masks = np.arange(len(table))
    weights = weight_by_size[np.minimum(np.bitwise_count(masks), len(weight_by_size) - 1)]
    values = np.empty(len(weight_by_size))
    for player in range(len(weight_by_size)):
        without = masks[masks >> player & 1 == 0]
        gains = table[without | 1 << player] - table[without]
        values[player] = math.fsum((weights[without] * gains).tolist())
    return values


def _marginals(utility: Utility, empty: float, order: NDArray[np.int64]) -> Floats:
    marginals = np.empty(len(order))
    coalition: set[int] = set()
    before = empty
    for player in order.tolist():
        coalition.add(player)
        after = float(utility(frozenset(coalition)))
        marginals[player] = after - before
        before = after
    if not np.isfinite(marginals).all():
        raise ValueError("the utility is not finite for every coalition")
    return marginals
