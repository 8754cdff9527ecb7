"""Arbitration: the queue by time left, taking and leaving a case, and who is impartial.

Impartial is who is related (same party or affiliate group) neither to a party nor to a
contributor, and on appeal also not to those who made the first ruling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, tuple_
from sqlmodel import col, select

from contracts import dispute_states as machine
from contracts.dispute_cases import advance, lock, note, view
from contracts.dispute_errors import (
    ArbiterConflict,
    ArbiterNotAssigned,
    DisputeAssigned,
    NotAnArbiter,
)
from contracts.dispute_models import Dispute, Evidence, Reason, Ruling, RulingReview
from contracts.dispute_schemas import Assignment, DisputeView, QueueItem, Recusal
from contracts.dispute_states import ACTIVE, IN_REVIEW, DisputeStatus
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import get_parties, get_party, related
from market.parties.models import Party, PartyStatus


class Taken(StrEnum):
    """Filter of the queue by assignment, seen from the caller."""

    ANY = "any"
    MINE = "mine"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """What to show of the queue; without statuses, what arbiters have to decide now."""

    statuses: frozenset[DisputeStatus] = IN_REVIEW
    taken: Taken = Taken.ANY
    reason: Reason | None = None
    currency: str | None = None
    escalated: bool | None = None


def _conflicted(people: Mapping[UUID, Party], arbiter_id: UUID, others: Sequence[UUID]) -> bool:
    arbiter = people.get(arbiter_id)
    if arbiter is None:
        return True
    return any(related(arbiter, people[other]) for other in others if other in people)


async def check_unrelated(uow: UnitOfWork, dispute: Dispute, arbiter_id: UUID) -> None:
    """Raises ArbiterConflict (403) for relatives of a party or contributor."""
    people = await get_parties(uow, [arbiter_id, *dispute.interested])
    if _conflicted(people, arbiter_id, dispute.interested):
        raise ArbiterConflict(
            "Your organization is related to a party or contributor of this dispute.",
            reason="related_party",
        )


async def check_impartial(uow: UnitOfWork, dispute: Dispute, arbiter_id: UUID) -> None:
    """Raises ArbiterConflict (403) for relatives, and on appeal for the first round's arbiters."""
    await check_unrelated(uow, dispute, arbiter_id)
    if dispute.round < 2:
        return
    former = await _first_round(uow, dispute.id)
    people = await get_parties(uow, [arbiter_id, *former])
    if _conflicted(people, arbiter_id, former):
        raise ArbiterConflict(
            "An appeal is decided by other arbiters than the first ruling.",
            reason="former_arbiter",
        )


async def _first_round(uow: UnitOfWork, dispute_id: UUID) -> list[UUID]:
    """Everybody who proposed, approved or rejected a ruling of the first round."""
    authors = await uow.session.exec(
        select(Ruling.arbiter_id).where(Ruling.dispute_id == dispute_id, Ruling.round == 1)
    )
    reviewers = await uow.session.exec(
        select(RulingReview.reviewed_by).where(
            RulingReview.dispute_id == dispute_id, RulingReview.round == 1
        )
    )
    return sorted({found for found in [*authors, *reviewers] if found is not None})


async def check_assigned(uow: UnitOfWork, dispute: Dispute, actor: Actor) -> None:
    """Raises ArbiterNotAssigned, or ArbiterConflict when one arose since the assignment (403)."""
    if dispute.arbiter_id != actor.party_id:
        raise ArbiterNotAssigned
    await check_impartial(uow, dispute, actor.party_id)


async def assign(kernel: Kernel, actor: Actor, dispute_id: UUID, body: Assignment) -> DisputeView:
    """An arbiter takes a case, or an operator gives it to one (also from another arbiter).

    Raises RoleRequired, ArbiterConflict (403), DisputeNotFound, PartyNotFound (404),
    DisputeAssigned, DisputeStateRefused, ProposalPending, DeadlinePassed (409), NotAnArbiter (422).
    """
    actor.require(Role.ARBITER, Role.OPERATOR)
    by_operator = body.arbiter_id not in (None, actor.party_id)
    if by_operator:
        actor.require(Role.OPERATOR)
    arbiter_id = body.arbiter_id or actor.party_id
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        machine.check_review(docket.case, uow.now)
        await _check_arbiter(uow, arbiter_id)
        if dispute.arbiter_id == arbiter_id:
            raise DisputeAssigned("The dispute is assigned to this arbiter already.")
        if dispute.arbiter_id is not None and not by_operator:
            raise DisputeAssigned
        await check_impartial(uow, dispute, arbiter_id)
        if dispute.barred_arbiter_id == arbiter_id and not by_operator:
            raise ArbiterConflict(
                "You had this case when its review time ran out; another arbiter takes it now.",
                reason="same_arbiter",
            )
        dispute.arbiter_id = arbiter_id
        dispute.assigned_at = uow.now
        data = {"arbiter_id": show("pty", arbiter_id)}
        note(uow, dispute, kind="assigned", actor_id=actor.party_id, data=data)
        answer = view(dispute)
        await uow.answer(answer, status=200)
    return answer


