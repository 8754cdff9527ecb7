"""Random commands, drawn with an eye on the state: amounts lie at, just below and just above
what an account has free, and names are often those of holds, transfers and keys that exist.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID

from hypothesis import strategies as st

from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Capture, Command, Expire, Hold, Leg, Transfer, Void
from tests.settlement.shadow import UNPROTECTED, KnownHold, Shadow

CURRENCIES = ("CNY", "USD")
PARTIES = tuple(UUID(int=n) for n in range(1, 5))
AGREEMENTS = tuple(UUID(int=n) for n in range(11, 14))
DISPUTES = tuple(UUID(int=n) for n in range(21, 24))
NOBODY = UUID(int=99)
AMOUNT_MAX = 500
HOURS = (-1, 1, 2, 5, 24, 24, 24)


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


def near_free(shadow: Shadow, account: AccountRef) -> st.SearchStrategy[int]:
    """Amounts to take from ``account``; one unit too much now and then."""
    free = shadow.free(account)
    if account.kind in UNPROTECTED or free < 1:
        return st.integers(1, AMOUNT_MAX)
    return st.one_of(st.integers(1, free), st.just(free), st.just(free + 1))


@st.composite
def split_up(draw: st.DrawFn, amount: int, parts: int) -> list[int]:
    """``amount`` in at most ``parts`` positive pieces."""
    parts = min(parts, amount)
    cuts = sorted(
        draw(st.sets(st.integers(1, amount - 1), min_size=parts - 1, max_size=parts - 1))
        if parts > 1
        else ()
    )
    return [high - low for low, high in zip([0, *cuts], [*cuts, amount], strict=True)]


@st.composite
def group(draw: st.DrawFn, shadow: Shadow, currency: str, taken: set[AccountRef]) -> list[Leg]:
    """One account pays one to three others; none of them is in ``taken``."""
    free = [account for account in dict.fromkeys(accounts(currency)) if account not in taken]
    source = draw(st.sampled_from([a for a in accounts(currency) if a in free]))
    others = [account for account in free if account != source]
    targets = draw(st.lists(st.sampled_from(others), min_size=1, max_size=3, unique=True))
    pieces = draw(split_up(draw(near_free(shadow, source)), len(targets)))
    legs = [(source, -sum(pieces)), *zip(targets, pieces, strict=False)]
    taken.update(account for account, _ in legs)
    return legs


@st.composite
def transfers(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Transfer:
    """One to three groups of legs, sometimes in two currencies, sometimes backdated."""
    taken: set[AccountRef] = set()
    currencies = draw(st.lists(st.sampled_from(CURRENCIES), min_size=1, max_size=2))
    legs = [leg for currency in currencies for leg in draw(group(shadow, currency, taken))]
    legs = draw(st.permutations(legs))
    days = draw(st.sampled_from((None, None, None, -30, -1, 2)))
    return Transfer(
        names.key(),
        draw(st.sampled_from(("trade", "top_up", "fx"))),
        tuple(legs),
        memo_id=draw(st.sampled_from((None, *AGREEMENTS))),
        event_at=None if days is None else now + timedelta(days=days),
    )


@st.composite
def new_holds(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Hold:
    """A hold, sometimes with the id of another or with its end in the past."""
    account = draw(st.sampled_from(accounts(draw(st.sampled_from(CURRENCIES)))))
    known = [hold.id for hold in shadow.holds()]
    reused = known and draw(st.integers(0, 9)) == 9
    return Hold(
        names.key(),
        draw(st.sampled_from(known)) if reused else names.id(),
        account,
        draw(near_free(shadow, account)),
        now + timedelta(hours=draw(st.sampled_from(HOURS))),
        memo_id=draw(st.sampled_from((None, *AGREEMENTS))),
    )


def _some_hold(draw: st.DrawFn, shadow: Shadow) -> KnownHold | None:
    known = shadow.holds()
    still_open = [hold for hold in known if hold.outcome is None]
    if still_open and draw(st.integers(0, 4)) < 4:
        return draw(st.sampled_from(still_open))
    return draw(st.sampled_from((None, *known)))


@st.composite
def captures(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Capture:
    """All or part of a hold, some of it re-held; a unit too much now and then."""
    hold = _some_hold(draw, shadow)
    amount = 10 if hold is None else hold.amount
    kept = draw(st.sampled_from((0, 0, amount // 2, amount - 1, amount)))
    paid = draw(st.sampled_from((amount - kept, amount - kept, amount - kept + 1, 1, amount)))
    currency = "CNY" if hold is None else hold.account.currency
    if draw(st.integers(0, 15)) == 15:
        currency = "USD" if currency == "CNY" else "CNY"
    targets = draw(
        st.lists(st.sampled_from(accounts(currency)), min_size=1, max_size=3, unique=True)
    )
    own = None if hold is None else hold.account
    if draw(st.integers(0, 15)) < 15:
        targets = [account for account in targets if account != own]
    if not targets:
        targets = [AccountRef(AccountKind.CLEARING, None, currency)]
    known = [item.id for item in shadow.holds()]
    reused = known and draw(st.integers(0, 9)) == 9
    pieces = draw(split_up(max(paid, 1), len(targets)))
    return Capture(
        names.key(),
        NOBODY if hold is None else hold.id,
        "capture",
        tuple(zip(targets, pieces, strict=False)),
        rehold=kept,
        rehold_id=(draw(st.sampled_from(known)) if reused else names.id()) if kept else None,
        memo_id=draw(st.sampled_from((None, *AGREEMENTS))),
        event_at=draw(st.sampled_from((None, None, now - timedelta(days=3)))),
    )


@st.composite
def endings(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Void | Expire:
    """A hold is given up, or its time is said to be over."""
    hold = _some_hold(draw, shadow)
    name = NOBODY if hold is None else hold.id
    return Void(names.key(), name) if draw(st.booleans()) else Expire(names.key(), name)


@st.composite
def reversals(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Transfer:
    """A transfer, a capture or (refused) a reversal is taken back, rightly or not quite."""
    past = [booked for booked in shadow.done() if booked.transfer_id is not None]
    if not past:
        return draw(transfers(shadow, names, now))
    booked = draw(st.sampled_from(past))
    factor = draw(st.sampled_from((-1, -1, -1, -1, 1, -2)))
    legs = [(account, factor * amount) for account, amount in shadow.legs(booked)]
    unknown = draw(st.integers(0, 19)) == 19
    return Transfer(
        names.key(),
        "reversal",
        tuple(draw(st.permutations(legs))),
        reverses=NOBODY if unknown else booked.transfer_id,
    )


@st.composite
def replays(draw: st.DrawFn, shadow: Shadow, names: Names, now: datetime) -> Command:
    """A key that was used before, for the same command or for another one."""
    if not shadow.booked:
        return draw(transfers(shadow, names, now))
    booked = draw(st.sampled_from(shadow.booked))
    if draw(st.booleans()):
        return booked.command
    other: Command = draw(fresh(shadow, names, now))
    return replace(other, key=booked.command.key)


def fresh(shadow: Shadow, names: Names, now: datetime) -> st.SearchStrategy[Command]:
    """Any command under a new key."""
    return st.one_of(
        transfers(shadow, names, now),
        new_holds(shadow, names, now),
        captures(shadow, names, now),
        endings(shadow, names, now),
        reversals(shadow, names, now),
    )


def anything(shadow: Shadow, names: Names, now: datetime) -> st.SearchStrategy[Command]:
    """Any command, under a new or an old key."""
    return st.one_of(fresh(shadow, names, now), replays(shadow, names, now))
