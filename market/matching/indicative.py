"""What collecting call auctions would do now: stored and told whenever it has changed."""

from __future__ import annotations

from uuid import UUID

from market.kernel.db import UnitOfWork
from market.matching import call_sql
from market.matching.call_auction import Clearing
from market.matching.call_models import CallStatus
from market.matching.call_steps import facts_of, on_tick, row_of
from market.matching.control_desk import TOLD_MAX
from market.matching.controls import Controls
from market.matching.matcher import Matcher
from market.matching.rules import Rules
from market.matching.shard import Shard


async def publish(
    uow: UnitOfWork, shard: Shard, controls: Controls, matcher: Matcher
) -> dict[UUID, Clearing | None]:
    """Store what this batch has changed, and tell whoever has orders there.

    Returns it by call auction, for ``shard.indicatives`` after the COMMIT.
    """
    changed: dict[UUID, Clearing | None] = {}
    rows: list[call_sql.CallRow] = []
    for plan_id in matcher.changes:
        call = controls.calls.get(plan_id)
        if call is None or not call.collecting:
            continue
        found = _found(shard, controls, plan_id)
        if call.id in shard.indicatives and shard.indicatives[call.id] == found:
            continue
        changed[call.id] = found
        rows.append(row_of(call, CallStatus.COLLECTING, found))
        uow.emit(
            "call_auction.indicative",
            plan_id,
            facts_of(call, found),
            parties=_told(shard, matcher, plan_id),
        )
    if rows:
        await call_sql.write(await uow.raw(), rows, now=uow.now)
    return changed


def _found(shard: Shard, controls: Controls, plan_id: UUID) -> Clearing | None:
    """O(orders that cross)."""
    rules = controls.rules.get(plan_id, Rules())
    reference = on_tick(controls.references[plan_id], rules)
    return shard.instrument(plan_id).book.indicative(reference)


def _told(shard: Shard, matcher: Matcher, plan_id: UUID) -> list[UUID]:
    """At most so many of those with orders, those of this batch among them."""
    new = {
        each.order.party_id for each in matcher.touched.values() if each.order.plan_id == plan_id
    }
    return sorted({*shard.parties(plan_id), *new})[:TOLD_MAX]
