"""Amendments, self-trade modes, minimum quantity and halts, by exact numbers."""

import pytest

from market.matching.book import Book
from market.matching.replay import Command, Kind, options, run, traded
from market.matching.terms import (
    UNLIMITED,
    Cut,
    Fill,
    Level,
    Outcome,
    Phase,
    SelfTrade,
    Side,
    TimeInForce,
)

GTC, IOC, FOK = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
BUY, SELL = Side.BUY, Side.SELL


def rest(
    book: Book, ref: int, side: Side, price: int, lots: int, *, owner: int = 1, party: int = 0
) -> None:
    assert book.submit(ref, owner, side, price, lots, GTC, [], party) is Outcome.RESTING


def amend(
    book: Book, ref: int, rank: int, price: int, lots: int, *, post_only: bool = False
) -> tuple[Outcome, list[Fill]]:
    fills: list[Fill] = []
    return book.amend(ref, rank, price, lots, fills, post_only), fills


def test_g7_fewer_lots_keep_priority_a_price_change_goes_to_the_back() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 300)
    rest(book, 2, SELL, 10, 5)
    assert amend(book, 1, 3, 10, 200) == (Outcome.AMENDED, [])
    assert [order.ref for order in book.resting()] == [1, 2]
    assert amend(book, 1, 4, 11, 200) == (Outcome.RESTING, [])
    assert amend(book, 1, 5, 10, 200) == (Outcome.RESTING, [])
    assert [(order.ref, order.rank) for order in book.resting()] == [(2, 2), (1, 5)]


def test_g7_a_reduction_below_what_is_filled_cancels() -> None:
    """Ask 300, 200 filled, replaced by 150 fewer: nothing is left of 150."""
    book = Book()
    rest(book, 1, SELL, 10, 300)
    assert book.submit(2, 2, BUY, 10, 200, IOC, []) is Outcome.FILLED
    assert amend(book, 1, 3, 10, 300 - 150 - 200) == (Outcome.CANCELLED, [])
    assert len(book) == 0
    assert amend(book, 1, 4, 10, 5) == (Outcome.UNKNOWN, [])


def test_more_lots_lose_priority() -> None:
    book = Book()
    rest(book, 1, BUY, 10, 5)
    rest(book, 2, BUY, 10, 5)
    assert amend(book, 1, 3, 10, 6) == (Outcome.RESTING, [])
    assert [order.ref for order in book.resting()] == [2, 1]


def test_basic_feature_ask_moved_onto_the_bid_trades_at_the_bid() -> None:
    book = Book()
    rest(book, 1, BUY, 1_583, 4)
    rest(book, 2, SELL, 1_600, 5, owner=2)
    assert amend(book, 2, 3, 1_580, 5) == (Outcome.RESTING, [(2, 1, 1_583, 4, 0)])
    assert book.depth(SELL, 2) == [Level(1_580, 1, 1, 0)]


def test_a_post_only_amendment_that_would_trade_changes_nothing() -> None:
    book = Book()
    rest(book, 1, BUY, 10, 4)
    rest(book, 2, SELL, 12, 5, owner=2)
    before = book.checksum()
    assert amend(book, 2, 3, 10, 5, post_only=True) == (Outcome.WOULD_CROSS, [])
    assert book.checksum() == before
    assert amend(book, 2, 4, 11, 5, post_only=True) == (Outcome.RESTING, [])


def test_an_unlimited_ask_can_become_limited_in_place() -> None:
    book = Book()
    rest(book, 1, SELL, 10, UNLIMITED)
    rest(book, 2, SELL, 10, 5)
    assert amend(book, 1, 3, 10, 7) == (Outcome.AMENDED, [])
    assert book.depth(SELL, 1) == [Level(10, 12, 2, 0)]


@pytest.mark.parametrize(
    ("mode", "outcome", "fills", "cuts", "left"),
    [
        (SelfTrade.CANCEL_NEWEST, Outcome.SELF_TRADE, [(9, 1, 10, 2, 0)], [], {2: 3, 3: 4}),
        (
            SelfTrade.CANCEL_OLDEST,
            Outcome.RESTING,
            [(9, 1, 10, 2, 0), (9, 3, 11, 4, 0)],
            [(9, 2, 10, 3, 0)],
            {9: 4},
        ),
        (SelfTrade.CANCEL_BOTH, Outcome.SELF_TRADE, [(9, 1, 10, 2, 0)], [(9, 2, 10, 3, 0)], {3: 4}),
        (
            SelfTrade.DECREMENT,
            Outcome.RESTING,
            [(9, 1, 10, 2, 0), (9, 3, 11, 4, 0)],
            [(9, 2, 10, 3, 0)],
            {9: 1},
        ),
    ],
)
def test_self_trade_modes(
    mode: SelfTrade, outcome: Outcome, fills: list[Fill], cuts: list[Cut], left: dict[int, int]
) -> None:
    """Order 2 belongs to an affiliate of the taker: another party, the same group."""
    book = Book()
    rest(book, 1, SELL, 10, 2)
    rest(book, 2, SELL, 10, 3, owner=5, party=7)
    rest(book, 3, SELL, 11, 4)
    mine: list[Fill] = []
    cut: list[Cut] = []
    assert book.submit(9, 5, BUY, 11, 10, GTC, mine, 8, prevent_by=mode, cuts=cut) is outcome
    assert (mine, cut) == (fills, cuts)
    assert {order.ref: order.lots for order in book.resting()} == left


