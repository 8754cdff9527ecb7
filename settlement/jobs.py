"""Background work of settlement. Every run is bounded, may run concurrently, and may die anywhere.

No job calls the rail while a unit of work is open; what it is about to ask is committed before.
One row that the rail refuses, or that breaks, does not stop the others: it becomes a case.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from market.kernel.context import Kernel
from settlement import cases, cursors, ledger, payouts, refunds, top_ups
from settlement.chargebacks import run_chargebacks
from settlement.checkpoints import write_checkpoint
from settlement.commands import Applied, Expire
from settlement.errors import RailUnavailable
from settlement.models import TopUp
from settlement.rails.base import RailAnswer, RailRefused
from settlement.rails.choice import rail_of
from settlement.reconciliation_models import CaseKind

__all__ = [
    "expire_holds",
    "run_chargebacks",
    "run_payouts",
    "run_refunds",
    "run_top_ups",
    "write_checkpoint",
]

HOLDS_PER_RUN = 500
RAIL_CALLS_PER_RUN = 50
# A unit of work that books a hold ends well within this (statement and lock timeouts), so no
# hold can appear with an expiry this far behind the sweeper.
SWEEP_OVERLAP = timedelta(minutes=15)
_SWEEP_CURSOR = "expire_holds"
_START = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

_log = structlog.get_logger(__name__)

_DUE_HOLDS = """
SELECT h.id, h.expires_at FROM settlement.hold h
WHERE h.expires_at > $1 AND h.expires_at <= $2
  AND NOT EXISTS (SELECT 1 FROM settlement.hold_resolution r WHERE r.hold_id = h.id)
ORDER BY h.expires_at LIMIT $3
"""
_DUE_TOP_UPS = """
UPDATE settlement.top_up
SET next_attempt_at = $1 + least(greatest($2::interval, ($1 - created_at) / 2), interval '1 hour')
WHERE id IN (SELECT id FROM settlement.top_up
             WHERE status = 'pending' AND next_attempt_at <= $1 AND rail = $4
             ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def expire_holds(kernel: Kernel) -> int:
    """Free holds whose time has passed (they are uncapturable already). Returns how many.

    Starts where the last complete sweep ended: resolved holds of the past are not read again.
    """
    async with kernel.unit_of_work() as uow:
        position = await cursors.read_in(uow, _SWEEP_CURSOR)
        start = datetime.fromisoformat(position) if position else _START
        rows = await (await uow.raw()).fetch(_DUE_HOLDS, start, uow.now, HOLDS_PER_RUN)
        commands = [Expire(f"hold:{row['id'].hex}:expire", row["id"]) for row in rows]
        results = await ledger.post(uow, commands)
        swept_to = rows[-1]["expires_at"] if len(rows) == HOLDS_PER_RUN else uow.now
        if swept_to - SWEEP_OVERLAP > start:
            position = (swept_to - SWEEP_OVERLAP).isoformat()
            await cursors.write_in(uow, _SWEEP_CURSOR, position)
    return sum(1 for result in results if isinstance(result, Applied) and not result.replayed)


async def run_top_ups(kernel: Kernel) -> int:
    """Settle top-ups that the rail left pending or whose request died. Returns how many."""
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            _DUE_TOP_UPS, uow.now, top_ups.LEASE, RAIL_CALLS_PER_RUN, rail.name
        )
    done = 0
    for row in rows:
        async with kernel.unit_of_work() as uow:
            top_up = await uow.session.get_one(TopUp, row["id"])
        answer = await _asked(
            kernel, rail.name, "top_up", top_up.id, top_ups.ask_rail(rail, top_up)
        )
        if answer is None:
            continue
        async with kernel.unit_of_work() as uow:
            settled = await top_ups.settle(uow, row["id"], answer)
            done += settled.status != "pending"
    return done


async def run_payouts(kernel: Kernel) -> int:
    """Ask the rail for due payouts and take over its answers. Returns how many ended."""
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        due = await payouts.claim_due(uow, RAIL_CALLS_PER_RUN, rail_name=rail.name)
    done = 0
    for request, first in due:
        call = payouts.ask_rail(rail, request, first=first)
        answer = await _asked(kernel, rail.name, "payout", request.key, call)
        if answer is None:
            continue
        async with kernel.unit_of_work() as uow:
            done += await payouts.settle(uow, request.key, answer)
    return done


async def run_refunds(kernel: Kernel) -> int:
    """Ask the rail for due refunds and take over its answers. Returns how many ended."""
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        due = await refunds.claim_due(uow, RAIL_CALLS_PER_RUN, rail_name=rail.name)
    done = 0
    for request in due:
        call = rail.refund(request)
        answer = await _asked(kernel, rail.name, "refund", request.key, call)
        if answer is None:
            continue
        async with kernel.unit_of_work() as uow:
            done += await refunds.settle(uow, request.key, answer)
    return done


async def _asked(
    kernel: Kernel, rail_name: str, what: str, subject_id: UUID, call: Awaitable[RailAnswer]
) -> RailAnswer | None:
    """The rail's answer; None when it is unknown, or refused and now a case for operators.

    A refused row stays due and is asked about again, ever less often: what somebody puts right at
    the provider ends it.
    """
    try:
        answer = await call
    except RailUnavailable:
        _log.warning("rail_unavailable", subject=str(subject_id), what=what)
        return None
    except (RailRefused, ValueError) as refusal:
        code = refusal.code if isinstance(refusal, RailRefused) else str(refusal)
        _log.error("rail_refused", subject=str(subject_id), what=what, code=code)
        async with kernel.unit_of_work() as uow:
            await cases.open_case(
                uow, rail_name, CaseKind.REFUSED, subject_id, detail=f"{what}: {code}"
            )
        return None
    return answer
