"""What the ledger can be told to do, and what it answers.

Amounts are integer minor units; positive credits the account (its balance grows). A command's
form is checked where it is made (ValueError: a bug of the caller); whether it can be carried out
is decided in :mod:`settlement.rules` (:class:`Refused`: an answer, remembered under its key).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import orjson

from market.kernel.money import MAX_MINOR
from settlement.accounts import AccountRef

KEY_MAX_CHARS = 200
LEGS_MAX = 64
LINKED_MAX = 64
_KEY = re.compile(r"[!-~]{1,200}")
_KIND = re.compile(r"[a-z][a-z0-9_.]{0,39}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Leg: TypeAlias = tuple[AccountRef, int]


def micros(moment: datetime | None) -> int | None:
    """Whole microseconds since 1970 UTC: Postgres keeps no more, and floats would lose some."""
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def canonical_bytes(value: object) -> bytes:
    """JSON without spaces. UUIDs are text; asyncpg's own subclass reads like the standard one."""
    return orjson.dumps(value, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"not canonical: {type(value).__name__}")


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"a ledger key is 1 to {KEY_MAX_CHARS} printable ASCII characters")


def _check_kind(kind: str) -> None:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"not a transfer kind: {kind!r}")


def _check_amount(amount: int, *, name: str) -> None:
    # bool is an int too, and True would be one cent.
    if type(amount) is not int or not 0 < amount <= MAX_MINOR:
        raise ValueError(f"{name} must be 1 to {MAX_MINOR} minor units, not {amount!r}")