async def _check_arbiter(uow: UnitOfWork, arbiter_id: UUID) -> None:
    arbiter = await get_party(uow, arbiter_id)
    if Role.ARBITER not in arbiter.role_set or arbiter.status is PartyStatus.SUSPENDED:
        raise NotAnArbiter(param="arbiter_id")


async def recuse(kernel: Kernel, actor: Actor, dispute_id: UUID, body: Recusal) -> DisputeView:
    """The assigned arbiter gives the case back to the queue, and does not take it again.

    Raises RoleRequired, ArbiterNotAssigned (403), DisputeNotFound (404), DisputeStateRefused,
    ProposalPending, DeadlinePassed (409).
    """
    actor.require(Role.ARBITER)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        machine.check_review(docket.case, uow.now)
        if dispute.arbiter_id != actor.party_id:
            raise ArbiterNotAssigned
        release(dispute)
        data = {"reason": body.reason}
        advance(uow, docket, docket.case, kind="recused", actor_id=actor.party_id, data=data)
        answer = view(dispute)
        await uow.answer(answer, status=200)
    return answer


def release(dispute: Dispute) -> None:
    """Take the case from its arbiter, who cannot claim it again at once."""
    if dispute.arbiter_id is not None:
        dispute.barred_arbiter_id = dispute.arbiter_id
    dispute.arbiter_id = None
    dispute.assigned_at = None


async def queue(
    kernel: Kernel, actor: Actor, wanted: QueueFilter, *, page: PageQuery
) -> Page[QueueItem]:
    """Active disputes, least time left first. Raises RoleRequired (403), BadCursor (422)."""
    actor.require(Role.ARBITER, Role.OPERATOR, Role.REGULATOR)
    query = _queue_query(wanted, actor, page)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
        people = await get_parties(
            uow, [actor.party_id, *(party for row in rows for party in row.interested)]
        )
        counts = await _evidence_counts(uow, [row.id for row in rows])
        items = [
            QueueItem(
                dispute=view(row),
                seconds_left=_seconds_left(row, uow.now),
                evidence_count=counts.get(row.id, 0),
                conflict=actor.has(Role.ARBITER)
                and _conflicted(people, actor.party_id, row.interested),
            )
            for row in rows
        ]
    cursors = [(row.deadline_at and row.deadline_at.isoformat(), row.id) for row in rows]
    return Page[QueueItem].of(items, page.limit, cursors)


def _queue_query(wanted: QueueFilter, actor: Actor, page: PageQuery) -> Any:
    query = (
        select(Dispute)
        .where(
            col(Dispute.closed_at).is_(None),
            col(Dispute.status).in_(sorted(wanted.statuses & ACTIVE)),
        )
        .order_by(col(Dispute.deadline_at), col(Dispute.id))
        .limit(page.limit + 1)
    )
    key = page.key(2)
    if key is not None:
        try:
            after = (datetime.fromisoformat(key[0]), UUID(key[1]))
        except ValueError as error:
            raise BadCursor(param="after") from error
        if after[0].tzinfo is None:
            raise BadCursor(param="after")
        query = query.where(tuple_(col(Dispute.deadline_at), col(Dispute.id)) > after)
    if wanted.taken is Taken.MINE:
        query = query.where(col(Dispute.arbiter_id) == actor.party_id)
    if wanted.taken is Taken.NOBODY:
        query = query.where(col(Dispute.arbiter_id).is_(None))
    if wanted.reason is not None:
        query = query.where(col(Dispute.reason) == wanted.reason)
    if wanted.currency is not None:
        query = query.where(col(Dispute.currency) == wanted.currency)
    if wanted.escalated is not None:
        escalated = col(Dispute.escalations) > 0
        query = query.where(escalated if wanted.escalated else ~escalated)
    return query


async def _evidence_counts(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, int]:
    query = (
        select(Evidence.dispute_id, func.count())
        .where(col(Evidence.dispute_id).in_(list(ids)))
        .group_by(col(Evidence.dispute_id))
    )
    return {dispute_id: int(count) for dispute_id, count in await uow.session.exec(query)}


def _seconds_left(dispute: Dispute, now: datetime) -> int:
    assert dispute.deadline_at is not None
    return int((dispute.deadline_at - now).total_seconds())
