"""Background work of settlement. Every run is bounded, may run concurrently, and may die anywhere.

No job calls the rail while a unit of work is open; what it is about to ask is committed before.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from settlement import ledger, payouts, refunds, top_ups
from settlement.checkpoints import write_checkpoint
from settlement.commands import Applied, Expire
from settlement.errors import RailUnavailable
from settlement.models import TopUp
from settlement.rails.base import Chargeback
from settlement.rails.choice import rail_of

__all__ = [
    "expire_holds",
    "run_chargebacks",
    "run_payouts",
    "run_refunds",
    "run_top_ups",
    "take_chargeback",
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
        position = await _read_cursor(uow, _SWEEP_CURSOR)
        start = datetime.fromisoformat(position) if position else _START
        rows = await (await uow.raw()).fetch(_DUE_HOLDS, start, uow.now, HOLDS_PER_RUN)
        commands = [Expire(f"hold:{row['id'].hex}:expire", row["id"]) for row in rows]
        results = await ledger.post(uow, commands)
        swept_to = rows[-1]["expires_at"] if len(rows) == HOLDS_PER_RUN else uow.now
        if swept_to - SWEEP_OVERLAP > start:
            await _write_cursor(uow, _SWEEP_CURSOR, (swept_to - SWEEP_OVERLAP).isoformat())
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
        try:
            answer = await top_ups.ask_rail(rail, top_up)
        except RailUnavailable:
            _log.warning("rail_unavailable", top_up=str(row["id"]))
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
        try:
            answer = await payouts.ask_rail(rail, request, first=first)
        except RailUnavailable:
            _log.warning("rail_unavailable", payout=str(request.key))
            continue
        async with kernel.unit_of_work() as uow:
            done += await payouts.settle(uow, request.key, answer)
    return done


async def run_chargebacks(kernel: Kernel) -> int:
    """Read the rail's new chargebacks and debit those parties. Returns how many."""
    rail = rail_of(kernel)
    name = f"chargebacks:{rail.name}"
    async with kernel.unit_of_work() as uow:
        position = await _read_cursor(uow, name)
    done = 0
    for chargeback in await rail.list_chargebacks(position, RAIL_CALLS_PER_RUN):
        done += await take_chargeback(kernel, chargeback)
        # After each: a chargeback is read again after a crash, never skipped.
        async with kernel.unit_of_work() as uow:
            await _write_cursor(uow, name, chargeback.position)
    return done


async def take_chargeback(kernel: Kernel, chargeback: Chargeback) -> bool:
    """Debit a charged back top-up, or give back what the bank gave back; True if it changed."""
    top_up_id = chargeback.charge_key
    async with kernel.unit_of_work() as uow:
        top_up = await uow.session.get(TopUp, top_up_id)
    if top_up is None:
        _log.error("chargeback_of_unknown_charge", charge=str(top_up_id))
        return False
    if chargeback.amount_minor == 0:
        async with kernel.unit_of_work() as uow:
            return await top_ups.reinstate(uow, top_up_id)
    if top_up.status == "pending":
        # The charge succeeded, or it could not be charged back; its own answer is still due.
        async with kernel.unit_of_work() as uow:
            await top_ups.settle(uow, top_up_id, top_ups.SUCCEEDED)
    return await top_ups.charge_back_patiently(
        kernel, top_up_id, amount_minor=chargeback.amount_minor
    )


async def run_refunds(kernel: Kernel) -> int:
    """Ask the rail for due refunds and take over its answers. Returns how many ended."""
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        due = await refunds.claim_due(uow, RAIL_CALLS_PER_RUN, rail_name=rail.name)
    done = 0
    for request in due:
        try:
            answer = await rail.refund(request)
        except RailUnavailable:
            _log.warning("rail_unavailable", refund=str(request.key))
            continue
        async with kernel.unit_of_work() as uow:
            done += await refunds.settle(uow, request.key, answer)
    return done


async def _read_cursor(uow: UnitOfWork, name: str) -> str:
    position: str | None = await (await uow.raw()).fetchval(
        "SELECT position FROM settlement.job_cursor WHERE name = $1", name
    )
    return position or ""


async def _write_cursor(uow: UnitOfWork, name: str, position: str) -> None:
    await (await uow.raw()).execute(
        "INSERT INTO settlement.job_cursor (name, position) VALUES ($1, $2) "
        "ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        name,
        position,
    )
