"""Status steps and their append-only record: who changed what, when and why."""

from uuid import UUID

from sqlmodel import col, select

from listings.lifecycle import Action, ListingStatus, ProductStatus, VersionStatus
from listings.models import Listing, Product, ProductVersion, ReviewDecision
from listings.schemas import DecisionView, SubjectKind
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.security import Actor

# Steps per object are few; a page of them is all of them in practice.
DECISIONS_MAX = 200


def step(
    uow: UnitOfWork,
    actor: Actor,
    kind: SubjectKind,
    subject: Product | ProductVersion | Listing,
    action: Action,
    *,
    target: ProductStatus | VersionStatus | ListingStatus,
    reason: str | None = None,
) -> None:
    """Move ``subject`` to ``target`` (already found legal by `lifecycle.advance`), on record."""
    uow.session.add(
        ReviewDecision(
            id=new_id(),
            kind=kind.value,
            subject_id=subject.id,
            action=action.value,
            from_status=subject.status,
            to_status=target.value,
            actor_id=actor.party_id,
            reason=reason,
            at=uow.now,
        )
    )
    subject.status = target.value
    subject.status_reason = reason


async def history(uow: UnitOfWork, subject_id: UUID) -> list[DecisionView]:
    """The steps of one object, oldest first."""
    statement = (
        select(ReviewDecision)
        .where(ReviewDecision.subject_id == subject_id)
        .order_by(col(ReviewDecision.id))
        .limit(DECISIONS_MAX)
    )
    return [DecisionView.model_validate(row) for row in await uow.session.exec(statement)]
