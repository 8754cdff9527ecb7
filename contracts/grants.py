"""Grants: what the buyer may read, changes of access, usage.

A change of access takes effect when its transaction commits, not later: it blocks the meter's
cache while it holds the grant's row, so from then on every reader asks Postgres and waits for
the commit. If the cache cannot be reached, ``metering_leases.FRESH_MS`` bounds the delay.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from sqlalchemy import or_, text
from sqlmodel import col, select

from contracts.agreements import READERS
from contracts.errors import GrantNotFound, MeterUnavailable
from contracts.metering import meter_of
from contracts.metering_scripts import BLOCK
from contracts.models import Delivery, Grant, GrantStatus, Unit
from contracts.schemas import GrantView, UsageView
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

_log = get_logger("contracts.grants")

_CHANGE = text(
    "UPDATE contracts.access_grant SET gen = gen + 1, status = CASE "
    "WHEN :target = 'active' AND settled_units + resold_units = granted_units THEN 'exhausted' "
    "ELSE :target END, "
    "ended_at = CASE WHEN :ends THEN coalesce(ended_at, CAST(:now AS timestamptz)) "
    "ELSE ended_at END "
    "WHERE agreement_id = :agreement_id AND status = ANY(:sources) "
    # Two may have suspended it; the last of them to end gives access back.
    "AND (:target <> 'active' OR NOT EXISTS (SELECT FROM contracts.usage_hold h "
    "WHERE h.agreement_id = :agreement_id AND h.released_at IS NULL)) RETURNING id"
)


async def suspend(uow: UnitOfWork, kernel: Kernel, agreement_id: UUID) -> bool:
    """Stop deliveries while a dispute or a hold is open. False: there was nothing to suspend."""
    sources = [GrantStatus.ACTIVE, GrantStatus.EXHAUSTED]
    return await _change(uow, kernel, agreement_id, GrantStatus.SUSPENDED, sources)


async def reinstate(uow: UnitOfWork, kernel: Kernel, agreement_id: UUID) -> bool:
    """Resume a suspended grant. False when it is not suspended (it may have expired) or held."""
    return await _change(uow, kernel, agreement_id, GrantStatus.ACTIVE, [GrantStatus.SUSPENDED])


async def revoke(uow: UnitOfWork, kernel: Kernel, agreement_id: UUID) -> bool:
    """End access for good. False when it had ended already."""
    sources = [GrantStatus.ACTIVE, GrantStatus.SUSPENDED, GrantStatus.EXHAUSTED]
    return await _change(uow, kernel, agreement_id, GrantStatus.REVOKED, sources)


async def expire(uow: UnitOfWork, kernel: Kernel, agreement_id: UUID) -> bool:
    """End access because its term is over. False when it had ended already."""
    sources = [GrantStatus.ACTIVE, GrantStatus.SUSPENDED, GrantStatus.EXHAUSTED]
    return await _change(uow, kernel, agreement_id, GrantStatus.EXPIRED, sources)


async def _change(
    uow: UnitOfWork,
    kernel: Kernel,
    agreement_id: UUID,
    target: GrantStatus,
    sources: list[GrantStatus],
) -> bool:
    await uow.session.flush()
    parameters = {
        "agreement_id": agreement_id,
        "target": target.value,
        "sources": [source.value for source in sources],
        "ends": target in {GrantStatus.REVOKED, GrantStatus.EXPIRED},
        "now": uow.now,
    }
    grant_id: UUID | None = (await uow.execute(_CHANGE, parameters)).scalar_one_or_none()
    if grant_id is None:
        return False
    await block(kernel, grant_id)
    for known in list(uow.session.identity_map.values()):
        if isinstance(known, Grant) and known.id == grant_id:
            await uow.session.refresh(known)
    return True


async def block(kernel: Kernel, grant_id: UUID) -> None:
    """Make every reader ask Postgres. Call with the grant's row locked, before the commit.

    Waits until sub-leases have ended that need not ask: at most ``metering_blocks.VALID_S``.
    """
    try:
        _, wait_ms = await meter_of(kernel).cache.call(BLOCK, grant_id)
        await asyncio.sleep(int(wait_ms) / 1_000)
    except MeterUnavailable:
        _log.warning("block_without_cache", grant_id=grant_id.hex)


def view(grant: Grant) -> GrantView:
    """The API shape of a grant."""
    remaining = None
    if grant.granted_units is not None:
        remaining = grant.granted_units - grant.spent_units - grant.offered_units
    return GrantView(
        id=grant.id,
        agreement_id=grant.agreement_id,
        product_id=grant.product_id,
        product_version_id=grant.product_version_id,
        buyer_id=grant.buyer_id,
        seller_id=grant.seller_id,
        unit=grant.unit,
        status=grant.status,
        granted_units=grant.granted_units,
        settled_units=grant.settled_units,
        remaining_units=remaining,
        offered_units=grant.offered_units,
        resold_units=grant.resold_units,
        resold_from=grant.resold_from,
        delivery_count=grant.delivery_count,
        created_at=grant.created_at,
        expires_at=grant.expires_at,
        ended_at=grant.ended_at,
    )


async def find(uow: UnitOfWork, grant_id: UUID, actor: Actor) -> Grant:
    """One grant, for both parties and overseers. Raises GrantNotFound."""
    grant = await uow.session.get(Grant, grant_id)
    if grant is None or not (
        actor.party_id in (grant.buyer_id, grant.seller_id) or actor.has(*READERS)
    ):
        raise GrantNotFound(param="grant_id")
    return grant


async def settle_buffered(kernel: Kernel) -> None:
    """Make this process's usage readable now. A database in trouble shows older figures."""
    try:
        await meter_of(kernel).flush()
    except (MarketError, OSError) as error:
        _log.warning("read_before_flush", error=str(error))


