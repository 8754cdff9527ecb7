"""Agreements under lock: reading them and moving them through their states.

Locks: agreement before grant before lease; several agreements in id order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlmodel import col, select

from contracts.agreement_states import CLOSED, AgreementStatus, check_move
from contracts.errors import AgreementNotFound
from contracts.models import Agreement, AgreementStep
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Actor, Role

READERS = (Role.OPERATOR, Role.ARBITER, Role.REGULATOR)


async def get_agreement(uow: UnitOfWork, agreement_id: UUID, actor: Actor) -> Agreement:
    """One agreement. Raises AgreementNotFound also for those who may not see it."""
    found = await uow.session.get(Agreement, agreement_id)
    if found is None or not may_read(found, actor):
        raise AgreementNotFound(param="agreement_id")
    return found


def may_read(agreement: Agreement, actor: Actor) -> bool:
    """Both parties, operators, arbiters and regulators."""
    return actor.party_id in (agreement.buyer_id, agreement.seller_id) or actor.has(*READERS)


async def lock_agreement(uow: UnitOfWork, agreement_id: UUID) -> Agreement:
    """The agreement, locked until commit. Raises AgreementNotFound."""
    found = (await lock_agreements(uow, [agreement_id])).get(agreement_id)
    if found is None:
        raise AgreementNotFound(param="agreement_id")
    return found


async def lock_agreements(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, Agreement]:
    """Agreements by id, locked in id order until commit; unknown ids are left out."""
    query = (
        select(Agreement)
        .where(col(Agreement.id).in_(list(ids)))
        .order_by(col(Agreement.id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {agreement.id: agreement for agreement in await uow.session.exec(query)}


def move(uow: UnitOfWork, agreement: Agreement, target: AgreementStatus, *, reason: str) -> None:
    """Change the status of a locked agreement, with its history row and event.

    Raises IllegalTransition (409) when the table of ``agreement_states`` does not allow it.
    """
    check_move(AgreementStatus(agreement.status), target)
    agreement.status = target
    stamp(agreement, target, uow.now)
    uow.session.add(
        AgreementStep(
            id=new_id(), agreement_id=agreement.id, status=target, reason=reason, at=uow.now
        )
    )
    uow.emit(
        f"agreement.{target.value}",
        agreement.id,
        {"agreement_id": show("agr", agreement.id), "status": target.value, "reason": reason},
        parties=[agreement.buyer_id, agreement.seller_id],
    )


def stamp(agreement: Agreement, target: AgreementStatus, now: datetime) -> None:
    """Set the time column that belongs to ``target``."""
    if target is AgreementStatus.DELIVERED and agreement.delivered_at is None:
        agreement.delivered_at = now
    if target is AgreementStatus.ACCEPTED and agreement.accepted_at is None:
        agreement.accepted_at = now
    if target in CLOSED:
        agreement.closed_at = now


def resume_status(agreement: Agreement) -> AgreementStatus:
    """Where a withdrawn objection or dispute leads back to."""
    if agreement.accepted_at is not None:
        return AgreementStatus.ACCEPTED
    if agreement.delivered_at is not None:
        return AgreementStatus.DELIVERED
    return AgreementStatus.ACTIVE


def freeze_rest(agreement: Agreement, amount_minor: int) -> None:
    """Note that a dispute froze ``amount_minor`` of the escrow of a locked agreement.

    The caller moves the money (``settlement.escrow.freeze``) in the same unit of work. Money
    that has been frozen counts as having left escrow, so that accrual never releases it.
    """
    assert 0 <= amount_minor <= agreement.escrow_minor
    agreement.disputed_minor += amount_minor


def thaw_rest(agreement: Agreement, amount_minor: int) -> None:
    """Reverse of :func:`freeze_rest`, when a withdrawn dispute returns money to escrow."""
    assert 0 <= amount_minor <= agreement.disputed_minor
    agreement.disputed_minor -= amount_minor
