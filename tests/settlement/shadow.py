"""A second ledger, as naive as possible: it keeps only the list of commands that were booked.

Every question (a balance, an open hold, the rows of a table) is answered by reading that whole
list again from the beginning. Nothing is folded, cached or locked, and nothing is imported from
:mod:`settlement.rules`, ``chain``, ``sql`` or ``split``: a mistake in there is not repeated here.
Only the names of commands and accounts are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from settlement.accounts import AccountRef
from settlement.commands import Capture, Command, Expire, Hold, Leg, Transfer, Void

UNPROTECTED = ("clearing", "receivable", "losses", "fx")
LIMIT = 4_000_000_000_000_000_000
LINKED = frozenset({"linked_refused"})
KEY_REUSED = frozenset({"idempotency_key_reused"})


class Booked(NamedTuple):
    """A command with the ledger's answer. The ledger chose the moment and the transfer's name."""

    command: Command
    at: datetime
    code: str | None
    transfer_id: UUID | None


class Expectation(NamedTuple):
    """What the ledger must answer: a refusal for one of ``reasons``, or if there is none, yes.

    ``earlier`` is the booking that a replay must repeat word for word.
    """

    reasons: frozenset[str]
    moves_money: bool = False
    hold_id: UUID | None = None
    earlier: Booked | None = None


class KnownHold(NamedTuple):
    """A hold and how it ended (``outcome`` None: open)."""

    id: UUID
    account: AccountRef
    amount: int
    expires_at: datetime
    memo_id: UUID | None
    outcome: str | None
    captured: int


class Posted(NamedTuple):
    """One leg of a booked transfer, in booking order."""

    account: AccountRef
    seq: int
    transfer_id: UUID
    amount: int
    balance: int
    at: datetime


class Tables(NamedTuple):
    """What must be in the database, row by row."""

    accounts: dict[UUID, tuple[int, int, int]]
    postings: set[tuple[UUID, int, UUID, str, int, int]]
    transfers: dict[UUID, tuple[str, UUID | None, UUID | None, datetime, datetime]]
    holds: dict[UUID, tuple[UUID, int, datetime, UUID | None]]
    resolutions: dict[UUID, tuple[str, int]]
    commands: dict[str, tuple[str, str | None, UUID | None, UUID | None, UUID | None]]


@dataclass
class Shadow:
    """The list, and the questions that can be asked of it."""

    booked: list[Booked] = field(default_factory=list)

    def fork(self) -> Shadow:
        """Another one with the same past."""
        return Shadow(list(self.booked))

    def find(self, key: str) -> Booked | None:
        """The booking under ``key``."""
        return next((item for item in self.booked if item.command.key == key), None)

    def done(self) -> Iterator[Booked]:
        """Bookings that were not refused, oldest first."""
        return (item for item in self.booked if item.code is None)

    def legs(self, booked: Booked) -> tuple[Leg, ...]:
        """What a booking moved; empty unless it was carried out and moved money."""
        command = booked.command
        if booked.code is not None:
            return ()
        if isinstance(command, Transfer):
            return command.legs
        if isinstance(command, Capture):
            source = self.hold(command.hold_id)
            assert source is not None
            return ((source.account, -sum(money for _, money in command.credits)), *command.credits)
        return ()

    def postings(self) -> list[Posted]:
        """Every leg ever booked, with the running balance of its account."""
        found: list[Posted] = []
        for booked in self.done():
            for account, amount in self.legs(booked):
                own = [item for item in found if item.account == account]
                assert booked.transfer_id is not None
                found.append(
                    Posted(
                        account,
                        len(own) + 1,
                        booked.transfer_id,
                        amount,
                        sum(item.amount for item in own) + amount,
                        booked.at,
                    )
                )
        return found

    def posted(self, account: AccountRef, *, until: datetime | None = None) -> int:
        """The balance: the sum of all legs (booked ``until`` then)."""
        return sum(
            amount
            for booked in self.done()
            if until is None or booked.at <= until
            for leg, amount in self.legs(booked)
            if leg == account
        )

    def holds(self) -> list[KnownHold]:
        """Every hold ever made, re-holds included, oldest first."""
        known: list[KnownHold] = []
        for booked in self.done():
            command = booked.command
            if isinstance(command, Hold):
                known.append(
                    KnownHold(
                        command.hold_id,
                        command.account,
                        command.amount,
                        command.expires_at,
                        command.memo_id,
                        *self._end_of(command.hold_id),
                    )
                )
            elif isinstance(command, Capture) and command.rehold_id is not None:
                (old,) = (item for item in known if item.id == command.hold_id)
                kept = old._replace(id=command.rehold_id, amount=command.rehold)
                outcome, captured = self._end_of(command.rehold_id)
                known.append(kept._replace(outcome=outcome, captured=captured))
        return known

    def hold(self, hold_id: UUID) -> KnownHold | None:
        """One hold by its id."""
        return next((item for item in self.holds() if item.id == hold_id), None)

    def held(self, account: AccountRef) -> int:
        """The sum of the open holds on ``account``."""
        return sum(h.amount for h in self.holds() if h.account == account and h.outcome is None)

    def free(self, account: AccountRef) -> int:
        """What can be spent or reserved."""
        return self.posted(account) - self.held(account)

    def _end_of(self, hold_id: UUID) -> tuple[str | None, int]:
        for booked in self.done():
            command = booked.command
            if isinstance(command, Capture) and command.hold_id == hold_id:
                return "captured", sum(amount for _, amount in command.credits)
            if isinstance(command, Void) and command.hold_id == hold_id:
                return "voided", 0
            if isinstance(command, Expire) and command.hold_id == hold_id:
                return "expired", 0
        return None, 0

    def expect(self, command: Command, at: datetime) -> Expectation:
        """What the answer to ``command`` at market time ``at`` must be."""
        earlier = self.find(command.key)
        if earlier is not None:
            if earlier.command == command:
                return Expectation(frozenset(), earlier=earlier)
            return Expectation(KEY_REUSED)
        if isinstance(command, Transfer):
            reasons = self._against_reversal(command) | self._against_legs(command.legs)
            return Expectation(frozenset(reasons), moves_money=True)
        if isinstance(command, Hold):
            return Expectation(frozenset(self._against_hold(command, at)), hold_id=command.hold_id)
        if isinstance(command, Capture):
            reasons = self._against_capture(command, at)
            return Expectation(frozenset(reasons), moves_money=True, hold_id=command.rehold_id)
        reasons = self._against_end(command.hold_id)
        hold = self.hold(command.hold_id)
        if isinstance(command, Expire) and hold is not None and hold.expires_at > at:
            reasons.add("hold_not_expired")
        return Expectation(frozenset(reasons))

    def refuse_linked(
        self, members: Sequence[Command], at: datetime
    ) -> list[frozenset[str] | None]:
        """For which reasons each new member of a group is refused; None: as if it were alone."""
        known = [self.find(member.key) is not None for member in members]
        if all(known):
            return [None for _ in members]
        reasons: list[frozenset[str] | None] = [None if old else LINKED for old in known]
        if any(known):
            return reasons
        future = self.fork()
        for number, member in enumerate(members):
            expected = future.expect(member, at)
            if expected.reasons:
                reasons[number] = expected.reasons
                return reasons
            future.book(member, at, None, uuid4() if expected.moves_money else None)
        return [None for _ in members]

    def book(self, command: Command, at: datetime, code: str | None, name: UUID | None) -> None:
        """Add what the ledger booked."""
        self.booked.append(Booked(command, at, code, name))

    def _against_legs(self, legs: tuple[Leg, ...]) -> set[str]:
        reasons = set()
        for account, amount in legs:
            after = self.posted(account) + amount
            if abs(after) > LIMIT:
                reasons.add("balance_limit")
            if amount < 0 and account.kind not in UNPROTECTED and after - self.held(account) < 0:
                reasons.add("insufficient_funds")
        return reasons

    def _against_reversal(self, command: Transfer) -> set[str]:
        if command.reverses is None:
            return set()
        taken_back = [b for b in self.done() if b.transfer_id == command.reverses]
        if not taken_back:
            return {"transfer_not_found"}
        reasons = set()
        original = taken_back[0].command
        if isinstance(original, Transfer) and original.reverses is not None:
            reasons.add("reversal_of_reversal")
        if any(
            isinstance(b.command, Transfer) and b.command.reverses == command.reverses
            for b in self.done()
        ):
            reasons.add("already_reversed")
        if {(a, -amount) for a, amount in command.legs} != set(self.legs(taken_back[0])):
            reasons.add("reversal_mismatch")
        return reasons

    def _against_hold(self, command: Hold, at: datetime) -> set[str]:
        reasons = set()
        if self.hold(command.hold_id) is not None:
            reasons.add("hold_exists")
        if command.expires_at <= at:
            reasons.add("hold_expired")
        protected = command.account.kind not in UNPROTECTED
        if protected and self.free(command.account) < command.amount:
            reasons.add("insufficient_funds")
        if self.held(command.account) + command.amount > LIMIT:
            reasons.add("balance_limit")
        return reasons

    def _against_end(self, hold_id: UUID) -> set[str]:
        hold = self.hold(hold_id)
        if hold is None:
            return {"hold_not_found"}
        return set() if hold.outcome is None else {"hold_resolved"}

    def _against_capture(self, command: Capture, at: datetime) -> set[str]:
        reasons = self._against_end(command.hold_id)
        hold = self.hold(command.hold_id)
        if hold is None:
            return reasons
        if hold.expires_at <= at:
            reasons.add("hold_expired")
        paid = sum(amount for _, amount in command.credits)
        if paid + command.rehold > hold.amount:
            reasons.add("capture_exceeds_hold")
        if {account.currency for account, _ in command.credits} != {hold.account.currency}:
            reasons.add("currency_mismatch")
        if hold.account in [account for account, _ in command.credits]:
            reasons.add("capture_to_itself")
        if command.rehold_id is not None and self.hold(command.rehold_id) is not None:
            reasons.add("hold_exists")
        return reasons | self._against_legs(command.credits)

    def tables(self) -> Tables:
        """Every row that the database must have, and no other."""
        postings, holds = self.postings(), self.holds()
        accounts = {item.account for item in postings} | {hold.account for hold in holds}
        return Tables(
            accounts={
                account.id: (
                    sum(item.amount for item in postings if item.account == account),
                    sum(h.amount for h in holds if h.account == account and h.outcome is None),
                    sum(1 for item in postings if item.account == account),
                )
                for account in accounts
            },
            postings={
                (p.account.id, p.seq, p.transfer_id, p.account.currency, p.amount, p.balance)
                for p in postings
            },
            transfers={
                booked.transfer_id: _transfer_row(booked)
                for booked in self.done()
                if booked.transfer_id is not None
            },
            holds={h.id: (h.account.id, h.amount, h.expires_at, h.memo_id) for h in holds},
            resolutions={h.id: (h.outcome, h.captured) for h in holds if h.outcome is not None},
            commands={booked.command.key: _command_row(booked) for booked in self.booked},
        )


def _transfer_row(
    booked: Booked,
) -> tuple[str, UUID | None, UUID | None, datetime, datetime]:
    command = booked.command
    assert isinstance(command, Transfer | Capture)
    reverses = command.reverses if isinstance(command, Transfer) else None
    return command.kind, command.memo_id, reverses, command.event_at or booked.at, booked.at


def _command_row(
    booked: Booked,
) -> tuple[str, str | None, UUID | None, UUID | None, UUID | None]:
    command = booked.command
    made: UUID | None = None
    ended: UUID | None = None
    if booked.code is None:
        if isinstance(command, Hold):
            made = command.hold_id
        elif isinstance(command, Capture):
            made, ended = command.rehold_id, command.hold_id
        elif isinstance(command, Void | Expire):
            ended = command.hold_id
    return type(command).__name__.lower(), booked.code, booked.transfer_id, made, ended
