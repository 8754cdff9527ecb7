"""The book by golden scenarios of other engines (pricing.md B5) and by its own rules."""

import gc
import tracemalloc

import pytest

from market.matching.book import Book
from market.matching.marks import add_marks, order_mark
from market.matching.terms import UNLIMITED, Fill, Level, Outcome, Side, TimeInForce

GTC, IOC, FOK = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
BUY, SELL = Side.BUY, Side.SELL
# Makers belong to group 1, takers to group 2, unless a test says otherwise.
MAKER, TAKER = 1, 2


def start_book() -> Book:
    """exchange-core OrderBookBaseTest: six asks (refs 1..3, 20..22), eight bids."""
    book = Book()
    for ref, price, lots in [
        (1, 81_599, 50),
        (2, 81_599, 25),
        (3, 81_600, 100),
        (20, 200_954, 10),
        (21, 201_000, 28),
        (22, 201_000, 32),
    ]:
        assert rest(book, ref, SELL, price, lots) is Outcome.RESTING
    for ref, price, lots in [
        (40, 81_593, 40),
        (50, 81_590, 20),
        (51, 81_590, 1),
        (60, 81_200, 20),
        (70, 10_000, 12),
        (71, 10_000, 1),
        (80, 9_136, 2),
    ]:
        assert rest(book, ref, BUY, price, lots) is Outcome.RESTING
    return book


def rest(book: Book, ref: int, side: Side, price: int, lots: int, *, owner: int = MAKER) -> Outcome:
    fills: list[Fill] = []
    outcome = book.submit(ref, owner, side, price, lots, GTC, fills)
    assert fills == []
    return outcome


def take(
    book: Book,
    side: Side,
    price: int,
    lots: int,
    *,
    tif: TimeInForce = GTC,
    owner: int = TAKER,
    post_only: bool = False,
    ref: int = 900,
) -> tuple[Outcome, list[tuple[int, int, int]]]:
    """Submit and return the outcome with its fills as (maker, price, lots)."""
    fills: list[Fill] = []
    outcome = book.submit(ref, owner, side, price, lots, tif, fills, post_only=post_only)
    return outcome, [fill[1:4] for fill in fills]


def test_g1_ioc_sell_walks_two_bids() -> None:
    book = start_book()
    outcome, fills = take(book, SELL, 1, 41, tif=IOC)
    assert outcome is Outcome.FILLED
    assert fills == [(40, 81_593, 40), (50, 81_590, 1)]
    assert 40 not in book
    assert book.left(50) == 19


def test_g2_ioc_buy_empties_the_asks_and_drops_the_rest() -> None:
    book = start_book()
    outcome, fills = take(book, BUY, 10**9, 270, tif=IOC)
    assert outcome is Outcome.REMAINDER_CANCELLED
    assert len(fills) == 6
    assert 270 - sum(lots for _, _, lots in fills) == 25
    assert book.depth(SELL, 10) == []
    assert 900 not in book


def test_g4_gtc_rests_what_is_left() -> None:
    book = start_book()
    outcome, fills = take(book, BUY, 81_599, 77)
    assert outcome is Outcome.RESTING
    assert fills == [(1, 81_599, 50), (2, 81_599, 25)]
    assert book.left(900) == 2
    assert book.best(BUY) == 81_599


def test_g4_gtc_through_the_whole_side() -> None:
    book = start_book()
    outcome, fills = take(book, BUY, 220_000, 1_000)
    assert outcome is Outcome.RESTING
    assert sum(lots for _, _, lots in fills) == 245
    assert book.depth(BUY, 1) == [Level(220_000, 755, 1, 0)]


def test_basic_feature_crossing_ask_trades_at_the_bid() -> None:
    book = Book()
    rest(book, 1, BUY, 1_583, 4)
    rest(book, 2, SELL, 1_600, 5, owner=TAKER)
    assert book.cancel(2) == 5
    outcome, fills = take(book, SELL, 1_580, 5, ref=3)
    assert outcome is Outcome.RESTING
    assert fills == [(1, 1_583, 4)]
    assert book.depth(SELL, 2) == [Level(1_580, 1, 1, 0)]


def test_g12_cancel_of_a_lone_partly_filled_maker_leaves_an_empty_price() -> None:
    book = Book()
    rest(book, 1, BUY, 205, 10)
    assert take(book, SELL, 205, 4) == (Outcome.FILLED, [(1, 205, 4)])
    assert book.cancel(1) == 6
    assert take(book, SELL, 202, 3, ref=901) == (Outcome.RESTING, [])
    assert book.depth(BUY, 5) == []
    assert book.depth(SELL, 5) == [Level(202, 3, 1, 0)]


def test_g14_late_cancel_is_unknown_and_changes_nothing() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 5)
    take(book, BUY, 10, 5)
    before = list(book.resting())
    assert book.cancel(1) == 0
    assert book.cancel(12_345) == 0
    assert list(book.resting()) == before


def test_time_priority_within_a_price_and_partial_fill_keeps_it() -> None:
    book = Book()
    for ref in (1, 2, 3):
        rest(book, ref, SELL, 10, 5)
    assert take(book, BUY, 10, 3, tif=IOC)[1] == [(1, 10, 3)]
    assert take(book, BUY, 10, 4, tif=IOC)[1] == [(1, 10, 2), (2, 10, 2)]
    assert [order.ref for order in book.resting()] == [2, 3]


