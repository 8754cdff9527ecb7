"""The call auction: golden scenario G9, the tie rules one by one, phases on entry."""

import pytest

from market.matching.book import Book
from market.matching.call_auction import Clearing, clearing
from market.matching.terms import UNLIMITED, Cut, Execution, Outcome, SelfTrade, Side, TimeInForce

BUY, SELL = Side.BUY, Side.SELL
GTC, AUCTION = TimeInForce.GTC, TimeInForce.AUCTION


def g9_book() -> Book:
    """CoinTossX Test1; the market offer of 2,500 has a protection price of 1."""
    book = Book()
    book.open_call()
    for ref, side, price, lots in [
        (1, BUY, 10_550, 10_000),
        (2, BUY, 10_450, 5_600),
        (3, BUY, 10_400, 200),
        (4, SELL, 10_300, 6_900),
        (5, SELL, 10_450, 1_000),
        (6, SELL, 10_600, 200),
        (7, SELL, 1, 2_500),
    ]:
        assert book.submit(ref, ref, side, price, lots, GTC, []) is Outcome.RESTING
    return book


def test_g9_uncrosses_at_10450() -> None:
    book = g9_book()
    assert book.indicative(None) == Clearing(10_450, 10_400, 5_200)
    done = book.uncross(None)
    assert done.clearing == Clearing(10_450, 10_400, 5_200)
    assert done.executions == [
        Execution(1, 7, 2_500, 7_500, 0),
        Execution(1, 4, 6_900, 600, 0),
        Execution(1, 5, 600, 0, 400),
        Execution(2, 5, 400, 5_200, 0),
    ]
    assert book.left(2) == 5_200
    assert [order.ref for order in book.resting()] == [2, 3, 6]
    # The rest trades continuously.
    assert book.submit(8, 8, SELL, 10_450, 1, GTC, []) is Outcome.FILLED


def test_an_uncrossed_book_has_no_indicative_price() -> None:
    book = Book()
    book.open_call()
    assert book.indicative(100) is None
    book.submit(1, 1, BUY, 99, 5, GTC, [])
    book.submit(2, 2, SELL, 100, 5, GTC, [])
    assert book.indicative(100) is None
    assert book.uncross(100) == (None, [], [])


@pytest.mark.parametrize(
    ("bids", "asks", "reference", "expected"),
    [
        # Volume first: 12 at 101 beats 10 at 102.
        ([(102, 10), (101, 2)], [(100, 8), (101, 4), (102, 9)], None, (101, 12, 0)),
        # Then the smallest surplus: 10 trade at 100 and 101, 101 leaves less over.
        ([(101, 12), (100, 5)], [(100, 10)], None, (101, 10, 2)),
        # Then pressure: demand left at both prices pulls up, supply left pushes down.
        ([(103, 12)], [(100, 10)], 100, (103, 10, 2)),
        ([(103, 10)], [(100, 12)], 103, (100, 10, -2)),
        # Then the reference, held to the range; without one the middle, the lower of two.
        ([(103, 10)], [(100, 10)], 102, (102, 10, 0)),
        ([(103, 10)], [(100, 10)], 90, (100, 10, 0)),
        ([(103, 10)], [(100, 10)], 110, (103, 10, 0)),
        ([(103, 10)], [(100, 10)], None, (100, 10, 0)),
        # Go `pkg/auction` takes 99 here: bid 100, ask 99, no reference.
        ([(100, 10)], [(99, 10)], None, (99, 10, 0)),
        # Demand left below, supply left above: the reference decides between the two.
        ([(102, 10), (101, 4)], [(101, 10), (102, 4)], 102, (102, 10, -4)),
        ([(102, 10), (101, 4)], [(101, 10), (102, 4)], 101, (101, 10, 4)),
    ],
)
def test_each_rule_decides_in_its_turn(
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    reference: int | None,
    expected: tuple[int, int, int],
) -> None:
    assert clearing(bids, asks, reference) == Clearing(*expected)


def test_an_unlimited_ask_serves_all_demand_at_its_price() -> None:
    book = Book()
    book.open_call()
    book.submit(1, 1, SELL, 100, UNLIMITED, GTC, [])
    book.submit(2, 2, BUY, 120, 7, GTC, [])
    book.submit(3, 3, BUY, 90, 7, GTC, [])
    done = book.uncross(None)
    assert done.executions == [Execution(2, 1, 7, 0, UNLIMITED)]
    assert done.clearing is not None
    assert done.clearing.price == 100
    assert book.left(1) == UNLIMITED


def test_auction_only_orders_end_with_the_auction() -> None:
    book = Book()
    assert book.submit(1, 1, BUY, 100, 5, AUCTION, []) is Outcome.WRONG_PHASE
    book.open_call()
    assert book.submit(1, 1, BUY, 100, 5, AUCTION, []) is Outcome.RESTING
    assert book.submit(2, 2, BUY, 99, 5, GTC, []) is Outcome.RESTING
    assert book.submit(3, 3, SELL, 100, 2, AUCTION, []) is Outcome.RESTING
    plain = Book()
    plain.restore(1, 1, BUY, 100, 5)
    plain.restore(2, 2, BUY, 99, 5)
    plain.restore(3, 3, SELL, 100, 2)
    assert plain.checksum() != book.checksum()
    done = book.uncross(None)
    assert done.executions == [Execution(1, 3, 2, 3, 0)]
    assert done.cancelled == [(0, 1, 100, 3, 0)]
    assert [order.ref for order in book.resting()] == [2]


@pytest.mark.parametrize("tif", [TimeInForce.IOC, TimeInForce.FOK])
def test_the_call_takes_no_immediate_order(tif: TimeInForce) -> None:
    book = g9_book()
    before = book.checksum()
    assert book.submit(20, 20, BUY, 10_600, 1, tif, []) is Outcome.WRONG_PHASE
    assert book.submit(20, 20, BUY, 10, 1, GTC, [], post_only=True) is Outcome.WRONG_PHASE
    assert book.submit(20, 20, BUY, 10_600, 9, GTC, [], minimum=2) is Outcome.WRONG_PHASE
    assert book.checksum() == before


def test_own_orders_cannot_cross_in_the_call() -> None:
    book = g9_book()
    assert book.submit(20, 1, SELL, 10_500, 9, GTC, []) is Outcome.SELF_TRADE
    cuts: list[Cut] = []
    mode = SelfTrade.CANCEL_OLDEST
    assert (
        book.submit(21, 1, SELL, 10_500, 9, GTC, [], prevent_by=mode, cuts=cuts) is Outcome.RESTING
    )
    assert cuts == [(21, 1, 10_550, 10_000, 0)]
    mode = SelfTrade.DECREMENT
    assert (
        book.submit(22, 21, BUY, 10_500, 9, GTC, [], prevent_by=mode, cuts=cuts) is Outcome.RESTING
    )
    assert book.submit(23, 1, BUY, 10_500, 4, GTC, [], prevent_by=mode, cuts=cuts) is (
        Outcome.SELF_TRADE
    )
    assert cuts[1:] == [(23, 21, 10_500, 4, 5)]


def test_amendments_in_the_call_rest_at_their_new_price() -> None:
    book = g9_book()
    assert book.amend(3, 20, 10_700, 300, []) is Outcome.RESTING
    assert book.indicative(None) == Clearing(10_450, 10_400, 5_500)
    assert book.cancel(7) == 2_500
    assert book.indicative(None) == Clearing(10_550, 7_900, 2_400)