def _check_moment(moment: datetime | None, *, name: str) -> None:
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"{name} needs a time zone")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move money: 2 to 64 legs on different accounts, zero-sum in every currency.

    ``memo_id`` is the business object behind it. ``event_at`` backdates it for reporting, the
    booking order stays. ``reverses`` names the transfer that this one takes back completely.
    """

    key: str
    kind: str
    legs: tuple[Leg, ...]
    memo_id: UUID | None = None
    event_at: datetime | None = None
    reverses: UUID | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_kind(self.kind)
        _check_moment(self.event_at, name="event_at")
        if not 2 <= len(self.legs) <= LEGS_MAX:
            raise ValueError(f"a transfer has 2 to {LEGS_MAX} legs, not {len(self.legs)}")
        sums: dict[str, int] = {}
        accounts = set()
        for account, amount in self.legs:
            if type(amount) is not int or not 0 < abs(amount) <= MAX_MINOR:
                raise ValueError(f"a leg moves 1 to {MAX_MINOR} minor units, not {amount!r}")
            accounts.add(account.id)
            sums[account.currency] = sums.get(account.currency, 0) + amount
        if len(accounts) != len(self.legs):
            raise ValueError("a transfer touches each account once; add the amounts up first")
        if any(sums.values()):
            raise ValueError(f"a transfer must sum to zero in every currency, not {sums}")


@dataclass(frozen=True, slots=True)
class Hold:
    """Reserve ``amount`` on an account until captured, voided or expired at ``expires_at``."""

    key: str
    hold_id: UUID
    account: AccountRef
    amount: int
    expires_at: datetime
    memo_id: UUID | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_amount(self.amount, name="amount")
        _check_moment(self.expires_at, name="expires_at")


@dataclass(frozen=True, slots=True)
class Capture:
    """Resolve a hold: pay ``credits`` from it, keep ``rehold`` reserved under ``rehold_id``.

    What is neither paid nor re-held becomes free. The new hold keeps expiry and memo. Refused
    once the hold has expired, also before the sweeper has run.
    """

    key: str
    hold_id: UUID
    kind: str
    credits: tuple[Leg, ...]
    rehold: int = 0
    rehold_id: UUID | None = None
    memo_id: UUID | None = None
    event_at: datetime | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_kind(self.kind)
        _check_moment(self.event_at, name="event_at")
        if not 1 <= len(self.credits) < LEGS_MAX:
            raise ValueError(f"a capture has 1 to {LEGS_MAX - 1} credits, not {len(self.credits)}")
        for _, amount in self.credits:
            _check_amount(amount, name="credit")
        if len({account.id for account, _ in self.credits}) != len(self.credits):
            raise ValueError("a capture credits each account once; add the amounts up first")
        if self.rehold:
            _check_amount(self.rehold, name="rehold")
        if (self.rehold > 0) != (self.rehold_id is not None):
            raise ValueError("rehold and rehold_id come together")


@dataclass(frozen=True, slots=True)
class Void:
    """Resolve a hold by freeing all of it."""

    key: str
    hold_id: UUID

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True, slots=True)
class Expire:
    """Resolve a hold whose time has passed (the sweeper's command); refused before."""

    key: str
    hold_id: UUID

    def __post_init__(self) -> None:
        _check_key(self.key)


Command: TypeAlias = Transfer | Hold | Capture | Void | Expire


@dataclass(frozen=True, slots=True)
class Linked:
    """2 to 64 commands of which all are carried out, in order, or none.

    When one is refused, each member is: the culprit with its own reason, the others with
    ``linked_refused`` naming it. Every key must be new, or the whole group a repetition.
    """

    commands: tuple[Command, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.commands) <= LINKED_MAX:
            raise ValueError(f"a group has 2 to {LINKED_MAX} commands, not {len(self.commands)}")
        if len({command.key for command in self.commands}) != len(self.commands):
            raise ValueError("the commands of a group have different keys")


def single(commands: Sequence[Command | Linked]) -> list[Command]:
    """All commands in order, those of groups one by one."""
    flat: list[Command] = []
    for command in commands:
        flat += command.commands if isinstance(command, Linked) else (command,)
    return flat


# Not frozen: one is made per command, and a frozen one costs five times as much to make.
@dataclass(slots=True, unsafe_hash=True)
class Applied:
    """Done. ``transfer_id`` if money moved, ``hold_id`` if some is (or stays) reserved.

    ``replayed`` tells that an earlier use of the key did it; it does not count in equality.
    """

    key: str
    transfer_id: UUID | None = None
    hold_id: UUID | None = None
    replayed: bool = field(default=False, compare=False)


@dataclass(slots=True, unsafe_hash=True)
class Refused:
    """Not done, nothing changed; the same key gets this same answer for ever."""

    key: str
    code: str
    detail: str
    replayed: bool = field(default=False, compare=False)


Result: TypeAlias = Applied | Refused


def touched(command: Command) -> tuple[AccountRef, ...]:
    """The accounts that a command names itself (a hold's own account is known from the hold)."""
    if isinstance(command, Transfer):
        return tuple(account for account, _ in command.legs)
    if isinstance(command, Hold):
        return (command.account,)
    if isinstance(command, Capture):
        return tuple(account for account, _ in command.credits)
    return ()


def body_hash(command: Command) -> bytes:
    """SHA-256 of everything but the key: two commands under one key must agree on it."""
    body: list[object]
    if isinstance(command, Transfer):
        body = [
            "transfer",
            command.kind,
            [[account.id, amount] for account, amount in command.legs],
            command.memo_id,
            micros(command.event_at),
            command.reverses,
        ]
    elif isinstance(command, Hold):
        body = [
            "hold",
            command.hold_id,
            command.account.id,
            command.amount,
            micros(command.expires_at),
            command.memo_id,
        ]
    elif isinstance(command, Capture):
        body = [
            "capture",
            command.hold_id,
            command.kind,
            [[account.id, amount] for account, amount in command.credits],
            command.rehold,
            command.rehold_id,
            command.memo_id,
            micros(command.event_at),
        ]
    else:
        body = [type(command).__name__.lower(), command.hold_id]
    return hashlib.sha256(canonical_bytes(body)).digest()
