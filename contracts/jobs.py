"""Background work of contracts. Each job does a bounded batch, and may run twice or at once.

Order of an ending: expire_grants or a revocation → end_leases → close_out. Run ``accrue`` and
``sweep_meters`` every second or two, the others every few seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

from contracts import accrual, grants, sql, token_quota, usage_alerts
from contracts.agreement_states import EARNING, AgreementStatus
from contracts.agreements import lock_agreement
from contracts.errors import MeterUnavailable
from contracts.metering import meter_of
from contracts.metering_leases import DRAIN_MARGIN_S
from contracts.metering_records import FactTooNew
from contracts.models import Agreement, Ending, Grant, LeaseState, PlanKind
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.logging import get_logger

BATCH = 100
# Facts older than this wait for a process that is probably gone.
SWEEP_AGE_MS = 1_000
# Longer than any hold and any outage of the sweeper that is not noticed.
SWEEP_WINDOW_S = 3_600
LEASE_IDLE_S = 900

_log = get_logger("contracts.jobs")

_Step = Callable[[UnitOfWork, Kernel, Agreement, Grant], Awaitable[bool]]
_Find = Callable[["sql.Connection"], Awaitable[list[UUID]]]


async def sweep_meters(kernel: Kernel) -> int:
    """Record deliveries whose process died before it could, free overdue reservations."""
    async with kernel.unit_of_work() as uow:
        used = await sql.grants_in_use(await uow.raw(), window_s=SWEEP_WINDOW_S, limit=BATCH)
    recorded = 0
    try:
        for grant_id in used:
            # A later version's records wait for its own processes; the other grants do not.
            with contextlib.suppress(FactTooNew):
                recorded += await meter_of(kernel).recover(grant_id, age_ms=SWEEP_AGE_MS)
    except MeterUnavailable:
        _log.warning("sweep_without_cache")
    return recorded


async def sweep_token_quotas(kernel: Kernel) -> int:
    """Give back what dead processes held of tokens' own quotas; the number of holds."""
    async with kernel.unit_of_work() as uow:
        found = await token_quota.overdue(await uow.raw(), limit=BATCH)
    ended = 0
    try:
        for grant_id, quota_id in found:
            # First what was delivered: its units are billed, not given back.
            try:
                await meter_of(kernel).recover(grant_id, age_ms=0)
            except FactTooNew:
                continue
            async with kernel.unit_of_work() as uow:
                ended += await token_quota.end_overdue(await uow.raw(), quota_id)
    except MeterUnavailable:
        _log.warning("sweep_without_cache")
    return ended


async def end_leases(kernel: Kernel) -> int:
    """Drain idle leases and those of ended grants; close drained ones."""
    async with kernel.unit_of_work() as uow:
        found = await sql.leases_to_end(await uow.raw(), idle_s=LEASE_IDLE_S, limit=BATCH)
    ended = 0
    for lease in found:
        ended += await _end_lease(kernel, lease["id"], lease["grant_id"], lease["state"])
    return ended


async def _end_lease(kernel: Kernel, lease_id: UUID, grant_id: UUID, state: str) -> bool:
    meter = meter_of(kernel)
    closing = state == LeaseState.DRAINING
    if not closing:
        async with kernel.unit_of_work() as uow:
            connection = await uow.raw()
            await sql.lock_grant(connection, grant_id)
            grace_s = meter.hold_s + DRAIN_MARGIN_S
            await sql.drain_lease(connection, lease_id, grace_s=grace_s)
    try:
        await meter.recover(grant_id, age_ms=0)
        idle = await meter.forget(grant_id, lease_id)
    except FactTooNew:
        # Its units are still to be billed, by a process that can read it.
        return not closing
    except MeterUnavailable:
        idle = False
    if closing or idle:
        async with kernel.unit_of_work() as uow:
            connection = await uow.raw()
            await sql.lock_grant(connection, grant_id)
            return await sql.close_lease(connection, lease_id, grant_id) or not closing
    return True


async def accrue(kernel: Kernel) -> int:
    """Turn recorded use into released money, and alert the buyer of thresholds reached."""

    async def step(uow: UnitOfWork, _kernel: Kernel, agreement: Agreement, grant: Grant) -> bool:
        before = grant.accrued_units
        await accrual.progress(uow, agreement, grant)
        await usage_alerts.raise_due(uow, grant)
        return grant.accrued_units > before

    return await _each(kernel, lambda c: sql.agreements_to_accrue(c, limit=BATCH), step)


async def expire_grants(kernel: Kernel) -> int:
    """End grants whose term is over."""

    async def step(uow: UnitOfWork, kernel: Kernel, agreement: Agreement, _grant: Grant) -> bool:
        if AgreementStatus(agreement.status) in EARNING and agreement.ending is None:
            agreement.ending = Ending.EXPIRED
        return await grants.expire(uow, kernel, agreement.id)

    return await _each(kernel, lambda c: sql.agreements_expiring(c, limit=BATCH), step)


async def close_windows(kernel: Kernel) -> int:
    """Accept licenses whose acceptance window passed in silence."""

    async def step(uow: UnitOfWork, _kernel: Kernel, agreement: Agreement, grant: Grant) -> bool:
        open_states = {AgreementStatus.ACTIVE, AgreementStatus.DELIVERED}
        if (
            agreement.kind != PlanKind.LICENSE
            or agreement.status not in open_states
            or agreement.ending is not None
        ):
            return False
        await accrual.accept(uow, agreement, grant, reason="the acceptance window has ended")
        return True

    return await _each(kernel, lambda c: sql.agreements_past_window(c, limit=BATCH), step)


async def close_out(kernel: Kernel) -> int:
    """Pay used units and refund unused ones of agreements whose access has ended."""

    async def step(uow: UnitOfWork, _kernel: Kernel, agreement: Agreement, grant: Grant) -> bool:
        if grant.closed_out_at is not None:
            return False
        await accrual.close_out(uow, agreement, grant)
        return True

    return await _each(kernel, lambda c: sql.agreements_to_close_out(c, limit=BATCH), step)


async def _each(kernel: Kernel, find: _Find, step: _Step) -> int:
    """``step`` for each found agreement, locked with its grant, in a unit of work of its own."""
    async with kernel.unit_of_work() as uow:
        ids = await find(await uow.raw())
    done = 0
    for agreement_id in ids:
        async with kernel.unit_of_work() as uow:
            agreement = await lock_agreement(uow, agreement_id)
            grant = (await accrual.lock_grants_of(uow, [agreement_id]))[agreement_id]
            done += await step(uow, kernel, agreement, grant)
    return done
