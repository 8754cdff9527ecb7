"""The one caller of the books: every step that a batch gives to a book goes through here."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from market.matching.book import Uncrossing
from market.matching.journal import Journal
from market.matching.phases import enter
from market.matching.shard import LiveOrder, Shard
from market.matching.terms import Cut, Fill, Outcome, Phase

# Amendments after which nothing has happened.
_REFUSED = (Outcome.UNKNOWN, Outcome.WRONG_PHASE, Outcome.WOULD_CROSS)


class Step(NamedTuple):
    """What a step did to the incoming order, and to those it met."""

    outcome: Outcome
    fills: list[Fill]
    cuts: list[Cut]


class Desk:
    """Gives the steps of one batch to the books, in input order, and notes them."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.journal = Journal()

    def submit(self, order: LiveOrder, *, tif: int, minimum: int) -> Step:
        """Match a new order. Raises BookHalted and then changes nothing."""
        book = self._shard.instrument(order.plan_id).book
        fills: list[Fill] = []
        cuts: list[Cut] = []
        owner, party = self._shard.owner(order.group), self._shard.party(order.party_id)
        outcome = book.submit(
            order.seq,
            owner,
            order.side,
            order.price,
            order.left,
            tif,
            fills,
            party,
            order.post_only,
            order.prevent_by,
            minimum,
            cuts,
        )
        if outcome is not Outcome.WRONG_PHASE:
            self.journal.submit(book.phase, order, owner, party, tif, minimum)
        return Step(outcome, fills, cuts)

    def amend(self, order: LiveOrder, *, rank: int, price: int, lots: int, post_only: bool) -> Step:
        """Give a resting order another price or other lots. Raises BookHalted."""
        book = self._shard.instrument(order.plan_id).book
        fills: list[Fill] = []
        cuts: list[Cut] = []
        prevent_by = order.prevent_by
        outcome = book.amend(order.seq, rank, price, lots, fills, post_only, prevent_by, cuts)
        if outcome not in _REFUSED:
            self.journal.amend(
                order.plan_id, book.phase, order.seq, rank, price, lots, post_only, prevent_by
            )
        return Step(outcome, fills, cuts)

    def cancel(self, order: LiveOrder) -> int:
        """Take an order out: the lots it still had, 0 when it does not rest. Raises BookHalted."""
        book = self._shard.instrument(order.plan_id).book
        left = book.cancel(order.seq)
        if left:
            self.journal.cancel(order.plan_id, book.phase, order.seq)
        return left

    def enter(self, plan_id: UUID, phase: Phase) -> None:
        """Bring a book that does not cross into a phase. Raises BookHalted."""
        enter(self._shard.instrument(plan_id).book, phase)

    def uncross(self, plan_id: UUID, reference: int) -> Uncrossing:
        """Trade a call auction at its one price and end it. Raises BookHalted."""
        book = self._shard.instrument(plan_id).book
        self.journal.uncross(plan_id, book.phase, reference)
        return book.uncross(reference)

    def left(self, order: LiveOrder) -> int:
        """Lots that rest under an order; reads only."""
        return self._shard.instrument(order.plan_id).book.left(order.seq)