async def get_grant(kernel: Kernel, actor: Actor, grant_id: UUID) -> GrantView:
    """One grant with its meter. Raises GrantNotFound."""
    await settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        return view(await find(uow, grant_id, actor))


async def list_grants(kernel: Kernel, actor: Actor, *, page: PageQuery) -> Page[GrantView]:
    """The actor's grants, newest first; overseers see all. Raises BadCursor."""
    await settle_buffered(kernel)
    after = after_id(page)
    query = select(Grant).order_by(col(Grant.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(Grant.id) < after)
    if not actor.has(*READERS):
        query = query.where(
            or_(col(Grant.buyer_id) == actor.party_id, col(Grant.seller_id) == actor.party_id)
        )
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
        return Page[GrantView].of([view(row) for row in rows], page.limit, [(r.id,) for r in rows])


async def list_usage(
    kernel: Kernel, actor: Actor, grant_id: UUID, *, page: PageQuery
) -> Page[UsageView]:
    """Usage records of a grant, newest first. Raises GrantNotFound, BadCursor."""
    await settle_buffered(kernel)
    after = after_id(page)
    query = (
        select(Delivery)
        .where(Delivery.grant_id == grant_id)
        .order_by(col(Delivery.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(Delivery.id) < after)
    async with kernel.unit_of_work() as uow:
        unit = (await find(uow, grant_id, actor)).unit
        rows = list(await uow.session.exec(query))
        return Page[UsageView].of(
            [_usage(row, unit) for row in rows], page.limit, [(row.id,) for row in rows]
        )


def _usage(row: Delivery, unit: Unit) -> UsageView:
    return UsageView(
        id=row.id,
        delivery_id=row.delivery_key,
        token_id=row.token_id,
        receipt_id=row.receipt_id,
        format=row.format,
        unit=unit,
        units=row.units,
        rows=row.row_count,
        bytes=row.byte_count,
        body_sha256=row.body_sha256,
        complete=row.complete,
        assumed=row.assumed,
        fields=row.fields,
        delivered_at=row.delivered_at,
    )
