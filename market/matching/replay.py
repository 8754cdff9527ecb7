"""Commands and results as flat integers: one entry for a batch, a replay, a test, a benchmark.

The result of a log depends on the log alone, so two runs can be compared by their hash.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import Final

from market.matching.book import Book
from market.matching.terms import Cut, Fill


class Kind(IntEnum):
    SUBMIT = 0
    SUBMIT_WITH_OPTIONS = 1
    CANCEL = 2
    AMEND = 3


_SUBMIT: Final = int(Kind.SUBMIT)
_WITH_OPTIONS: Final = int(Kind.SUBMIT_WITH_OPTIONS)
_CANCEL: Final = int(Kind.CANCEL)

# (kind, book index, sequence, ref, owner, side, price, lots, time in force, party, options). The
# sequence of a new order is its ref, of an amendment its rank. A cancel needs the fields up to
# the ref, an amendment also price, lots and options; what is not needed is 0.
Command = tuple[int, int, int, int, int, int, int, int, int, int, int]


def options(*, post_only: bool = False, prevent_by: int = 0, minimum: int = 0) -> int:
    """The options of an order as one integer."""
    return int(post_only) | prevent_by << 1 | minimum << 3


def _unpacked(packed: int) -> tuple[bool, int, int]:
    return bool(packed & 1), packed >> 1 & 3, packed >> 3


@dataclass(slots=True)
class Results:
    """What a log did: ``outcomes`` by command (of a cancel: the lots it took out), and all fills
    and cuts in order, each with the ref of the command's order.
    """

    outcomes: list[int] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    def digest(self) -> str:
        """64 hex digits over everything in here."""
        content = [int(outcome) for outcome in self.outcomes], self.fills, self.cuts
        return blake2b(repr(content).encode(), digest_size=32).hexdigest()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Books make no garbage in cycles, and a collection walks every resting order."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run(books: Sequence[Book], commands: Iterable[Command]) -> Results:
    """Apply commands in order, each to the book of its index."""
    results = Results()
    with _collector_paused():
        _run(books, commands, results)
    return results


def _run(books: Sequence[Book], commands: Iterable[Command], results: Results) -> None:
    fills, cuts, done = results.fills, results.cuts, results.outcomes.append
    submits = [book.submit for book in books]
    cancels = [book.cancel for book in books]
    outcome: int
    for kind, book, seq, ref, owner, side, price, lots, tif, party, packed in commands:
        if kind == _SUBMIT:
            outcome = submits[book](ref, owner, side, price, lots, tif, fills, party)
        elif kind == _CANCEL:
            outcome = cancels[book](ref)
        else:
            post_only, prevent_by, minimum = _unpacked(packed)
            if kind == _WITH_OPTIONS:
                outcome = submits[book](
                    ref,
                    owner,
                    side,
                    price,
                    lots,
                    tif,
                    fills,
                    party,
                    post_only,
                    prevent_by,
                    minimum,
                    cuts,
                )
            else:
                amend = books[book].amend
                outcome = amend(ref, seq, price, lots, fills, post_only, prevent_by, cuts)
        done(outcome)


def traded(results: Results) -> tuple[int, int]:
    """(trades, lots traded)."""
    return len(results.fills), sum(fill[3] for fill in results.fills)
