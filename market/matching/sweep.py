"""Resting orders of instruments that are no longer on offer: found once a second, then ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from market.kernel.db import UnitOfWork
from market.matching.models import CloseReason
from market.matching.shard import Shard
from pricing.sql import off_the_market

EVERY_S = 1.0
# Instruments looked at, and orders ended, per look; more wait for the next one.
PLANS_MAX = 2_000
ORDERS_MAX = 1_000


class Sweep:
    """Looks at the instruments that have open orders, in turn.

    New orders are refused from the moment that a plan is retired or its listing is suspended or
    delisted; what rests cannot trade from then on, and is ended by the engine's next batch.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at = 0.0
        self._after = UUID(int=0)

    async def find(self, uow: UnitOfWork, shard: Shard) -> dict[UUID, CloseReason]:
        """Orders to end, by id, with the reason; without a query while no look is due."""
        now = self._clock()
        if now < self._due_at:
            return {}
        self._due_at = now + EVERY_S
        plan_ids = self._next(shard)
        if not plan_ids:
            return {}
        gone = await off_the_market(await uow.raw(), plan_ids)
        found: dict[UUID, CloseReason] = {}
        for plan_id, retired in gone.items():
            reason = CloseReason.PLAN_RETIRED if retired else CloseReason.LISTING_NOT_LIVE
            for order_id in shard.open_ids(plan_id, ORDERS_MAX - len(found)):
                found[order_id] = reason
        if len(found) == ORDERS_MAX:
            self._due_at = now
            self._after = UUID(int=0)
        return found

    def _next(self, shard: Shard) -> list[UUID]:
        plan_ids = sorted(shard.trading())
        portion = [plan_id for plan_id in plan_ids if plan_id > self._after][:PLANS_MAX]
        self._after = portion[-1] if len(portion) == PLANS_MAX else UUID(int=0)
        return portion
