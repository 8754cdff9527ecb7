"""Partial releases and refunds by mutual agreement: one party proposes, the other accepts.

Only escrow moves, and only while the agreement earns. Of a metered agreement units stay owed for
what is refunded, so there only a release is possible: use catches up with it before it earns
again, and what is never used is no longer refunded.
"""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, func, select

from contracts import accrual, releases
from contracts.agreement_states import EARNING, AgreementStatus
from contracts.agreements import get_agreement, lock_agreement
from contracts.billing_models import Adjustment, AdjustmentStatus, ReleaseRecord
from contracts.billing_schemas import AdjustmentInput, AdjustmentView, ReleaseView
from contracts.errors import (
    AdjustmentExceedsEscrow,
    AdjustmentNotFound,
    AdjustmentOpen,
    AdjustmentRefused,
    AgreementNotFound,
    IllegalTransition,
)
from contracts.models import Agreement, PlanKind
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

PROPOSALS_MAX = 200


async def propose(
    kernel: Kernel, actor: Actor, agreement_id: UUID, body: AdjustmentInput
) -> AdjustmentView:
    """Propose an adjustment to the other party. Effect: event ``agreement.adjustment_proposed``.

    Raises AgreementNotFound (404), IllegalTransition, AdjustmentOpen, AdjustmentExceedsEscrow or
    AdjustmentRefused (409).
    """
    async with kernel.unit_of_work() as uow:
        agreement = await _locked(uow, actor, agreement_id)
        _check(agreement, body.release_minor, body.refund_minor)
        rows = await uow.session.exec(
            select(
                func.count(), func.count().filter(col(Adjustment.status) == AdjustmentStatus.OPEN)
            ).where(Adjustment.agreement_id == agreement_id)
        )
        known, waiting = rows.one()
        if waiting:
            raise AdjustmentOpen
        if known >= PROPOSALS_MAX:
            raise AdjustmentRefused(f"At most {PROPOSALS_MAX} proposals to an agreement.")
        made = Adjustment(
            agreement_id=agreement_id,
            number=known + 1,
            proposed_by=actor.party_id,
            release_minor=body.release_minor,
            refund_minor=body.refund_minor,
            reason=body.reason,
            status=AdjustmentStatus.OPEN,
            created_at=uow.now,
        )
        uow.session.add(made)
        _announce(uow, agreement, made, "proposed")
        view = AdjustmentView.model_validate(made)
        await uow.answer(view)
        return view


async def answer(
    kernel: Kernel, actor: Actor, agreement_id: UUID, number: int, status: AdjustmentStatus
) -> AdjustmentView:
    """Accept or decline (the other party) or withdraw (the proposer) an open adjustment.

    Accepting moves the money at once; a license with nothing left in escrow is accepted by it
    and settles. Raises AgreementNotFound, AdjustmentNotFound (404), also for one that is answered
    or not this party's to answer; IllegalTransition or AdjustmentExceedsEscrow (409).
    """
    async with kernel.unit_of_work() as uow:
        agreement = await _locked(uow, actor, agreement_id)
        found = await uow.session.get(Adjustment, (agreement_id, number))
        mine = found is not None and found.proposed_by == actor.party_id
        if (
            found is None
            or found.status != AdjustmentStatus.OPEN
            or mine != (status is AdjustmentStatus.WITHDRAWN)
        ):
            raise AdjustmentNotFound(param="number")
        found.status = status
        found.answered_at = uow.now
        if status is AdjustmentStatus.ACCEPTED:
            await _carry_out(uow, agreement, found)
        _announce(uow, agreement, found, status.value)
        await uow.session.flush()
        view = AdjustmentView.model_validate(found)
        await uow.answer(view, status=200)
        return view


async def list_adjustments(
    kernel: Kernel, actor: Actor, agreement_id: UUID, page: PageQuery
) -> Page[AdjustmentView]:
    """Proposals of an agreement, oldest first. Raises AgreementNotFound, BadCursor."""
    key = page.key(1)
    if key is not None and not (key[0].isascii() and key[0].isdigit() and len(key[0]) < 10):
        raise BadCursor(param="after")
    query = (
        select(Adjustment)
        .where(Adjustment.agreement_id == agreement_id)
        .order_by(col(Adjustment.number))
        .limit(page.limit + 1)
    )
    if key is not None:
        query = query.where(col(Adjustment.number) > int(key[0]))
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        views = [AdjustmentView.model_validate(row) for row in await uow.session.exec(query)]
    return Page[AdjustmentView].of(views, page.limit, [(view.number,) for view in views])


async def list_releases(
    kernel: Kernel, actor: Actor, agreement_id: UUID, page: PageQuery
) -> Page[ReleaseView]:
    """What was released of an agreement, oldest first. Raises AgreementNotFound, BadCursor."""
    after = after_id(page)
    query = (
        select(ReleaseRecord)
        .where(ReleaseRecord.agreement_id == agreement_id)
        .order_by(col(ReleaseRecord.id))
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(ReleaseRecord.id) > after)
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        rows = list(await uow.session.exec(query))
    views = [
        ReleaseView(**{name: getattr(row, name) for name in ReleaseView.model_fields})
        for row in rows
    ]
    return Page[ReleaseView].of(views, page.limit, [(row.id,) for row in rows])


async def _locked(uow: UnitOfWork, actor: Actor, agreement_id: UUID) -> Agreement:
    agreement = await lock_agreement(uow, agreement_id)
    if actor.party_id not in (agreement.buyer_id, agreement.seller_id):
        raise AgreementNotFound(param="agreement_id")
    return agreement


def _check(agreement: Agreement, release_minor: int, refund_minor: int) -> None:
    if AgreementStatus(agreement.status) not in EARNING or agreement.ending is not None:
        raise IllegalTransition(
            f"The money of an agreement that is {agreement.status} cannot be adjusted.",
            current=str(agreement.status),
        )
    if refund_minor and agreement.kind == PlanKind.METERED:
        raise AdjustmentRefused(
            "Metered units are refunded when the agreement ends.", param="refund_minor"
        )
    if release_minor + refund_minor > agreement.escrow_minor:
        raise AdjustmentExceedsEscrow(escrow_minor=agreement.escrow_minor)


async def _carry_out(uow: UnitOfWork, agreement: Agreement, found: Adjustment) -> None:
    _check(agreement, found.release_minor, found.refund_minor)
    grant = (await accrual.lock_grants_of(uow, [agreement.id]))[agreement.id]
    await releases.pay(
        uow,
        agreement,
        found.release_minor,
        key=f"adjustment:{found.number}",
        refund_minor=found.refund_minor,
    )
    if agreement.kind == PlanKind.LICENSE and agreement.escrow_minor == 0:
        await accrual.accept(uow, agreement, grant, reason="adjusted by both parties")


def _announce(uow: UnitOfWork, agreement: Agreement, found: Adjustment, step: str) -> None:
    uow.emit(
        f"agreement.adjustment_{step}",
        agreement.id,
        {
            "agreement_id": show("agr", agreement.id),
            "number": found.number,
            "release_minor": found.release_minor,
            "refund_minor": found.refund_minor,
        },
        parties=[agreement.buyer_id, agreement.seller_id],
    )
