"""Automatic top-ups: the buyer's rule for an agreement, and what came of it."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts.agreements import get_agreement
from contracts.errors import AgreementNotFound
from contracts.models import Agreement, Grant, GrantStatus
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id
from market.usage.errors import AutoTopUpImpossible, AutoTopUpNotFound
from market.usage.models import TopUpOrder, TopUpRule
from market.usage.schemas import AutoTopUpInput, AutoTopUpView, TopUpOrderView

_LIVING = (GrantStatus.ACTIVE, GrantStatus.SUSPENDED, GrantStatus.EXHAUSTED)


async def set_rule(
    kernel: Kernel, actor: Actor, agreement_id: UUID, body: AutoTopUpInput
) -> AutoTopUpView:
    """Set or replace the rule of an agreement (its buyer). Setting it begins a new occasion.

    Raises AgreementNotFound (404, also for everybody but the buyer), AutoTopUpImpossible (409)
    for a license and for access that has ended.
    """
    async with kernel.unit_of_work() as uow:
        # The agreement's row is the lock: two requests at once must not make two rules.
        agreement = await uow.session.get(Agreement, agreement_id, with_for_update=True)
        if agreement is None or agreement.buyer_id != actor.party_id:
            raise AgreementNotFound(param="agreement_id")
        query = select(Grant).where(Grant.agreement_id == agreement_id)
        grant = (await uow.session.exec(query)).one()
        if grant.granted_units is None or grant.status not in _LIVING:
            raise AutoTopUpImpossible
        rule = await _find(uow, agreement_id, lock=True)
        if rule is None:
            rule = TopUpRule(
                id=new_id(),
                agreement_id=agreement_id,
                buyer_id=agreement.buyer_id,
                plan_id=agreement.plan_id,
                revision=0,
                updated_at=uow.now,
                **body.model_dump(),
            )
            uow.session.add(rule)
        for name, value in body.model_dump().items():
            setattr(rule, name, value)
        rule.revision += 1
        rule.updated_at = uow.now
        await uow.session.flush()
        return AutoTopUpView.model_validate(rule)


async def get_rule(kernel: Kernel, actor: Actor, agreement_id: UUID) -> AutoTopUpView:
    """The rule, for the buyer and overseers. Raises AgreementNotFound, AutoTopUpNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        await _own(uow, actor, agreement_id)
        rule = await _find(uow, agreement_id)
        if rule is None:
            raise AutoTopUpNotFound(param="agreement_id")
        return AutoTopUpView.model_validate(rule)


async def list_orders(
    kernel: Kernel, actor: Actor, agreement_id: UUID, *, page: PageQuery
) -> Page[TopUpOrderView]:
    """Orders placed because this agreement ran low, newest first, for the buyer and overseers.

    Raises AgreementNotFound (404), BadCursor (422).
    """
    after = after_id(page)
    query = (
        select(TopUpOrder)
        .where(TopUpOrder.agreement_id == agreement_id)
        .order_by(col(TopUpOrder.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(TopUpOrder.id) < after)
    async with kernel.unit_of_work() as uow:
        await _own(uow, actor, agreement_id)
        rows = list(await uow.session.exec(query))
    views = [TopUpOrderView.model_validate(row) for row in rows]
    return Page[TopUpOrderView].of(views, page.limit, [(row.id,) for row in rows])


async def _own(uow: UnitOfWork, actor: Actor, agreement_id: UUID) -> None:
    """What the buyer is ready to pay is not the seller's to know."""
    agreement = await get_agreement(uow, agreement_id, actor)
    if actor.party_id == agreement.seller_id:
        raise AgreementNotFound(param="agreement_id")


async def _find(uow: UnitOfWork, agreement_id: UUID, *, lock: bool = False) -> TopUpRule | None:
    query = select(TopUpRule).where(TopUpRule.agreement_id == agreement_id)
    if lock:
        query = query.with_for_update()
    return (await uow.session.exec(query)).one_or_none()
