"""Any sequence of commands: the book equals the naive model, conserves lots, can be rebuilt."""

from dataclasses import dataclass

from hypothesis import given, settings, strategies as st

from market.matching.book import Book
from market.matching.terms import (
    UNLIMITED,
    Cut,
    Fill,
    Outcome,
    Phase,
    SelfTrade,
    Side,
    TimeInForce,
)
from tests.market.matching.naive import NaiveBook

# Few prices and groups, so that crosses, ties and self-trades are common.
PRICES = st.integers(95, 105)
LOTS = st.integers(1, 12)
REFERENCES = st.none() | PRICES
MODES = st.sampled_from([int(mode) for mode in SelfTrade])


@dataclass(frozen=True)
class Submit:
    party: int
    side: Side
    price: int
    lots: int
    tif: int
    post_only: bool = False
    prevent_by: int = 0
    minimum: int = 0

    @property
    def owner(self) -> int:
        """Parties 1 and 2 are affiliates."""
        return max(self.party, 2)


@dataclass(frozen=True)
class Cancel:
    ref: int


@dataclass(frozen=True)
class CancelAll:
    party: int | None


@dataclass(frozen=True)
class Amend:
    ref: int
    price: int
    lots: int
    post_only: bool
    prevent_by: int


@dataclass(frozen=True)
class Turn:
    """Change the phase; an uncrossing to ``CONTINUOUS``."""

    phase: Phase
    reference: int | None


Step = Submit | Cancel | CancelAll | Amend | Turn


def submits() -> st.SearchStrategy[Submit]:
    parties, sides = st.integers(1, 5), st.sampled_from(Side)
    gtc, ioc, fok = (int(t) for t in (TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK))
    limited = st.builds(
        Submit, parties, sides, PRICES, LOTS, st.sampled_from([gtc, gtc, ioc, fok]), st.just(False)
    )
    prevented = st.builds(
        Submit,
        parties,
        sides,
        PRICES,
        LOTS,
        st.sampled_from([gtc, ioc, fok]),
        st.just(False),
        MODES,
    )
    at_least = st.builds(
        Submit,
        parties,
        sides,
        PRICES,
        LOTS,
        st.sampled_from([gtc, ioc]),
        st.just(False),
        MODES,
        st.integers(1, 8),
    )
    passive = st.builds(Submit, parties, sides, PRICES, LOTS, st.just(gtc), st.just(True))
    posted = st.builds(
        Submit,
        parties,
        st.just(Side.SELL),
        st.integers(100, 105),
        st.just(UNLIMITED),
        st.just(gtc),
        st.booleans(),
        MODES,
    )
    return st.one_of(limited, limited, prevented, prevented, at_least, passive, posted)


REFS = st.integers(1, 80)
amends = st.builds(Amend, REFS, PRICES, st.integers(0, 12), st.booleans(), MODES)
cancels = st.one_of(
    st.builds(Cancel, REFS), st.builds(Cancel, REFS), st.builds(CancelAll, st.none() | st.just(3))
)
steps = st.lists(st.one_of(submits(), submits(), submits(), cancels, amends), max_size=80)
auction_only = st.builds(
    Submit,
    st.integers(1, 5),
    st.sampled_from(Side),
    PRICES,
    LOTS,
    st.just(int(TimeInForce.AUCTION)),
    st.booleans(),
    MODES,
)
turns = st.builds(Turn, st.sampled_from(Phase), REFERENCES)
phased = st.lists(
    st.one_of(submits(), submits(), auction_only, cancels, amends, turns), max_size=60
)


def apply(book: Book | NaiveBook, ref: int, step: Step) -> tuple[object, list[Fill], list[Cut]]:
    """One step on either book: (result, fills, cuts)."""
    fills: list[Fill] = []
    cuts: list[Cut] = []
    result: object
    if isinstance(step, Submit):
        result = book.submit(
            ref,
            step.owner,
            step.side,
            step.price,
            step.lots,
            step.tif,
            fills,
            step.party,
            step.post_only,
            step.prevent_by,
            step.minimum,
            cuts,
        )
    elif isinstance(step, Amend):
        result = book.amend(
            step.ref, ref, step.price, step.lots, fills, step.post_only, step.prevent_by, cuts
        )
    elif isinstance(step, Cancel):
        result = book.cancel(step.ref)
    elif isinstance(step, CancelAll):
        result = book.cancel_all(step.party)
    else:
        result = turn(book, step)
    return result, fills, cuts


