"""What a batch tells the ledger: holds of new buys, captures into escrow, the rest freed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from market.kernel.ids import new_id
from market.matching.terms import Side
from market.matching.touched import Match, Touched
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import LEGS_MAX, Capture, Command, Hold, Void

# The engine ends an order before the ledger ends its hold, also after a long outage.
HOLD_GRACE = timedelta(days=7)
_CREDITS_MAX = LEGS_MAX - 1


def postings(touched: Iterable[Touched], *, now: datetime) -> list[tuple[Touched, Command]]:
    """The ledger commands of a batch, each with its order: all holds first, in input order.

    A buy whose terms changed gets another hold: the old one is freed right before, so that its
    money counts. Effect: gives each buy that keeps resting the id of its new hold.
    """
    buys = [order for order in touched if order.order.side is Side.BUY]
    planned: list[tuple[Touched, Command]] = [
        (order, _hold(order, now)) for order in buys if order.admitted is not None
    ]
    for order in buys:
        if order.revision is not None:
            planned.extend((order, command) for command in _exchange(order, now))
    for order in buys:
        planned.extend((order, command) for command in _resolve(order))
    return planned


def _exchange(touched: Touched, now: datetime) -> list[Command]:
    """Another hold for new terms, unless a capture leaves the right one or nothing is needed."""
    order, revision, old_id = touched.order, touched.revision, touched.hold_id
    assert revision is not None
    assert order.lots is not None
    assert old_id is not None
    had = (order.lots - order.filled) * order.price
    paid = sum(match.amount for match in touched.matches)
    needed = paid + touched.kept
    outlived = touched.kept and (touched.expires_at or now) > (order.expires_at or now)
    if not needed or not (needed > had or (needed < had and not paid) or outlived):
        return []
    touched.hold_id = new_id()
    hold = Hold(
        key=f"order-rehold:{touched.hold_id.hex}",
        hold_id=touched.hold_id,
        account=AccountRef(AccountKind.AVAILABLE, order.party_id, revision.currency),
        amount=needed,
        expires_at=(touched.expires_at or now) + HOLD_GRACE,
        memo_id=order.id,
    )
    return [Void(key=f"order-void:{old_id.hex}", hold_id=old_id), hold]


def _hold(touched: Touched, now: datetime) -> Hold:
    admitted, order = touched.admitted, touched.order
    assert admitted is not None
    assert order.hold_id is not None
    return Hold(
        key=f"order-hold:{order.id.hex}",
        hold_id=order.hold_id,
        account=admitted.account,
        amount=admitted.reserve_minor,
        expires_at=(order.expires_at or now) + HOLD_GRACE,
        memo_id=order.id,
    )


def _resolve(touched: Touched) -> list[Command]:
    """Pay the order's matches from its hold; keep what still rests, free what does not."""
    hold_id = touched.hold_id
    assert hold_id is not None
    if not touched.matches:
        if touched.status.is_open:
            return []
        return [Void(key=f"order-void:{hold_id.hex}", hold_id=hold_id)]
    kept = touched.kept
    commands: list[Command] = []
    matches = touched.matches
    for start in range(0, len(matches), _CREDITS_MAX):
        later = sum(match.amount for match in matches[start + _CREDITS_MAX :])
        rehold = kept + later
        rehold_id = new_id() if rehold else None
        chunk = matches[start : start + _CREDITS_MAX]
        commands.append(_capture(touched, chunk, hold_id, rehold, rehold_id))
        if rehold_id is not None:
            hold_id = rehold_id
    touched.hold_id = hold_id if touched.status.is_open else None
    return commands


def _capture(
    touched: Touched, matches: list[Match], hold_id: UUID, rehold: int, rehold_id: UUID | None
) -> Capture:
    return Capture(
        key=f"order-capture:{hold_id.hex}",
        hold_id=hold_id,
        kind="escrow",
        credits=tuple(
            (AccountRef(AccountKind.ESCROW, match.agreement_id, match.currency), match.amount)
            for match in matches
        ),
        rehold=rehold,
        rehold_id=rehold_id,
        memo_id=touched.order.id,
    )
