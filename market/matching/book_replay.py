"""One book rebuilt from the pages of its journal (pure). Proves every row on the way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from market.matching.book import Book
from market.matching.book_updates import microseconds, update_row
from market.matching.journal import Entry, StepKind, read_page
from market.matching.journal_sql import UpdateRow
from market.matching.levels import Levels, unpack_levels
from market.matching.marks import add_marks, order_mark
from market.matching.phases import enter
from market.matching.terms import Cut, Fill, Outcome, TimeInForce
from market.matching.words import pack


class Traded(NamedTuple):
    """A trade by the input numbers of its orders; minor units per lot."""

    buy_ref: int
    sell_ref: int
    price: int
    lots: int


class Diverged(Exception):
    """The journal, the book or the trades tell another story from ``sequence`` on."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"sequence {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class _Rests(NamedTuple):
    side: int
    price: int
    lots: int
    rank: int
    auction_only: bool


class BookReplay:
    """The book of one plan from empty, update by update.

    Checksum, number of orders and levels are added up from what the book reports, so that an
    update costs what it changes; :meth:`finish` compares with the whole book.
    """

    def __init__(self, plan_id: UUID) -> None:
        self.plan_id = plan_id
        self.book = Book()
        self.sequence = 0
        self.checksum = 0
        self.trades = 0
        self._last_seq = 0
        self._levels = Levels()
        self._rests: dict[int, _Rests] = {}
        self._tape = blake2b(digest_size=32)

    @property
    def trades_digest(self) -> str:
        """64 hex digits over all trades so far, in order."""
        return self._tape.hexdigest()

    def apply(self, stored: UpdateRow, *, at: datetime) -> list[Traded]:
        """Carry out one row, written ``at`` a time: the trades it makes.

        Raises Diverged, and is of no use after it.
        """
        sequence = self.sequence + 1
        if stored.sequence != sequence:
            raise Diverged(sequence, f"missing from the journal; the next is {stored.sequence}")
        if stored.first_seq <= self._last_seq:
            raise Diverged(sequence, "input numbers do not rise")
        if _digest(stored, at) != stored.digest:
            raise Diverged(sequence, "the row does not match its digest")
        traded: list[Traded] = []
        try:
            phase, entries = read_page(stored.steps)
            enter(self.book, phase)
            for entry in entries:
                self._step(entry, traded)
        except (ValueError, KeyError, AssertionError) as error:
            raise Diverged(sequence, f"the steps cannot be carried out ({error})") from error
        self._compare(stored)
        self.sequence, self._last_seq = sequence, stored.last_seq
        for trade in traded:
            self._tape.update(pack(list(trade)))
        self.trades += len(traded)
        return traded

    def finish(self) -> None:
        """Compare with every resting order. Raises Diverged."""
        if self.book.checksum() != self.checksum:
            raise Diverged(self.sequence, "the rebuilt book is not what it reported")

    def _compare(self, stored: UpdateRow) -> None:
        found = (len(self.book), self.checksum)
        if found != (stored.orders, stored.checksum):
            raise Diverged(
                stored.sequence,
                f"rebuilt {found[0]} orders with checksum {found[1]}, "
                f"stored {stored.orders} with {stored.checksum}",
            )
        if sorted(unpack_levels(stored.levels)) != sorted(self._levels.changes()):
            raise Diverged(stored.sequence, "the stored price levels are others")

    def _step(self, entry: Entry, traded: list[Traded]) -> None:
        match entry.kind:
            case StepKind.SUBMIT:
                self._submit(entry, traded)
            case StepKind.CANCEL:
                if not self.book.cancel(entry.ref):
                    raise ValueError(f"order {entry.ref} does not rest")
                self._rest(entry.ref, 0)
            case StepKind.AMEND:
                self._amend(entry, traded)
            case StepKind.ENTER:
                enter(self.book, entry.phase)
            case StepKind.UNCROSS:
                self._uncross(entry, traded)

    def _submit(self, entry: Entry, traded: list[Traded]) -> None:
        fills: list[Fill] = []
        cuts: list[Cut] = []
        outcome = self.book.submit(
            entry.ref,
            entry.owner,
            entry.side,
            entry.price,
            entry.lots,
            entry.tif,
            fills,
            entry.party,
            entry.post_only,
            entry.prevent_by,
            entry.minimum,
            cuts,
        )
        if outcome is Outcome.WRONG_PHASE:
            raise ValueError(f"the book does not take order {entry.ref} now")
        self._met(entry.side, fills, cuts, traded)
        if outcome is Outcome.RESTING:
            late = entry.tif == TimeInForce.AUCTION
            left = self.book.left(entry.ref)
            self._rest(entry.ref, left, _Rests(entry.side, entry.price, left, entry.ref, late))

    def _amend(self, entry: Entry, traded: list[Traded]) -> None:
        before = self._rests[entry.ref]
        fills: list[Fill] = []
        cuts: list[Cut] = []
        outcome = self.book.amend(
            entry.ref,
            entry.rank,
            entry.price,
            entry.lots,
            fills,
            entry.post_only,
            entry.prevent_by,
            cuts,
        )
        if outcome in (Outcome.UNKNOWN, Outcome.WRONG_PHASE, Outcome.WOULD_CROSS):
            raise ValueError(f"order {entry.ref} cannot be amended so")
        self._met(before.side, fills, cuts, traded)
        self._rest(entry.ref, 0)
        left = self.book.left(entry.ref)
        if left:
            rank = before.rank if outcome is Outcome.AMENDED else entry.rank
            after = _Rests(before.side, entry.price, left, rank, before.auction_only)
            self._rest(entry.ref, left, after)

    def _uncross(self, entry: Entry, traded: list[Traded]) -> None:
        done = self.book.uncross(entry.reference)
        for execution in done.executions:
            assert done.clearing is not None, "executions have a price"
            traded.append(
                Traded(execution.buy_ref, execution.sell_ref, done.clearing.price, execution.lots)
            )
            self._rest(execution.buy_ref, execution.buy_left)
            self._rest(execution.sell_ref, execution.sell_left)
        for _, ref, _, _, left in done.cancelled:
            self._rest(ref, left)

    def _met(
        self, side: int, fills: Sequence[Fill], cuts: Sequence[Cut], traded: list[Traded]
    ) -> None:
        """What an incoming order of ``side`` did to those that rested."""
        for ref, maker, price, lots, left in fills:
            refs = (maker, ref) if side else (ref, maker)
            traded.append(Traded(*refs, price, lots))
            self._rest(maker, left)
        for _, maker, _, _, left in cuts:
            self._rest(maker, left)

    def _rest(self, ref: int, left: int, terms: _Rests | None = None) -> None:
        """From now on ``left`` lots rest under ``ref``, on new ``terms`` or its old ones."""
        before = self._rests.pop(ref, None)
        change = 0
        if before is not None:
            change -= _mark(ref, before)
            self._levels.remove(before.side, before.price, before.lots)
        after = terms or before
        if left:
            assert after is not None, "an order rests on terms"
            after = self._rests[ref] = after._replace(lots=left)
            change += _mark(ref, after)
            self._levels.add(after.side, after.price, left)
        self.checksum = add_marks(self.checksum, change)


def _mark(ref: int, order: _Rests) -> int:
    return order_mark(ref, order.side, order.price, order.lots, order.rank, order.auction_only)


def _digest(stored: UpdateRow, at: datetime) -> bytes:
    """The digest that the row should have."""
    return update_row(
        stored.plan_id,
        sequence=stored.sequence,
        checksum=stored.checksum,
        orders=stored.orders,
        first_seq=stored.first_seq,
        last_seq=stored.last_seq,
        at_us=microseconds(at),
        steps=stored.steps,
        levels=stored.levels,
    ).digest
