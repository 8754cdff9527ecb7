"""All-or-none bundles against an oracle that tries the legs one by one on copies."""

from copy import deepcopy

import pytest
from hypothesis import given, settings, strategies as st

from market.matching.book import Book
from market.matching.bundle import Leg, cost, fill
from market.matching.terms import Cut, Fill, Outcome, SelfTrade, Side, TimeInForce
from tests.market.matching.naive import NaiveBook

orders = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(Side), st.integers(8, 12), st.integers(1, 5)),
    max_size=8,
)
wishes = st.tuples(st.sampled_from(Side), st.integers(8, 12), st.integers(1, 8))


def make(placed: list[tuple[int, Side, int, int]]) -> tuple[Book, NaiveBook]:
    book, naive = Book(), NaiveBook()
    for ref, (owner, side, price, lots) in enumerate(placed, start=1):
        for each in (book, naive):
            each.submit(ref, owner, side, price, lots, TimeInForce.GTC, [])
    return book, naive


@settings(deadline=None)
@given(
    st.lists(st.tuples(orders, wishes), min_size=1, max_size=3),
    st.sampled_from(SelfTrade),
    st.none() | st.integers(-60, 120),
)
def test_a_bundle_fills_as_the_oracle_or_leaves_no_trace(
    parts: list[tuple[list[tuple[int, Side, int, int]], tuple[Side, int, int]]],
    mode: SelfTrade,
    cost_max: int | None,
) -> None:
    pairs = [make(placed) for placed, _ in parts]
    legs = [
        Leg(book, 100 + number, *wish)
        for number, ((book, _), (_, wish)) in enumerate(zip(pairs, parts, strict=True))
    ]
    trials = deepcopy([naive for _, naive in pairs])
    expected: list[tuple[list[Fill], list[Cut]]] = []
    possible = True
    for leg, trial in zip(legs, trials, strict=True):
        fills: list[Fill] = []
        cuts: list[Cut] = []
        arguments = (leg.ref, 1, leg.side, leg.price, leg.lots, TimeInForce.FOK, fills)
        outcome = trial.submit(*arguments, prevent_by=mode, cuts=cuts)
        possible = possible and outcome is Outcome.FILLED
        expected.append((fills, cuts))
    total = sum(
        (lots * price if leg.side is Side.BUY else -lots * price)
        for leg, (fills, _) in zip(legs, expected, strict=True)
        for _, _, price, lots, _ in fills
    )
    possible = possible and (cost_max is None or total <= cost_max)
    done = fill(legs, 1, 1, cost_max=cost_max, prevent_by=mode)
    assert done == (expected if possible else None)
    after = trials if possible else [naive for _, naive in pairs]
    assert [list(book.resting()) for book, _ in pairs] == [naive.resting() for naive in after]


def test_the_sum_of_the_legs_has_a_limit_of_its_own() -> None:
    first, _ = make([(1, Side.SELL, 10, 5)])
    second, _ = make([(1, Side.BUY, 9, 5)])
    legs = [Leg(first, 8, Side.BUY, 12, 5), Leg(second, 9, Side.SELL, 8, 2)]
    assert cost(legs, 2) == 50 - 18
    assert fill(legs, 2, 2, cost_max=31) is None
    assert (first.left(1), second.left(1)) == (5, 5)
    assert fill(legs, 2, 2, cost_max=32) == [([(8, 1, 10, 5, 0)], []), ([(9, 1, 9, 2, 3)], [])]


def test_a_halted_leg_stops_the_bundle() -> None:
    first, _ = make([(1, Side.SELL, 10, 5)])
    second, _ = make([(1, Side.SELL, 10, 5)])
    second.halt()
    legs = [Leg(first, 8, Side.BUY, 12, 5), Leg(second, 9, Side.BUY, 12, 2)]
    assert fill(legs, 2, 2) is None
    assert first.left(1) == 5


def test_two_legs_of_one_instrument_are_refused() -> None:
    book, _ = make([(1, Side.SELL, 10, 5)])
    with pytest.raises(ValueError, match="one leg per instrument"):
        fill([Leg(book, 8, Side.BUY, 12, 3), Leg(book, 9, Side.BUY, 12, 3)], 2, 2)
