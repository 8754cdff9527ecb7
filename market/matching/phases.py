"""Bringing a book into a phase without a trade."""

from __future__ import annotations

from market.matching.book import Book
from market.matching.terms import Phase


def enter(book: Book, phase: Phase) -> None:
    """Halt the book, let it collect, or let it trade continuously; nothing when it does already.

    A book whose sides cross must be uncrossed (`Matcher.uncross`) before it trades continuously.
    """
    if book.phase is phase:
        return
    if phase is Phase.HALTED:
        book.halt()
    elif phase is Phase.CALL:
        book.open_call()
    else:
        ended = book.uncross(None)
        assert not ended.executions, "a crossed book was reopened without an auction"
        assert not ended.cancelled, "auction-only orders outlived their auction"