def test_fok_kills_without_a_trace_or_fills_whole() -> None:
    book = start_book()
    before = list(book.resting())
    assert take(book, BUY, 81_600, 176, tif=FOK) == (Outcome.KILLED, [])
    assert take(book, BUY, 5, 1, tif=FOK) == (Outcome.KILLED, [])
    assert list(book.resting()) == before
    outcome, fills = take(book, BUY, 81_600, 175, tif=FOK)
    assert outcome is Outcome.FILLED
    assert sum(lots for _, _, lots in fills) == 175


def test_fok_counts_an_own_order_as_a_wall() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 5)
    rest(book, 2, SELL, 10, 5, owner=TAKER)
    rest(book, 3, SELL, 10, 5)
    assert take(book, BUY, 10, 6, tif=FOK) == (Outcome.KILLED, [])
    assert take(book, BUY, 10, 5, tif=FOK) == (Outcome.FILLED, [(1, 10, 5)])


def test_post_only_never_takes() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 5)
    assert take(book, BUY, 10, 1, post_only=True) == (Outcome.WOULD_CROSS, [])
    assert book.left(1) == 5
    assert take(book, BUY, 9, 1, post_only=True) == (Outcome.RESTING, [])
    # An emptied price must not count as a cross.
    assert book.cancel(1) == 5
    assert take(book, BUY, 10, 1, post_only=True, ref=901) == (Outcome.RESTING, [])


def test_self_trade_cancels_the_newest_and_keeps_earlier_fills() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 2)
    rest(book, 2, SELL, 11, 2, owner=TAKER)
    rest(book, 3, SELL, 11, 2)
    assert take(book, BUY, 12, 6) == (Outcome.SELF_TRADE, [(1, 10, 2)])
    assert 900 not in book
    assert [(order.ref, order.lots) for order in book.resting()] == [(2, 2), (3, 2)]


def test_unlimited_ask_is_a_posted_price_that_never_runs_out() -> None:
    book = Book()
    assert rest(book, 1, SELL, 100, UNLIMITED) is Outcome.RESTING
    for _ in range(3):
        fills: list[Fill] = []
        assert book.submit(9, TAKER, BUY, 100, 10**9, IOC, fills) is Outcome.FILLED
        assert fills == [(9, 1, 100, 10**9, UNLIMITED)]
    assert book.depth(SELL, 5) == [Level(100, 0, 1, 1)]
    assert book.cancel(1) == UNLIMITED
    assert book.depth(SELL, 5) == []


def test_unlimited_ask_first_serves_the_higher_bids() -> None:
    book = Book()
    rest(book, 1, BUY, 120, 5)
    rest(book, 2, BUY, 90, 5)
    outcome, fills = take(book, SELL, 100, UNLIMITED)
    assert outcome is Outcome.RESTING
    assert fills == [(1, 120, 5)]
    assert book.left(900) == UNLIMITED
    assert book.left(2) == 5


def test_depth_is_best_first_and_bounded() -> None:
    book = start_book()
    assert book.depth(SELL, 2) == [Level(81_599, 75, 2, 0), Level(81_600, 100, 1, 0)]
    assert book.depth(BUY, 3) == [
        Level(81_593, 40, 1, 0),
        Level(81_590, 21, 2, 0),
        Level(81_200, 20, 1, 0),
    ]
    assert len(book.depth(BUY, 100)) == 5
    assert len(book) == 13


def test_mass_cancel_compacts_orders_and_prices() -> None:
    book = Book()
    for ref in range(10_000):
        rest(book, ref, SELL, 100 + ref % 500, 7)
    for ref in range(9_990):
        assert book.cancel(ref) == 7
    assert len(book) == 10
    assert [level.orders for level in book.depth(SELL, 1_000)] == [1] * 10
    kept = sum(len(queue) for queue in book._asks.queues.values())
    assert kept < 10 + 2 * 32 * 10
    assert len(book._asks.heap) <= 2 * 64
    outcome, fills = take(book, BUY, 10_000, 70)
    assert outcome is Outcome.FILLED
    assert [maker for maker, _, _ in fills] == list(range(9_990, 10_000))


def test_checksum_follows_the_marks_and_survives_a_rebuild() -> None:
    book = start_book()
    take(book, BUY, 81_600, 80)
    take(book, SELL, 300_000, UNLIMITED, ref=901)
    rebuilt = Book()
    for order in sorted(book.resting()):
        rebuilt.restore(order.ref, order.owner, order.side, order.price, order.lots)
    assert list(rebuilt.resting()) == list(book.resting())
    assert rebuilt.checksum() == book.checksum() != 0
    before = book.checksum()
    book.cancel(22)
    assert book.checksum() == add_marks(before, -order_mark(22, SELL, 201_000, 32))
    assert Book().checksum() == 0


@pytest.mark.parametrize("change", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_the_mark_depends_on_every_part(change: tuple[int, int, int, int]) -> None:
    base = (7, 0, 1_000, 5)
    other = (base[0] + change[0], base[1] + change[1], base[2] + change[2], base[3] + change[3])
    assert order_mark(*base) != order_mark(*other)
    assert 0 < order_mark(*base) < 1 << 63
    assert order_mark(7, 0, 1_000, 0) == 0


def test_memory_per_resting_order_is_at_most_500_bytes() -> None:
    count = 50_000
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book = Book()
    for ref in range(1_000, 1_000 + count):
        book.submit(ref, ref % 2_000, SELL, 100_000 + ref % 5_000, 1_000 + ref, GTC, [])
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(book) == count
    assert used / count <= 500
