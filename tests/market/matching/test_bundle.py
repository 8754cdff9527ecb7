"""Quotes of bundles against an oracle that trades the legs one by one."""

import pytest
from hypothesis import given, settings, strategies as st

from market.matching.book import Book
from market.matching.bundle import Leg, cost, quote, short
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
@given(st.lists(st.tuples(orders, wishes), min_size=1, max_size=3), st.sampled_from(SelfTrade))
def test_what_is_quoted_fills_as_the_oracle_and_what_is_short_does_not(
    parts: list[tuple[list[tuple[int, Side, int, int]], tuple[Side, int, int]]],
    mode: SelfTrade,
) -> None:
    pairs = [make(placed) for placed, _ in parts]
    legs = [Leg(book, *wish) for (book, _), (_, wish) in zip(pairs, parts, strict=True)]
    before = [list(book.resting()) for book, _ in pairs]
    quotes = quote(legs, 1, mode)
    assert [list(book.resting()) for book, _ in pairs] == before
    outcomes: list[Outcome] = []
    total = 0
    for ref, (leg, found, (_, naive)) in enumerate(zip(legs, quotes, pairs, strict=True), start=90):
        fills: list[Fill] = []
        cuts: list[Cut] = []
        order = (ref, 1, leg.side, leg.price, leg.lots, TimeInForce.FOK)
        outcomes.append(naive.submit(*order, fills, prevent_by=mode, cuts=cuts))
        ours: tuple[list[Fill], list[Cut]] = ([], [])
        outcome = leg.book.submit(*order, ours[0], prevent_by=mode, cuts=ours[1])
        assert (outcome, *ours) == (outcomes[-1], fills, cuts)
        if outcome is Outcome.FILLED:
            assert found == (sum(fill[3] for fill in fills), sum(f[2] * f[3] for f in fills))
            total += found.amount if leg.side is Side.BUY else -found.amount
    missed = [place for place, outcome in enumerate(outcomes) if outcome is not Outcome.FILLED]
    assert short(legs, quotes) == (missed[0] if missed else None)
    if not missed:
        assert cost(legs, quotes) == total


def test_what_is_sold_is_taken_off_what_is_bought() -> None:
    first, _ = make([(1, Side.SELL, 10, 5)])
    second, _ = make([(1, Side.BUY, 9, 5)])
    legs = [Leg(first, Side.BUY, 12, 5), Leg(second, Side.SELL, 8, 2)]
    quotes = quote(legs, 2, SelfTrade.CANCEL_NEWEST)
    assert quotes == [(5, 50), (2, 18)]
    assert (short(legs, quotes), cost(legs, quotes)) == (None, 50 - 18)


def test_a_halted_leg_is_short() -> None:
    first, _ = make([(1, Side.SELL, 10, 5)])
    second, _ = make([(1, Side.SELL, 10, 5)])
    second.halt()
    legs = [Leg(first, Side.BUY, 12, 5), Leg(second, Side.BUY, 12, 2)]
    assert short(legs, quote(legs, 2, SelfTrade.CANCEL_NEWEST)) == 1


def test_two_legs_of_one_instrument_are_refused() -> None:
    book, _ = make([(1, Side.SELL, 10, 5)])
    with pytest.raises(ValueError, match="one leg per instrument"):
        quote([Leg(book, Side.BUY, 12, 3), Leg(book, Side.BUY, 12, 3)], 2, SelfTrade.CANCEL_NEWEST)
