"""A batch in the making: decided and encoded slice by slice, on states that may be a guess.

Under locks the states are facts, and the plan is what gets written. Made ahead, while the batch
before is still being written, they are what that batch will leave behind; ``ledger.settle``
tells under locks whether the guess was right. A wrong one costs a second decision, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from market.kernel.ids import new_id
from settlement.chain import Entry, batch_leaves
from settlement.commands import Command, Linked, Result
from settlement.copying import COPY_FROM_ENTRIES, CopiedBatch
from settlement.rules import AccountState, Books, Memory, decide

# A guess that waited longer for its locks is decided anew: its booking time would be a fiction.
STALE_AFTER = timedelta(seconds=5)


class Plan:
    """Commands with their results and the rows to write.

    ``before`` are the states of accounts that it rests on, ``after`` those that it leaves.
    """

    def __init__(self, books: Books, booked_at: datetime) -> None:
        self.booked_at = booked_at
        # Market time when the locks were held; set by ``ledger.settle``.
        self.settled_at: datetime | None = None
        self.before = dict(books.accounts)
        self.after: dict[UUID, AccountState] = {}
        self.results: list[Result] = []
        self.entries: list[Entry] = []
        self.leaves: list[bytes] = []
        self.rows = CopiedBatch(new_id(), booked_at)
        self._states = dict(books.accounts)
        self._memory = dict(books.memory)
        self._books = Books(self._states, books.holds, books.transfers, self._memory)

    def assume(self, states: Mapping[UUID, AccountState]) -> None:
        """Rest on ``states`` too, of accounts that the plan does not know yet."""
        self.before.update(states)
        self._states.update(states)

    def add(self, commands: Sequence[Command | Linked]) -> None:
        """Decide ``commands`` after all earlier ones; holds and reversals in the first call only.

        Raises KeyError for accounts that the plan does not know.
        """
        decision = decide(self._books, commands, now=self.booked_at, new_id=new_id)
        leaves = batch_leaves(decision.entries, self.booked_at)
        self._states.update(decision.accounts)
        self.after.update(decision.accounts)
        answers = iter(decision.results)
        for entry in decision.entries:
            # Repetitions have an answer but no entry; the first use of a key comes first.
            answer = next(answer for answer in answers if answer.key == entry.key)
            self._memory[entry.key] = Memory(entry.body_hash, answer)
        self.results += decision.results
        self.entries += decision.entries
        self.leaves += leaves
        if len(self.entries) >= COPY_FROM_ENTRIES:
            done = self.rows.entries
            self.rows.add(self.entries[done:], self.leaves[done:])

    def timely(self, at: datetime) -> bool:
        """Whether the booking time is right at market time ``at``: not ahead, not long ago.

        (The sandbox clock may have been moved since.)
        """
        return timedelta(0) <= at - self.booked_at <= STALE_AFTER
