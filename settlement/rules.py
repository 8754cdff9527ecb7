"""The ledger's decisions, without I/O.

Given the states that commands touch, :func:`decide` says for each command in order what is
posted, held or resolved, or why it is refused. A refused command changes nothing; the ones after
it see the state as if it had never been there. Everything is exact integer arithmetic.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar, cast
from uuid import UUID

from settlement.accounts import AccountRef
from settlement.chain import Entry, HoldRow, PostingRow, ResolutionRow, TransferRow
from settlement.commands import (
    Applied,
    Capture,
    Command,
    Expire,
    Hold,
    Linked,
    Refused,
    Result,
    Transfer,
    Void,
    body_hash,
)

# Below 2**62, which the API promises for balances, and far below bigint.
BALANCE_MAX = 4 * 10**18
_T = TypeVar("_T")
# Makes a NamedTuple without the detour through its own ``__new__``, at a third of the price.
_tuple = tuple.__new__


@dataclass(slots=True)
class AccountState:
    """An account under lock. ``held`` is the sum of its open holds."""

    ref: AccountRef
    posted: int = 0
    held: int = 0
    seq: int = 0

    def copy(self) -> AccountState:
        return AccountState(self.ref, self.posted, self.held, self.seq)


class HoldState(NamedTuple):
    """A known hold; ``resolved`` once captured, voided or expired by the sweeper."""

    account: AccountRef
    amount: int
    expires_at: datetime
    memo_id: UUID | None
    resolved: bool


class PastTransfer(NamedTuple):
    """A booked transfer, as far as a reversal must know it."""

    legs: Mapping[UUID, int]
    is_reversal: bool
    reversed: bool


class Memory(NamedTuple):
    """What a key was used for and what came of it."""

    body_hash: bytes
    result: Result


@dataclass(slots=True)
class Books:
    """All state that a list of commands may touch. ``decide`` never changes it."""

    accounts: Mapping[UUID, AccountState]
    holds: Mapping[UUID, HoldState] = field(default_factory=dict)
    transfers: Mapping[UUID, PastTransfer] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)


@dataclass(slots=True)
class Decision:
    """``results`` in command order; ``entries`` what to write; ``accounts`` the new states."""

    results: list[Result]
    entries: list[Entry]
    accounts: dict[UUID, AccountState]


class _Refusal(Exception):
    """Ends one command; never leaves this module."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def decide(
    books: Books, commands: Sequence[Command | Linked], *, now: datetime, new_id: Callable[[], UUID]
) -> Decision:
    """Decide ``commands`` in order against ``books`` at market time ``now``.

    Each member of a group has a result of its own, in order. ``new_id`` names the transfers.
    Raises KeyError when ``books`` lacks an account that a command touches: the caller did not
    lock it.
    """
    desk = _Desk(books, now, new_id)
    results: list[Result] = []
    for command in commands:
        if isinstance(command, Linked):
            results += desk.decide_linked(command)
        else:
            results.append(desk.decide(command))
    return Decision(results, desk.entries, desk.accounts)


