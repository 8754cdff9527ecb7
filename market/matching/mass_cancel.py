"""Cancelling all orders of a party at once, or those on an instrument or a side of it."""

from __future__ import annotations

from collections.abc import MutableMapping
from uuid import UUID

import orjson

from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Actor
from market.matching.commands import CancelAll, Reply
from market.matching.matcher import SIDES, Matcher
from market.matching.models import CloseReason
from market.matching.shard import LiveOrder, Shard
from settlement import audit

# Orders per command: they end in one transaction. The answer tells how many are left.
ORDERS_MAX = 10_000
IDS_MAX = 1_000


def carry_out(
    command: CancelAll,
    uow: UnitOfWork,
    shard: Shard,
    matcher: Matcher,
    plan_ids: MutableMapping[UUID, None],
    *,
    seq: int,
) -> Reply:
    """Cancel, oldest first; the answer holds a MassCancelView.

    Effects: holds are free, event ``order.cancelled`` each; an operator's decision is audited.
    ``plan_ids`` takes the instruments whose books have changed.
    """
    wanted = sorted(_wanted(command, shard), key=lambda order: order.rank)
    reason = CloseReason.REQUESTED if command.reason is None else CloseReason.OPERATOR
    cancelled: list[UUID] = []
    for order in wanted[:ORDERS_MAX]:
        plan_ids[order.plan_id] = None
        if matcher.cancel(order, reason, seq=seq) is not None:
            cancelled.append(order.id)
    if command.reason is not None:
        assert command.credential_id is not None
        audit.record(
            uow,
            Actor(command.party_id, command.credential_id, frozenset(), ""),
            "market.cancel_all",
            command.owner_id,
            reason=command.reason,
            data={"seq": seq, "cancelled": len(cancelled)},
        )
    view = {
        "cancelled": len(cancelled),
        "remaining": len(wanted[ORDERS_MAX:]),
        "order_ids": [show("ord", order_id) for order_id in cancelled[:IDS_MAX]],
    }
    return Reply.of(orjson.dumps(view), status=200)


def _wanted(command: CancelAll, shard: Shard) -> list[LiveOrder]:
    side = None if command.side is None else SIDES[command.side]
    return [
        order
        for order in shard.orders_of([command.owner_id])
        if (command.plan_id is None or order.plan_id == command.plan_id)
        and (side is None or order.side is side)
    ]
