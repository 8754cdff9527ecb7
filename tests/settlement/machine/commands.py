"""Random commands, drawn with an eye on the state: amounts lie at, just below and just above
what an account has free, and names are often those of holds, transfers and keys that exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID

from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Capture, Command, Expire, Hold, Leg, Linked, Transfer, Void
from tests.settlement.machine.dice import Dice
from tests.settlement.shadow import UNPROTECTED, KnownHold, Shadow

CURRENCIES = ("CNY", "USD")
PARTIES = tuple(UUID(int=n) for n in range(1, 5))
AGREEMENTS = tuple(UUID(int=n) for n in range(11, 14))
DISPUTES = tuple(UUID(int=n) for n in range(21, 24))
NOBODY = UUID(int=99)
AMOUNT_MAX = 500
Kind = Callable[[Dice, Shadow, "Names", datetime], Command]
HOURS = (-1, 1, 1, 2, 5, 24, 24, 24)


def accounts(currency: str) -> tuple[AccountRef, ...]:
    """All that the machine uses in a currency; parties' come first, and twice as often."""
    parties = [AccountRef(AccountKind.AVAILABLE, party, currency) for party in PARTIES]
    return (
        *parties,
        *parties,
        AccountRef(AccountKind.RECEIVABLE, PARTIES[0], currency),
        *(AccountRef(AccountKind.ESCROW, owner, currency) for owner in AGREEMENTS[:1]),
        *(
            AccountRef(kind, None, currency)
            for kind in (
                AccountKind.FEES,
                AccountKind.LOSSES,
                AccountKind.CLEARING,
                AccountKind.IN_TRANSIT,
                AccountKind.FX,
            )
        ),
    )


class Names:
    """Keys and ids that were never used in this example, the same ones at every replay."""

    def __init__(self) -> None:
        self._next = count(1)

    def key(self) -> str:
        """A new command key."""
        return f"machine:{next(self._next)}"

    def id(self) -> UUID:
        """A new id."""
        return UUID(int=1_000 + next(self._next))


def near_free(dice: Dice, shadow: Shadow, account: AccountRef) -> int:
    """An amount to take from ``account``; one unit too much now and then."""
    free = shadow.free(account)
    if account.kind in UNPROTECTED or free < 1:
        return dice.number(1, AMOUNT_MAX)
    return dice.one((dice.number(1, free), free, free + 1))


def split_up(dice: Dice, amount: int, parts: int) -> list[int]:
    """``amount`` in at most ``parts`` positive pieces."""
    cuts = sorted({dice.number(1, amount) for _ in range(parts - 1)} - {amount})
    return [high - low for low, high in zip([0, *cuts], [*cuts, amount], strict=True)]


def group(dice: Dice, shadow: Shadow, currency: str, taken: set[AccountRef]) -> list[Leg]:
    """One account pays one to three others; none of them is in ``taken``."""
    free = [account for account in accounts(currency) if account not in taken]
    source = dice.one(free)
    targets = dice.some([account for account in free if account != source], 3)
    pieces = split_up(dice, near_free(dice, shadow, source), len(targets))
    legs = [(source, -sum(pieces)), *zip(targets, pieces, strict=False)]
    taken.update(account for account, _ in legs)
    return legs


