"""Rebuilds books from the journal in the database and proves them, trade by trade.

Reads in short transactions and bounded portions, beside a running market: what was committed when
it began never changes. Memory grows with the orders that rest, not with the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.errors import NotFound
from market.matching import journal_sql
from market.matching.book_replay import BookReplay, Diverged, Traded
from market.matching.journal_sql import UpdateRow
from market.matching.terms import Level, Side

if TYPE_CHECKING:
    from market.matching.sql import Record

UPDATES_PER_READ = 256
TRADES_PER_READ = 2_048
LEVELS_SHOWN = 20

# Called with the plan, the updates done and those to do.
Progress = Callable[[UUID, int, int], None]


class BookUnknown(NotFound):
    """No batch has ever touched this book, or not yet that often."""

    code = "book_unknown"
    title = "No such book, or no such sequence of it"


class Head(NamedTuple):
    """A book as committed when the proof began; ``trade_seq`` is its last trade's."""

    plan_id: UUID
    sequence: int
    checksum: int
    orders: int
    trade_seq: int


@dataclass(slots=True)
class BookReport:
    """What was rebuilt of one book. ``diverged`` names the first wrong sequence, if any."""

    plan_id: UUID
    sequence: int
    orders: int
    checksum: int
    trades: int
    trades_digest: str
    diverged: Diverged | None
    bids: list[Level] = field(default_factory=list)
    asks: list[Level] = field(default_factory=list)


class _Tape:
    """The trades of a plan in match order, read ahead by portions."""

    def __init__(self, kernel: Kernel, head: Head) -> None:
        self._kernel = kernel
        self._head = head
        self._rows: deque[Record] = deque()
        self._after = 0

    async def next(self) -> Record | None:
        """The next trade up to the head's, None after the last."""
        if not self._rows and self._after < self._head.trade_seq:
            async with self._kernel.unit_of_work() as uow:
                rows = await journal_sql.read_trades(
                    await uow.raw(), self._head.plan_id, after=self._after, limit=TRADES_PER_READ
                )
            self._rows.extend(row for row in rows if row["seq"] <= self._head.trade_seq)
            self._after = rows[-1]["seq"] if rows else self._head.trade_seq
        return self._rows.popleft() if self._rows else None


async def heads(kernel: Kernel, plan_id: UUID | None = None) -> list[Head]:
    """The books to prove, of all plans or one. Raises BookUnknown."""
    async with kernel.unit_of_work() as uow:
        rows = await journal_sql.read_heads(await uow.raw(), plan_id)
    if plan_id is not None and not rows:
        raise BookUnknown(param="plan_id")
    return [Head(*row) for row in rows]


async def prove_book(
    kernel: Kernel, head: Head, *, at: int | None = None, progress: Progress | None = None
) -> BookReport:
    """Rebuild a book up to sequence ``at`` (its head by default), comparing every update with the
    journal, every fill with the trades, and the head with ``matching.book``.

    Raises BookUnknown when ``at`` is not reached yet.
    """
    end = head.sequence if at is None else at
    if end > head.sequence:
        raise BookUnknown(f"The book is at sequence {head.sequence}.", param="at")
    replay = BookReplay(head.plan_id)
    diverged: Diverged | None = None
    try:
        await _run(kernel, replay, head, end, progress)
    except Diverged as error:
        diverged = error
    return BookReport(
        plan_id=head.plan_id,
        sequence=replay.sequence,
        orders=len(replay.book),
        checksum=replay.checksum,
        trades=replay.trades,
        trades_digest=replay.trades_digest,
        diverged=diverged,
        bids=replay.book.depth(Side.BUY, LEVELS_SHOWN),
        asks=replay.book.depth(Side.SELL, LEVELS_SHOWN),
    )


async def _run(
    kernel: Kernel, replay: BookReplay, head: Head, end: int, progress: Progress | None
) -> None:
    tape = _Tape(kernel, head)
    while replay.sequence < end:
        count = min(UPDATES_PER_READ, end - replay.sequence)
        async with kernel.unit_of_work() as uow:
            rows = await journal_sql.read_updates(
                await uow.raw(), head.plan_id, after=replay.sequence, limit=count
            )
        if not rows:
            raise Diverged(replay.sequence + 1, "missing from the journal")
        for row in rows:
            stored = UpdateRow(*(row[name] for name in UpdateRow._fields))
            for trade in replay.apply(stored, at=row["at"]):
                _compare(replay.sequence, trade, row["at"], await tape.next())
        if progress is not None:
            progress(head.plan_id, replay.sequence, end)
    replay.finish()
    if end == head.sequence:
        if (replay.checksum, len(replay.book)) != (head.checksum, head.orders):
            raise Diverged(end, "matching.book states another checksum or number of orders")
        surplus = await tape.next()
        if surplus is not None:
            raise Diverged(end, f"trade {surplus['seq']} was made by no step")


def _compare(sequence: int, trade: Traded, at: datetime, row: Record | None) -> None:
    if row is None:
        raise Diverged(sequence, f"the trade {tuple(trade)} has no row")
    names = ("buy_seq", "sell_seq", "price_minor", "lots")
    found = tuple(row[name] for name in names)
    if (*found, row["traded_at"]) != (*trade, at):
        raise Diverged(sequence, f"trade {row['seq']} is {found}, replayed {tuple(trade)}")
