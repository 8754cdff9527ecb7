"""What people do with an agreement: read it, accept what was delivered, end it early."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import or_
from sqlmodel import col, select

from contracts import accrual, grants
from contracts.agreement_states import EARNING, AgreementStatus
from contracts.agreements import READERS, get_agreement, lock_agreement
from contracts.errors import AgreementNotFound, IllegalTransition, NotAcceptableYet
from contracts.models import Agreement, Ending, Grant, PlanKind
from contracts.schemas import AgreementView, TerminationBody
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id


def view(agreement: Agreement, grant: Grant) -> AgreementView:
    """The API shape of an agreement with the state of its grant."""
    values = {
        name: getattr(agreement, name)
        for name in AgreementView.model_fields
        if name not in {"grant_id", "settled_units"}
    }
    return AgreementView(grant_id=grant.id, settled_units=grant.settled_units, **values)


async def show_agreement(kernel: Kernel, actor: Actor, agreement_id: UUID) -> AgreementView:
    """One agreement. Raises AgreementNotFound."""
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        agreement = await get_agreement(uow, agreement_id, actor)
        return view(agreement, await _grant_of(uow, agreement_id))


async def list_agreements(
    kernel: Kernel, actor: Actor, *, page: PageQuery, status: AgreementStatus | None = None
) -> Page[AgreementView]:
    """The actor's agreements, newest first; overseers see all. Raises BadCursor."""
    after = after_id(page)
    query = (
        select(Agreement, Grant)
        .join(Grant, col(Grant.agreement_id) == col(Agreement.id))
        .order_by(col(Agreement.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(Agreement.id) < after)
    if status is not None:
        query = query.where(Agreement.status == status)
    if not actor.has(*READERS):
        query = query.where(
            or_(
                col(Agreement.buyer_id) == actor.party_id,
                col(Agreement.seller_id) == actor.party_id,
            )
        )
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
        return Page[AgreementView].of(
            [view(agreement, grant) for agreement, grant in rows],
            page.limit,
            [(agreement.id,) for agreement, _ in rows],
        )


async def accept(kernel: Kernel, actor: Actor, agreement_id: UUID) -> AgreementView:
    """The buyer accepts: the rest of the escrow is released and the agreement settles.

    A license may be accepted from the start; a metered agreement once every unit is used.
    Raises AgreementNotFound (404), also for the seller, NotAcceptableYet or IllegalTransition
    (409).
    """
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, agreement_id)
        if agreement.buyer_id != actor.party_id:
            raise AgreementNotFound(param="agreement_id")
        grant = await _locked_grant(uow, agreement_id)
        open_states = {AgreementStatus.ACTIVE, AgreementStatus.DELIVERED}
        if agreement.status not in open_states or agreement.ending is not None:
            raise IllegalTransition(
                f"An agreement that is {agreement.status.value} cannot be accepted.",
                current=agreement.status.value,
            )
        if agreement.kind == PlanKind.LICENSE:
            await accrual.accept(uow, agreement, grant, reason="accepted by the buyer")
        elif grant.spent_units == grant.granted_units:
            await accrual.progress(uow, agreement, grant)
        else:
            raise NotAcceptableYet
        await uow.session.flush()
        shown = view(agreement, grant)
        await uow.answer(shown, status=200)
        return shown


async def terminate(
    kernel: Kernel, actor: Actor, agreement_id: UUID, body: TerminationBody
) -> AgreementView:
    """An operator ends access now; money is closed out when the last use is on record.

    Raises RoleRequired (403), AgreementNotFound (404), IllegalTransition (409).
    Effects: grant revoked; used units will be paid, the rest refunded (job ``close_out``).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, agreement_id)
        if AgreementStatus(agreement.status) not in EARNING or agreement.ending is not None:
            raise IllegalTransition(
                f"An agreement that is {agreement.status.value} cannot be terminated.",
                current=agreement.status.value,
            )
        agreement.ending = Ending.TERMINATED
        agreement.ending_reason = body.reason
        await grants.revoke(uow, kernel, agreement_id)
        await uow.session.flush()
        shown = view(agreement, await _grant_of(uow, agreement_id))
        await uow.answer(shown, status=200)
        return shown


async def _grant_of(uow: UnitOfWork, agreement_id: UUID) -> Grant:
    query = (
        select(Grant)
        .where(Grant.agreement_id == agreement_id)
        .execution_options(populate_existing=True)
    )
    return (await uow.session.exec(query)).one()


async def _locked_grant(uow: UnitOfWork, agreement_id: UUID) -> Grant:
    return (await accrual.lock_grants_of(uow, [agreement_id]))[agreement_id]