class _Desk:
    """Working copies of one run: only accounts and holds that change are copied."""

    def __init__(self, books: Books, now: datetime, new_id: Callable[[], UUID]) -> None:
        self._books = books
        self._now = now
        self._new_id = new_id
        self.accounts: dict[UUID, AccountState] = {}
        self._holds: dict[UUID, HoldState] = {}
        self._reversed: set[UUID] = set()
        self._memory: dict[str, Memory] = {}
        self.entries: list[Entry] = []

    def decide(self, command: Command) -> Result:
        digest = body_hash(command)
        known = self._memory.get(command.key) or self._books.memory.get(command.key)
        if known is not None:
            return _replay(command.key, known, digest)
        try:
            entry, result = self._apply(command, digest)
        except _Refusal as refusal:
            result = Refused(command.key, refusal.code, refusal.detail)
            entry = Entry(
                command.key,
                digest,
                type(command).__name__.lower(),
                code=refusal.code,
                detail=refusal.detail,
            )
        self.entries.append(entry)
        self._memory[command.key] = _tuple(Memory, (digest, result))
        return result

    def decide_linked(self, group: Linked) -> list[Result]:
        """All of a group or none: tried on copies, which are taken over if nothing is refused."""
        members = group.commands
        known = [m.key for m in members if m.key in self._memory or m.key in self._books.memory]
        if len(known) == len(members):
            return [self.decide(member) for member in members]
        culprit, refusal = known[0] if known else "", None
        if not known:
            trial = self._trial()
            results: list[Result] = []
            for member in members:
                results.append(trial.decide(member))
                if isinstance(results[-1], Refused):
                    culprit, refusal = member.key, results[-1]
                    break
            else:
                self._take_over(trial)
                return results
        return [self._refuse_linked(member, culprit, refusal) for member in members]

    def _trial(self) -> _Desk:
        # Chained, not copied: a group costs its own size, however large the batch around it.
        books = self._books
        trial = _Desk(
            Books(
                ChainMap(_base(self.accounts), _base(books.accounts)),
                ChainMap(_base(self._holds), _base(books.holds)),
                books.transfers,
                books.memory,
            ),
            self._now,
            self._new_id,
        )
        trial._reversed = set(self._reversed)
        return trial

    def _take_over(self, trial: _Desk) -> None:
        self.accounts.update(trial.accounts)
        self._holds.update(trial._holds)
        self._reversed = trial._reversed
        self._memory.update(trial._memory)
        self.entries += trial.entries

    def _refuse_linked(self, command: Command, culprit: str, refusal: Refused | None) -> Result:
        digest = body_hash(command)
        known = self._memory.get(command.key) or self._books.memory.get(command.key)
        if known is not None:
            return _replay(command.key, known, digest)
        code, detail = "linked_refused", f"Refused together with {culprit}, which is not new."
        if refusal is not None and command.key == culprit:
            code, detail = refusal.code, refusal.detail
        elif refusal is not None:
            detail = f"Refused together with {culprit}: {refusal.code}."
        result = Refused(command.key, code, detail)
        kind = type(command).__name__.lower()
        self.entries.append(Entry(command.key, digest, kind, code=code, detail=detail))
        self._memory[command.key] = Memory(digest, result)
        return result

    def _apply(self, command: Command, digest: bytes) -> tuple[Entry, Result]:
        if isinstance(command, Transfer):
            return self._transfer(command, digest)
        if isinstance(command, Hold):
            return self._hold(command, digest)
        if isinstance(command, Capture):
            return self._capture(command, digest)
        return self._free(command, digest)

    def _transfer(self, command: Transfer, digest: bytes) -> tuple[Entry, Result]:
        if command.reverses is not None:
            self._check_reversal(command, command.reverses)
        row = self._book(command, command.legs)
        if command.reverses is not None:
            self._reversed.add(command.reverses)
        entry = (command.key, digest, "transfer", row, None, None, None, None)
        return _tuple(Entry, entry), Applied(command.key, row.id)

    def _hold(self, command: Hold, digest: bytes) -> tuple[Entry, Result]:
        if self._known_hold(command.hold_id) is not None:
            raise _Refusal("hold_exists", "The hold id is taken.")
        if command.expires_at <= self._now:
            raise _Refusal("hold_expired", "The hold would have expired before it began.")
        account = self._state(command.account.id)
        held = account.held + command.amount
        if not command.account.allow_negative and account.posted < held:
            raise _short(command.account, command.amount)
        if held > BALANCE_MAX:
            raise _Refusal("balance_limit", "The account holds more than the ledger can count.")
        self._change(command.account.id).held = held
        row = HoldRow(
            command.hold_id,
            command.account.id,
            command.amount,
            command.expires_at,
            command.memo_id,
        )
        self._holds[row.id] = HoldState(
            command.account, command.amount, command.expires_at, command.memo_id, resolved=False
        )
        return Entry(command.key, digest, "hold", hold=row), Applied(command.key, hold_id=row.id)

    def _capture(self, command: Capture, digest: bytes) -> tuple[Entry, Result]:
        hold = self._open_hold(command.hold_id)
        if hold.expires_at <= self._now:
            raise _Refusal("hold_expired", "The hold has expired.")
        paid = sum(amount for _, amount in command.credits)
        if paid + command.rehold > hold.amount:
            raise _Refusal("capture_exceeds_hold", "The capture is larger than the hold.")
        if any(account.currency != hold.account.currency for account, _ in command.credits):
            raise _Refusal("currency_mismatch", "The hold is in another currency.")
        if any(account.id == hold.account.id for account, _ in command.credits):
            raise _Refusal("capture_to_itself", "A hold cannot be paid to its own account.")
        if command.rehold_id is not None and self._known_hold(command.rehold_id) is not None:
            raise _Refusal("hold_exists", "The new hold's id is taken.")
        freed = hold.amount - command.rehold
        legs = ((hold.account, -paid), *command.credits)
        row = self._book(command, legs, freed=(hold.account.id, freed))
        self._holds[command.hold_id] = hold._replace(resolved=True)
        kept = None
        if command.rehold_id is not None:
            kept = HoldRow(
                command.rehold_id, hold.account.id, command.rehold, hold.expires_at, hold.memo_id
            )
            self._holds[kept.id] = hold._replace(amount=command.rehold)
        entry = Entry(
            command.key,
            digest,
            "capture",
            transfer=row,
            hold=kept,
            resolution=ResolutionRow(command.hold_id, "captured", paid),
        )
        return entry, Applied(command.key, transfer_id=row.id, hold_id=command.rehold_id)

    def _free(self, command: Void | Expire, digest: bytes) -> tuple[Entry, Result]:
        hold = self._open_hold(command.hold_id)
        expires = isinstance(command, Expire)
        if expires and hold.expires_at > self._now:
            raise _Refusal("hold_not_expired", "The hold has not expired yet.")
        self._change(hold.account.id).held -= hold.amount
        self._holds[command.hold_id] = hold._replace(resolved=True)
        outcome = "expired" if expires else "voided"
        entry = Entry(
            command.key,
            digest,
            "expire" if expires else "void",
            resolution=ResolutionRow(command.hold_id, outcome, 0),
        )
        return entry, Applied(command.key)

    def _book(
        self,
        command: Transfer | Capture,
        legs: Sequence[tuple[AccountRef, int]],
        *,
        freed: tuple[UUID, int] | None = None,
    ) -> TransferRow:
        """Check all legs, then apply all of them: no half-done transfer on refusal."""
        # The hottest loop of the ledger: each state is looked up once.
        changed, books = self.accounts, self._books.accounts
        found = []
        for ref, amount in legs:
            account, known = changed.get(ref.id), True
            if account is None:
                account, known = books[ref.id], False
            found.append((ref, amount, account, known))
            posted = account.posted + amount
            if not -BALANCE_MAX <= posted <= BALANCE_MAX:
                raise _Refusal("balance_limit", "The account holds more than the ledger can count.")
            held = account.held
            if freed is not None and freed[0] == ref.id:
                held -= freed[1]
            if amount < 0 and posted < held and not ref.allow_negative:
                raise _short(ref, -amount)
        if freed is not None:
            self._change(freed[0]).held -= freed[1]
        postings = []
        for ref, amount, account, known in found:
            if not known:
                # What was freed above has changed a copy already.
                account = account.copy() if freed is None else self._change(ref.id)
                changed[ref.id] = account
            account.posted += amount
            account.seq += 1
            leg = (ref.id, account.seq, amount, ref.currency, account.posted)
            postings.append(_tuple(PostingRow, leg))
        row = (
            self._new_id(),
            command.kind,
            command.memo_id,
            command.event_at or self._now,
            command.reverses if isinstance(command, Transfer) else None,
            tuple(postings),
        )
        return _tuple(TransferRow, row)

    def _check_reversal(self, command: Transfer, reverses: UUID) -> None:
        past = self._books.transfers.get(reverses)
        if past is None:
            raise _Refusal("transfer_not_found", "There is no such transfer to reverse.")
        if past.is_reversal:
            raise _Refusal("reversal_of_reversal", "A reversal cannot be reversed.")
        if past.reversed or reverses in self._reversed:
            raise _Refusal("already_reversed", "The transfer has been reversed already.")
        if {account.id: -amount for account, amount in command.legs} != dict(past.legs):
            raise _Refusal("reversal_mismatch", "A reversal takes back every leg completely.")

    def _state(self, identity: UUID) -> AccountState:
        return self.accounts.get(identity) or self._books.accounts[identity]

    def _change(self, identity: UUID) -> AccountState:
        account = self.accounts.get(identity)
        if account is None:
            account = self.accounts[identity] = self._books.accounts[identity].copy()
        return account

    def _known_hold(self, hold_id: UUID) -> HoldState | None:
        return self._holds.get(hold_id) or self._books.holds.get(hold_id)

    def _open_hold(self, hold_id: UUID) -> HoldState:
        hold = self._known_hold(hold_id)
        if hold is None:
            raise _Refusal("hold_not_found", "There is no such hold.")
        if hold.resolved:
            raise _Refusal("hold_resolved", "The hold was captured, voided or expired before.")
        return hold


def _base(states: Mapping[UUID, _T]) -> MutableMapping[UUID, _T]:
    # ChainMap writes only to its first map, and nobody writes to a desk's books.
    return cast("MutableMapping[UUID, _T]", states)


def _short(account: AccountRef, needed: int) -> _Refusal:
    # The balance itself stays out of the text: a refusal may reach the other side of a deal.
    return _Refusal(
        "insufficient_funds",
        f"The {account.kind} balance does not cover {needed} minor units of {account.currency}.",
    )


def _replay(key: str, known: Memory, digest: bytes) -> Result:
    if known.body_hash != digest:
        return Refused(key, "idempotency_key_reused", "The key was used for another command.")
    result = known.result
    if isinstance(result, Applied):
        return Applied(key, result.transfer_id, result.hold_id, replayed=True)
    return Refused(key, result.code, result.detail, replayed=True)