def test_decrement_leaves_the_larger_order() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 8)
    cuts: list[Cut] = []
    mode = SelfTrade.DECREMENT
    assert book.submit(2, 1, BUY, 10, 3, GTC, [], prevent_by=mode, cuts=cuts) is Outcome.SELF_TRADE
    assert cuts == [(2, 1, 10, 3, 5)]
    assert book.left(1) == 5


def test_a_mode_that_cuts_needs_a_list_for_it() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 8)
    with pytest.raises(ValueError, match="list for its cuts"):
        book.submit(2, 1, BUY, 10, 3, GTC, [], prevent_by=SelfTrade.CANCEL_OLDEST)
    assert book.left(1) == 8


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        (SelfTrade.CANCEL_NEWEST, Outcome.KILLED),
        (SelfTrade.CANCEL_BOTH, Outcome.KILLED),
        (SelfTrade.DECREMENT, Outcome.KILLED),
        (SelfTrade.CANCEL_OLDEST, Outcome.FILLED),
    ],
)
def test_fill_or_kill_looks_at_its_own_orders_first(mode: SelfTrade, outcome: Outcome) -> None:
    """OrderBook-rs#96: lots 5 + 5 of others, an own order between them, 6 wanted."""
    book = Book()
    rest(book, 1, SELL, 10, 5)
    rest(book, 2, SELL, 10, 5, owner=2)
    rest(book, 3, SELL, 10, 5)
    before = book.checksum()
    fills: list[Fill] = []
    cuts: list[Cut] = []
    assert book.submit(9, 2, BUY, 10, 6, FOK, fills, prevent_by=mode, cuts=cuts) is outcome
    if outcome is Outcome.KILLED:
        assert (fills, cuts, book.checksum()) == ([], [], before)
    else:
        assert fills == [(9, 1, 10, 5, 0), (9, 3, 10, 1, 4)]
        assert cuts == [(9, 2, 10, 5, 0)]


def test_minimum_quantity_trades_at_once_or_nothing_happens() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 3)
    rest(book, 2, SELL, 11, 3)
    before = book.checksum()
    fills: list[Fill] = []
    assert book.submit(9, 2, BUY, 10, 8, GTC, fills, minimum=4) is Outcome.BELOW_MINIMUM
    assert book.submit(9, 2, BUY, 9, 8, GTC, fills, minimum=1) is Outcome.BELOW_MINIMUM
    assert (fills, book.checksum()) == ([], before)
    assert book.submit(9, 2, BUY, 11, 8, GTC, fills, minimum=4) is Outcome.RESTING
    assert fills == [(9, 1, 10, 3, 0), (9, 2, 11, 3, 0)]
    assert book.left(9) == 2


def test_cancel_all_by_party_and_by_instrument() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 3, owner=5, party=7)
    rest(book, 2, BUY, 8, 4, owner=5, party=8)
    rest(book, 3, BUY, 9, 5, owner=5, party=7)
    assert book.cancel_all(7) == [(0, 1, 10, 3, 0), (0, 3, 9, 5, 0)]
    assert book.cancel_all(7) == []
    assert book.cancel_all() == [(0, 2, 8, 4, 0)]
    assert len(book) == 0


def test_a_halted_book_takes_cancels_and_reductions_only() -> None:
    book = Book()
    rest(book, 1, SELL, 10, 3)
    rest(book, 2, SELL, 10, 3)
    book.halt()
    assert book.phase is Phase.HALTED
    assert book.submit(3, 2, BUY, 10, 1, IOC, []) is Outcome.WRONG_PHASE
    assert book.quote(BUY, 10, 1, 2) == (0, 0)
    assert amend(book, 1, 4, 11, 3) == (Outcome.WRONG_PHASE, [])
    assert amend(book, 1, 5, 10, 2) == (Outcome.AMENDED, [])
    assert book.cancel(2) == 3
    assert book.uncross(None) == (None, [], [])
    assert book.submit(6, 2, BUY, 10, 1, IOC, []) is Outcome.FILLED


def test_a_log_replays_to_the_same_digest() -> None:
    def submit(ref: int, side: Side, price: int, lots: int, packed: int = 0) -> Command:
        kind = Kind.SUBMIT_WITH_OPTIONS if packed else Kind.SUBMIT
        return (int(kind), 0, ref, ref, ref, int(side), price, lots, 0, ref, packed)

    log: list[Command] = [
        submit(1, SELL, 10, 5),
        submit(2, SELL, 11, 5),
        submit(3, BUY, 11, 6, options(minimum=7)),
        submit(4, BUY, 11, 6, options(post_only=True)),
        (int(Kind.AMEND), 0, 5, 2, 0, 0, 10, 5, 0, 0, 0),
        submit(6, BUY, 11, 6, options(minimum=6, prevent_by=3)),
        (int(Kind.CANCEL), 0, 7, 2, 0, 0, 0, 0, 0, 0, 0),
    ]
    books = [Book(), Book()]
    first, second = (run([book], log) for book in books)
    assert first.outcomes == [
        Outcome.RESTING,
        Outcome.RESTING,
        Outcome.BELOW_MINIMUM,
        Outcome.WOULD_CROSS,
        Outcome.RESTING,
        Outcome.FILLED,
        4,
    ]
    assert first.fills == [(6, 1, 10, 5, 0), (6, 2, 10, 1, 4)]
    assert traded(first) == (2, 6)
    assert first.digest() == second.digest()
    assert run([Book()], log[:-1]).digest() != first.digest()