def transfers(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Transfer:
    """One or two groups of legs, sometimes in two currencies, sometimes backdated."""
    taken: set[AccountRef] = set()
    currencies = [dice.one(CURRENCIES) for _ in range(dice.number(1, 2))]
    legs = [leg for currency in currencies for leg in group(dice, shadow, currency, taken)]
    days = dice.one((None, None, None, -30, -1, 2))
    return Transfer(
        names.key(),
        dice.one(("trade", "top_up", "fx")),
        tuple(dice.shuffled(legs)),
        memo_id=dice.one((None, *AGREEMENTS)),
        event_at=None if days is None else now + timedelta(days=days),
    )


def new_holds(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Hold:
    """A hold, sometimes with the id of another or with its end in the past."""
    account = dice.one(accounts(dice.one(CURRENCIES)))
    known = [hold.id for hold in shadow.holds()]
    return Hold(
        names.key(),
        dice.one(known) if known and dice.rarely(10) else names.id(),
        account,
        near_free(dice, shadow, account),
        now + timedelta(hours=dice.one(HOURS)),
        memo_id=dice.one((None, *AGREEMENTS)),
    )


def _some_hold(dice: Dice, shadow: Shadow, now: datetime) -> KnownHold | None:
    known = shadow.holds()
    still_open = [hold for hold in known if hold.outcome is None]
    over = [hold for hold in still_open if hold.expires_at <= now]
    if over and dice.rarely(3):
        return dice.one(over)
    if still_open and not dice.rarely(5):
        return dice.one(still_open)
    return dice.one((None, *known))


def captures(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Capture:
    """All or part of a hold, some of it re-held; a unit too much now and then."""
    hold = _some_hold(dice, shadow, now)
    amount = 10 if hold is None else hold.amount
    kept = dice.one((0, 0, amount // 2, amount - 1, amount))
    paid = max(1, dice.one((amount - kept, amount - kept, amount - kept + 1, 1, amount)))
    currency = "CNY" if hold is None else hold.account.currency
    if dice.rarely(16):
        currency = "USD" if currency == "CNY" else "CNY"
    targets = dice.some(accounts(currency), 3)
    if hold is not None and not dice.rarely(16):
        targets = [account for account in targets if account != hold.account]
    if not targets:
        targets = [AccountRef(AccountKind.FEES, None, currency)]
    known = [item.id for item in shadow.holds()]
    kept_id = dice.one(known) if known and dice.rarely(10) else names.id()
    return Capture(
        names.key(),
        NOBODY if hold is None else hold.id,
        "capture",
        tuple(zip(targets, split_up(dice, paid, len(targets)), strict=False)),
        rehold=kept,
        rehold_id=kept_id if kept else None,
        memo_id=dice.one((None, *AGREEMENTS)),
        event_at=dice.one((None, None, now - timedelta(days=3))),
    )


def endings(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Void | Expire:
    """A hold is given up, or its time is said to be over."""
    hold = _some_hold(dice, shadow, now)
    name = NOBODY if hold is None else hold.id
    return Void(names.key(), name) if dice.rarely(2) else Expire(names.key(), name)


def reversals(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Transfer:
    """A transfer, a capture or (refused) a reversal is taken back, rightly or not quite."""
    past = [booked for booked in shadow.done() if booked.transfer_id is not None]
    if not past:
        return transfers(dice, shadow, names, now)
    # Often one that was reversed before, or is a reversal: a random one seldom is.
    again = [b for b in past if isinstance(b.command, Transfer) and b.command.reverses]
    booked = dice.one(past)
    if again and dice.rarely(3):
        booked = dice.one(again)
        twice = [b for b in past if b.transfer_id == booked.command.reverses]  # type: ignore[union-attr]
        booked = dice.one((booked, *twice, *twice))
    factor = dice.one((-1, -1, -1, -1, 1, -2))
    legs = [(account, factor * amount) for account, amount in shadow.legs(booked)]
    return Transfer(
        names.key(),
        "reversal",
        tuple(dice.shuffled(legs)),
        reverses=NOBODY if dice.rarely(20) else booked.transfer_id,
    )


def replays(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Command:
    """A key that was used before, for the same command or for another one."""
    if not shadow.booked:
        return transfers(dice, shadow, names, now)
    booked = dice.one(shadow.booked)
    if dice.rarely(2):
        return booked.command
    return replace(fresh(dice, shadow, names, now), key=booked.command.key)


def fresh(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Command:
    """Any command under a new key."""
    kinds: tuple[Kind, ...] = (transfers, new_holds, captures, endings, reversals)
    return dice.one(kinds)(dice, shadow, names, now)


def anything(dice: Dice, shadow: Shadow, names: Names, now: datetime) -> Command:
    """Any command, under a new or an old key."""
    kind = replays if dice.rarely(5) else fresh
    return kind(dice, shadow, names, now)


def in_turn(dice: Dice, shadow: Shadow, names: Names, now: datetime, size: int) -> list[Command]:
    """Commands of which each is made with an eye on what those before it will do."""
    future = shadow.fork()
    listed: list[Command] = []
    for _ in range(size):
        command = anything(dice, future, names, now)
        if listed and dice.rarely(3):
            # The same once more under another key: a second reversal, capture, hold of one id.
            again = [c for c in listed if isinstance(c, Transfer) and c.reverses]
            command = replace(dice.one(again or listed), key=names.key())
        listed.append(command)
        expected = future.expect(command, now)
        if not expected.reasons and expected.earlier is None:
            # A name for the transfer that nobody will use: the real one is not known yet.
            future.book(command, now, None, names.id() if expected.moves_money else None)
    return listed


def grouped(listed: list[Command]) -> Linked | None:
    """Those with different keys as one group, if they are two at least."""
    different = {command.key: command for command in listed}
    return Linked(tuple(different.values())) if len(different) > 1 else None
