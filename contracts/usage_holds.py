"""Holding access because of unusual use. A hold is a suspension, so the meter refuses at once.

A hold and a dispute may suspend the same grant: access comes back when the last of them ends.
"""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts import grants
from contracts.agreement_states import EARNING, AgreementStatus
from contracts.agreements import get_agreement, lock_agreement, may_read
from contracts.errors import AgreementNotFound, UsageHoldNotFound
from contracts.models import Agreement
from contracts.usage_hold_models import UsageGuard, UsageHold, UsageSuspicion
from contracts.usage_hold_schemas import (
    UsageGuardInput,
    UsageGuardView,
    UsageHoldView,
    UsageReleaseInput,
)
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role, RoleRequired
from market.parties.directory import after_id
from settlement import audit


async def set_guard(
    kernel: Kernel, actor: Actor, agreement_id: UUID, body: UsageGuardInput
) -> UsageGuardView:
    """Say on which suspicions access is held by itself (seller of the agreement, operator).

    Raises AgreementNotFound (404), RoleRequired (403) for the buyer and other overseers.
    Effect: event ``usage.guard_set`` for both parties.
    """
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, agreement_id)
        if not may_read(agreement, actor):
            raise AgreementNotFound(param="agreement_id")
        if actor.party_id != agreement.seller_id and not actor.has(Role.OPERATOR):
            raise RoleRequired("This needs the seller of the agreement or an operator.")
        words = sorted({word.value for word in body.hold_on})
        made = await uow.session.merge(
            UsageGuard(
                agreement_id=agreement_id,
                hold_on=words,
                set_by=actor.party_id,
                updated_at=uow.now,
            )
        )
        _tell(uow, agreement, "usage.guard_set", {"hold_on": words})
        return _guard_view(agreement_id, made)


async def get_guard(kernel: Kernel, actor: Actor, agreement_id: UUID) -> UsageGuardView:
    """The guard, for both parties and overseers. Raises AgreementNotFound."""
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        return _guard_view(agreement_id, await uow.session.get(UsageGuard, agreement_id))


def _guard_view(agreement_id: UUID, guard: UsageGuard | None) -> UsageGuardView:
    if guard is None:
        return UsageGuardView(agreement_id=agreement_id, hold_on=[], updated_at=None)
    words = [UsageSuspicion(word) for word in guard.hold_on]
    return UsageGuardView(agreement_id=agreement_id, hold_on=words, updated_at=guard.updated_at)


async def hold_if_guarded(
    uow: UnitOfWork, kernel: Kernel, agreement_id: UUID, suspicion: UsageSuspicion
) -> bool:
    """Suspend an agreement's access if its guard names ``suspicion``; whether it did.

    Effects: grant suspended; event ``usage.held`` for both parties.
    """
    agreement = await lock_agreement(uow, agreement_id)
    guard = await uow.session.get(UsageGuard, agreement_id)
    if guard is None or suspicion.value not in guard.hold_on:
        return False
    if await _open_hold(uow, agreement_id) is not None:
        return False
    if not await grants.suspend(uow, kernel, agreement_id):
        # Access has ended, or a dispute suspends it already.
        return False
    uow.session.add(
        UsageHold(
            id=new_id(), agreement_id=agreement_id, suspicion=suspicion.value, placed_at=uow.now
        )
    )
    _tell(uow, agreement, "usage.held", {"suspicion": suspicion.value})
    return True


async def release(
    kernel: Kernel, actor: Actor, agreement_id: UUID, body: UsageReleaseInput
) -> UsageHoldView:
    """Give access back (operator); it stays suspended while a dispute is open.

    Effects: event ``usage.released`` for both parties, an entry in the audit log. Raises
    RoleRequired (403), AgreementNotFound, UsageHoldNotFound (404).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, agreement_id)
        hold = await _open_hold(uow, agreement_id)
        if hold is None:
            raise UsageHoldNotFound(param="agreement_id")
        hold.released_at, hold.released_by, hold.reason = uow.now, actor.party_id, body.reason
        await uow.session.flush()
        if AgreementStatus(agreement.status) in EARNING:
            await grants.reinstate(uow, kernel, agreement_id)
        audit.record(uow, actor, "usage_hold.release", agreement_id, reason=body.reason)
        _tell(uow, agreement, "usage.released", {"suspicion": hold.suspicion})
        view = UsageHoldView.model_validate(hold)
        await uow.answer(view)
    return view


async def list_holds(
    kernel: Kernel, actor: Actor, agreement_id: UUID, *, page: PageQuery
) -> Page[UsageHoldView]:
    """An agreement's holds, newest first, for both parties and overseers.

    Raises AgreementNotFound (404), BadCursor (422).
    """
    after = after_id(page)
    query = (
        select(UsageHold)
        .where(UsageHold.agreement_id == agreement_id)
        .order_by(col(UsageHold.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(UsageHold.id) < after)
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        rows = list(await uow.session.exec(query))
    views = [UsageHoldView.model_validate(row) for row in rows]
    return Page[UsageHoldView].of(views, page.limit, [(row.id,) for row in rows])


async def _open_hold(uow: UnitOfWork, agreement_id: UUID) -> UsageHold | None:
    query = select(UsageHold).where(
        UsageHold.agreement_id == agreement_id, col(UsageHold.released_at).is_(None)
    )
    return (await uow.session.exec(query)).one_or_none()


def _tell(uow: UnitOfWork, agreement: Agreement, event: str, data: dict[str, object]) -> None:
    uow.emit(
        event,
        agreement.id,
        {"agreement_id": show("agr", agreement.id), **data},
        parties=[agreement.buyer_id, agreement.seller_id],
    )
