"""Pages of the journal, levels and replay without a database."""

import contextlib
import random
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from hypothesis import given, strategies as st

from market.matching.book import Book
from market.matching.journal import BadPage, Journal, StepKind, read_page
from market.matching.levels import LevelChange, Levels, pack_levels, unpack_levels
from market.matching.shard import LiveOrder
from market.matching.terms import UNLIMITED, Phase, SelfTrade, Side

PLAN, ANN, BOB = uuid4(), uuid4(), uuid4()
CALL = Phase.CALL


def order(seq: int, side: Side, price: int, lots: int | None, **more: object) -> LiveOrder:
    return LiveOrder(
        seq=seq,
        id=uuid4(),
        plan_id=PLAN,
        party_id=ANN,
        group=BOB,
        side=side,
        price=price,
        lots=lots,
        filled=0,
        amount=0,
        hold_id=None,
        expires_at=None,
        rank=seq,
        **more,  # type: ignore[arg-type]
    )


def test_a_page_reads_back_every_step() -> None:
    journal = Journal()
    journal.submit(Phase.CONTINUOUS, order(1, Side.SELL, 10**15, None), 7, 3, 0, 0)
    careful = order(2, Side.BUY, 5, 10**9, post_only=True, prevent_by=SelfTrade.DECREMENT)
    journal.submit(Phase.CONTINUOUS, careful, 3, 3, 2, 4)
    journal.cancel(PLAN, Phase.HALTED, 1)
    journal.amend(PLAN, CALL, 2, 9, 6, 3, True, int(SelfTrade.CANCEL_BOTH))
    journal.uncross(PLAN, CALL, 77)
    journal.uncross(PLAN, CALL, None)
    phase, found = read_page(journal.pages[PLAN].to_bytes())
    assert phase is Phase.CONTINUOUS
    posted, buy, halted, cancelled, call, amended, first, again, last = found
    assert (posted.kind, posted.ref, posted.side, posted.price) == (0, 1, 1, 10**15)
    assert (posted.lots, posted.owner, posted.party) == (UNLIMITED, BOB.int, ANN.int)
    assert (buy.side, buy.lots, buy.tif, buy.minimum) == (0, 10**9, 2, 4)
    assert (buy.post_only, buy.prevent_by) == (True, SelfTrade.DECREMENT)
    # The number, not the name, tells a page's ids apart.
    assert (buy.owner, buy.party) == (ANN.int, ANN.int)
    assert (halted.kind, halted.phase) == (StepKind.ENTER, Phase.HALTED)
    assert (cancelled.kind, cancelled.ref) == (StepKind.CANCEL, 1)
    assert (call.kind, call.phase) == (StepKind.ENTER, CALL)
    assert (amended.kind, amended.ref, amended.rank) == (StepKind.AMEND, 2, 9)
    assert (amended.price, amended.lots, amended.post_only) == (6, 3, True)
    assert amended.prevent_by == SelfTrade.CANCEL_BOTH
    assert (first.kind, first.reference) == (StepKind.UNCROSS, 77)
    assert (again.kind, again.phase) == (StepKind.ENTER, CALL)
    assert (last.kind, last.reference) == (StepKind.UNCROSS, None)


@given(st.binary(max_size=120))
def test_bytes_that_are_no_page_are_refused(data: bytes) -> None:
    with contextlib.suppress(BadPage):
        phase, entries = read_page(data)
        # By chance it is one: nothing in it then is what no step has.
        assert phase in Phase
        assert all(entry.ref >= -(2**63) for entry in entries)


def test_a_page_that_is_cut_short_is_refused() -> None:
    journal = Journal()
    journal.submit(Phase.CONTINUOUS, order(1, Side.SELL, 1, 1), 0, 0, 0, 0)
    page = journal.pages[PLAN].to_bytes()
    for length in range(len(page)):
        if (length - 22) % 8 or length < 22:
            with pytest.raises(BadPage):
                read_page(page[:length])
    with pytest.raises(BadPage, match="version 9"):
        read_page(b"\x09" + page[1:])


@dataclass
class Client:
    """What a reader of the feed keeps: a snapshot, then increments."""

    known: dict[tuple[int, int], tuple[int, int, int]]

    def take(self, changes: list[LevelChange]) -> None:
        for side, price, lots, orders, unlimited in changes:
            self.known[side, price] = (lots, orders, unlimited)
            if not orders:
                del self.known[side, price]


def as_depth(book: Book) -> dict[tuple[int, int], tuple[int, int, int]]:
    return {
        (side, level.price): (level.lots, level.orders, level.unlimited)
        for side in Side
        for level in book.depth(side, 1_000)
    }


@given(st.integers(0, 2**32), st.integers(0, 80))
def test_snapshot_and_increments_are_the_book(seed: int, joined_after: int) -> None:
    draw = random.Random(seed)
    book, levels = Book(), Levels()
    resting: dict[int, tuple[int, int]] = {}
    client: Client | None = None
    for ref in range(1, 121):
        if resting and draw.random() < 0.3:
            gone = draw.choice(list(resting))
            side, price = resting.pop(gone)
            levels.remove(side, price, book.cancel(gone))
        else:
            side, price = draw.randrange(2), 100 + draw.randrange(8)
            lots = UNLIMITED if side and draw.random() < 0.1 else draw.randint(1, 9)
            fills: list[tuple[int, int, int, int, int]] = []
            book.submit(ref, draw.randrange(3), side, price, lots, 0, fills)
            for _, maker, at, traded, left in fills:
                levels.remove(1 - side, at, left if left == UNLIMITED else left + traded)
                if left:
                    levels.add(1 - side, at, left)
                else:
                    del resting[maker]
            if book.left(ref):
                levels.add(side, price, book.left(ref))
                resting[ref] = (side, price)
        changes = unpack_levels(pack_levels(levels.changes()))
        if client is not None:
            client.take(changes)
            assert client.known == as_depth(book)
        elif ref > joined_after:
            client = Client(as_depth(book))
    assert {(c.side, c.price): c[2:] for c in levels} == as_depth(book)


def test_levels_that_are_cut_short_are_refused() -> None:
    data = pack_levels([LevelChange(0, 5, 1, 1, 0)])
    assert unpack_levels(data) == [LevelChange(0, 5, 1, 1, 0)]
    with pytest.raises(ValueError, match="whole number"):
        unpack_levels(data[:-8])


def test_a_plan_has_a_page_of_its_own() -> None:
    journal, other = Journal(), UUID(int=1)
    journal.cancel(PLAN, Phase.CONTINUOUS, 1)
    journal.cancel(other, Phase.HALTED, 2)
    assert list(journal.pages) == [PLAN, other]
    assert read_page(journal.pages[other].to_bytes())[0] is Phase.HALTED