def turn(book: Book | NaiveBook, step: Turn) -> object:
    if isinstance(book, Book):
        if step.phase is not Phase.CONTINUOUS:
            (book.halt if step.phase is Phase.HALTED else book.open_call)()
            return None
        indicative = book.indicative(step.reference)
        found = book.uncross(step.reference)
        assert found.clearing == indicative
        return found.clearing and tuple(found.clearing), found.executions, found.cancelled
    if step.phase is not Phase.CONTINUOUS:
        book.phase = step.phase
        return None
    price = book.price(step.reference)
    return price, *book.uncross(step.reference)


def play(sequence: list[Step]) -> tuple[Book, NaiveBook]:
    """Both books through all steps, compared after each."""
    book, naive = Book(), NaiveBook()
    for ref, step in enumerate(sequence, start=1):
        assert apply(book, ref, step) == apply(naive, ref, step), step
        assert len(book) == len(naive.orders)
    assert list(book.resting()) == naive.resting()
    return book, naive


@settings(max_examples=200, deadline=None)
@given(steps)
def test_book_equals_the_naive_model(sequence: list[Step]) -> None:
    play(sequence)


@settings(max_examples=200, deadline=None)
@given(phased)
def test_book_equals_the_naive_model_through_auctions_and_halts(sequence: list[Step]) -> None:
    book, _ = play(sequence)
    found = book.uncross(None)
    bid, ask = book.best(Side.BUY), book.best(Side.SELL)
    assert bid is None or ask is None or bid < ask
    assert book.phase is Phase.CONTINUOUS
    assert not any(order.auction_only for order in book.resting())
    if found.clearing is not None:
        assert sum(item.lots for item in found.executions) == found.clearing.volume


@settings(max_examples=150, deadline=None)
@given(steps)
def test_lots_are_conserved_and_nobody_trades_with_their_group(sequence: list[Step]) -> None:
    """What rests of an order is what entered less its trades and cuts; sides stay apart."""
    book = Book()
    left: dict[int, int] = {}
    entered: dict[int, Submit] = {}
    for ref, step in enumerate(sequence, start=1):
        before = {order.ref: order.lots for order in book.resting()}
        result, fills, cuts = apply(book, ref, step)
        taker = step.ref if isinstance(step, Amend) else ref
        left = dict(before)
        if isinstance(step, Submit):
            left[ref], entered[ref] = step.lots, step
        elif isinstance(step, Amend) and result not in (Outcome.UNKNOWN, Outcome.WOULD_CROSS):
            left[taker] = step.lots
        for taken_by, maker, _, lots, kept in [*fills, *cuts]:
            assert taken_by == taker
            left[maker] -= lots if left[maker] != UNLIMITED or not kept else 0
            assert left[maker] == kept
        for _, maker, _, _, _ in fills:
            assert entered[taker].owner != entered[maker].owner
            assert entered[taker].side is not entered[maker].side
        decremented = cuts if getattr(step, "prevent_by", 0) == SelfTrade.DECREMENT else []
        if left.get(taker, UNLIMITED) != UNLIMITED:
            left[taker] -= sum(item[3] for item in [*fills, *decremented])
            assert left[taker] >= 0
        for gone in before.keys() | {taker}:
            assert book.left(gone) in (0, left.get(gone))
            if not book.left(gone) and left.get(gone) and gone != taker:
                assert isinstance(step, Cancel | CancelAll)
        bid, ask = book.best(Side.BUY), book.best(Side.SELL)
        assert bid is None or ask is None or bid < ask


@settings(max_examples=100, deadline=None)
@given(phased)
def test_rebuild_from_the_resting_orders_is_the_same_book(sequence: list[Step]) -> None:
    book, _ = play(sequence)
    rebuilt = Book()
    for order in sorted(book.resting(), key=lambda order: order.rank):
        rebuilt.restore(*order)
    assert list(rebuilt.resting()) == list(book.resting())
    assert rebuilt.checksum() == book.checksum()
    assert [rebuilt.depth(side, 99) for side in Side] == [book.depth(side, 99) for side in Side]
    assert rebuilt.cancel_all() == book.cancel_all()
    assert rebuilt.checksum() == book.checksum() == 0
