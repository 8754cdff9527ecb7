"""Any sequence of orders and cancels: the book equals the naive model, and conserves lots."""

from dataclasses import dataclass

from hypothesis import given, settings, strategies as st

from market.matching.book import Book
from market.matching.terms import UNLIMITED, Fill, Outcome, Side, TimeInForce
from tests.market.matching.naive import NaiveBook


@dataclass(frozen=True)
class Submit:
    owner: int
    side: Side
    price: int
    lots: int
    tif: TimeInForce
    post_only: bool


@dataclass(frozen=True)
class Cancel:
    ref: int


def submits() -> st.SearchStrategy[Submit]:
    """Few prices and owners, so that crosses, ties and self-trades are common."""
    limited = st.builds(
        Submit,
        owner=st.integers(1, 4),
        side=st.sampled_from(Side),
        price=st.integers(95, 105),
        lots=st.integers(1, 12),
        tif=st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK]),
        post_only=st.just(False),
    )
    passive = st.builds(
        Submit,
        owner=st.integers(1, 4),
        side=st.sampled_from(Side),
        price=st.integers(95, 105),
        lots=st.integers(1, 12),
        tif=st.just(TimeInForce.GTC),
        post_only=st.just(True),
    )
    posted = st.builds(
        Submit,
        owner=st.integers(1, 4),
        side=st.just(Side.SELL),
        price=st.integers(100, 105),
        lots=st.just(UNLIMITED),
        tif=st.just(TimeInForce.GTC),
        post_only=st.booleans(),
    )
    return st.one_of(limited, limited, limited, passive, posted)


steps = st.lists(
    st.one_of(submits(), submits(), submits(), st.builds(Cancel, ref=st.integers(1, 80))),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_book_equals_the_naive_model(sequence: list[Submit | Cancel]) -> None:
    book, naive = Book(), NaiveBook()
    for ref, step in enumerate(sequence, start=1):
        if isinstance(step, Cancel):
            assert book.cancel(step.ref) == naive.cancel(step.ref)
            continue
        mine: list[Fill] = []
        model: list[Fill] = []
        arguments = (ref, step.owner, step.side, step.price, step.lots, step.tif)
        outcome = book.submit(*arguments, mine, post_only=step.post_only)
        assert outcome == naive.submit(*arguments, model, step.post_only)
        assert mine == model
    assert [order[:5] for order in book.resting()] == naive.resting()
    assert len(book) == len(naive.orders)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_lots_are_conserved_and_the_book_never_stays_crossed(
    sequence: list[Submit | Cancel],
) -> None:
    """Bought = sold per fill; entered = traded + cancelled + resting, on either side."""
    book = Book()
    entered = {Side.BUY: 0, Side.SELL: 0}
    gone = {Side.BUY: 0, Side.SELL: 0}
    sides: dict[int, Side] = {}
    posted: set[int] = set()
    for ref, step in enumerate(sequence, start=1):
        if isinstance(step, Cancel):
            left = book.cancel(step.ref)
            if left not in (0, UNLIMITED):
                gone[sides[step.ref]] += left
            continue
        fills: list[Fill] = []
        outcome = book.submit(
            ref,
            step.owner,
            step.side,
            step.price,
            step.lots,
            step.tif,
            fills,
            post_only=step.post_only,
        )
        sides[ref] = step.side
        traded = sum(fill[3] for fill in fills)
        if step.lots == UNLIMITED:
            posted.add(ref)
        else:
            entered[step.side] += step.lots
            gone[step.side] += step.lots if outcome not in (Outcome.RESTING,) else traded
        for _, maker, price, lots, _ in fills:
            assert (price <= step.price) if step.side is Side.BUY else (price >= step.price)
            if maker not in posted:
                gone[sides[maker]] += lots
        bid, ask = book.best(Side.BUY), book.best(Side.SELL)
        assert bid is None or ask is None or bid < ask
    for side in Side:
        resting = sum(o.lots for o in book.resting() if o.side is side and o.lots != UNLIMITED)
        assert entered[side] == gone[side] + resting
        assert resting == sum(level.lots for level in book.depth(side, 1_000))


@settings(max_examples=100, deadline=None)
@given(steps)
def test_rebuild_from_the_resting_orders_is_the_same_book(
    sequence: list[Submit | Cancel],
) -> None:
    book = Book()
    for ref, step in enumerate(sequence, start=1):
        if isinstance(step, Cancel):
            book.cancel(step.ref)
        else:
            book.submit(
                ref,
                step.owner,
                step.side,
                step.price,
                step.lots,
                step.tif,
                [],
                post_only=step.post_only,
            )
    rebuilt = Book()
    for order in sorted(book.resting()):
        rebuilt.restore(*order)
    assert list(rebuilt.resting()) == list(book.resting())
    assert rebuilt.checksum() == book.checksum()
    assert [rebuilt.depth(side, 99) for side in Side] == [book.depth(side, 99) for side in Side]
