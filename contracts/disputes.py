"""Disputes: opening, reading, asking for a ruling, withdrawing.

Opening locks the agreement first, as acceptance and accrual do: whoever is first wins, and a
dispute that comes second has what is left as its object (operations.md §2, row 38).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_
from sqlmodel import col, select

from contracts import agreements, dispute_closing, dispute_states as machine, evidence, grants
from contracts.agreement_states import OPEN_TO_DISPUTE, AgreementStatus
from contracts.dispute_cases import (
    READERS,
    advance,
    find,
    lock,
    note,
    periods_of,
    shares_of,
    side_of,
    view,
)
from contracts.dispute_errors import DisputeExists, DisputeLimit, OpeningWindowClosed
from contracts.dispute_models import Dispute, OutcomeKind
from contracts.dispute_schemas import DisputeRequest, DisputeView, Withdrawal
from contracts.dispute_states import DisputeStatus
from contracts.errors import AgreementNotFound, IllegalTransition
from contracts.models import Agreement
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

# Each opening stops the release of money; nobody may do that for ever.
PER_AGREEMENT_MAX = 3


async def open_dispute(kernel: Kernel, actor: Actor, body: DisputeRequest) -> DisputeView:
    """A party to an agreement disputes it.

    Effects, in one transaction: what is left in escrow is frozen, the grant is suspended, the
    agreement is disputed, the exchange's own evidence is put on file. Raises AgreementNotFound
    (404), IllegalTransition, DisputeExists, OpeningWindowClosed, DisputeLimit (409).
    """
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(Agreement, body.agreement_id)
        if found is None or actor.party_id not in (found.buyer_id, found.seller_id):
            raise AgreementNotFound(param="agreement_id")
        agreement = await agreements.lock_agreement(uow, body.agreement_id)
        await _check_openable(uow, agreement, days=kernel.settings.dispute_opening_days)
        dispute_id = new_id()
        frozen = await dispute_closing.freeze(uow, kernel, dispute_id, agreement.id)
        dispute = _new(kernel, uow.now, actor, body, agreement, dispute_id, frozen_minor=frozen)
        uow.session.add(dispute)
        await uow.session.flush()
        agreements.move(
            uow, agreement, AgreementStatus.DISPUTED, reason=f"dispute: {body.reason.value}"
        )
        grant = await dispute_closing.grant_of(uow, agreement.id)
        await evidence.attach_system(uow, dispute, agreement, grant)
        data = {"reason": body.reason.value, "frozen_minor": frozen, "currency": dispute.currency}
        note(uow, dispute, kind="opened", actor_id=actor.party_id, data=data)
        answer = view(dispute)
        location = {"Location": f"/v1/disputes/{show('dsp', dispute_id)}"}
        await uow.answer(answer, headers=location)
    return answer


async def _check_openable(uow: UnitOfWork, agreement: Agreement, *, days: int) -> None:
    query = select(func.count(), func.count().filter(col(Dispute.closed_at).is_(None))).where(
        Dispute.agreement_id == agreement.id
    )
    total, active = (await uow.session.exec(query)).one()
    if active:
        raise DisputeExists
    if agreement.status not in OPEN_TO_DISPUTE:
        raise IllegalTransition(
            f"An agreement that is {agreement.status.value} cannot be disputed.",
            current=agreement.status.value,
        )
    if total >= PER_AGREEMENT_MAX:
        raise DisputeLimit(f"An agreement can be disputed {PER_AGREEMENT_MAX} times.")
    since = agreement.delivered_at or agreement.accepted_at
    if since is not None and uow.now >= since + timedelta(days=days):
        raise OpeningWindowClosed(
            f"A dispute can be opened within {days} days of delivery.",
            closed_at=since + timedelta(days=days),
        )


def _new(
    kernel: Kernel,
    now: datetime,
    actor: Actor,
    body: DisputeRequest,
    agreement: Agreement,
    dispute_id: UUID,
    *,
    frozen_minor: int,
) -> Dispute:
    by_buyer = actor.party_id == agreement.buyer_id
    case = machine.opened(now, periods_of(kernel.settings), escalate_on_expiry=body.claim.escalate)
    contributors = [party for party, _ in shares_of(agreement)]
    parties = [agreement.buyer_id, agreement.seller_id]
    return Dispute(
        id=dispute_id,
        agreement_id=agreement.id,
        buyer_id=agreement.buyer_id,
        seller_id=agreement.seller_id,
        claimant_id=actor.party_id,
        respondent_id=agreement.seller_id if by_buyer else agreement.buyer_id,
        interested=list(dict.fromkeys([*parties, *contributors])),
        currency=agreement.currency,
        frozen_minor=frozen_minor,
        two_person=frozen_minor > kernel.settings.ruling_two_person_minor,
        reason=body.reason,
        claim_statement=body.claim.statement,
        claim_buyer_ppm=body.claim.buyer_ppm,
        claim_access=body.claim.access,
        escalate_on_expiry=case.escalate_on_expiry,
        opened_at=now,
        status=case.status,
        round=case.round,
        deadline_at=case.deadline_at,
        turn=case.turn,
        updated_at=now,
    )


async def get_dispute(kernel: Kernel, actor: Actor, dispute_id: UUID) -> DisputeView:
    """One dispute, with its outcome when closed. Raises DisputeNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        dispute = await find(uow, dispute_id, actor)
        return view(dispute, await dispute_closing.outcome_of(uow, dispute_id))


async def list_disputes(
    kernel: Kernel,
    actor: Actor,
    *,
    page: PageQuery,
    status: DisputeStatus | None = None,
    agreement_id: UUID | None = None,
) -> Page[DisputeView]:
    """The actor's disputes, newest first; staff see all. Raises BadCursor (422)."""
    query = select(Dispute).order_by(col(Dispute.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(Dispute.id) < after)
    if status is not None:
        query = query.where(Dispute.status == status)
    if agreement_id is not None:
        query = query.where(Dispute.agreement_id == agreement_id)
    if not actor.has(*READERS):
        own = actor.party_id
        query = query.where(or_(col(Dispute.claimant_id) == own, col(Dispute.respondent_id) == own))
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
    return Page[DisputeView].of([view(row) for row in rows], page.limit, [(r.id,) for r in rows])


async def escalate(kernel: Kernel, actor: Actor, dispute_id: UUID) -> DisputeView:
    """The claimant ends the negotiation; both sides now put their evidence on file.

    Raises DisputeNotFound (404), WrongSide (403), DisputeStateRefused, DeadlinePassed (409).
    """
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        side = side_of(docket.dispute, actor)
        case = machine.escalate(docket.case, side, uow.now, periods_of(kernel.settings))
        advance(uow, docket, case, kind="escalated", actor_id=actor.party_id)
        answer = view(docket.dispute)
        await uow.answer(answer, status=200)
    return answer


async def withdraw(kernel: Kernel, actor: Actor, dispute_id: UUID, body: Withdrawal) -> DisputeView:
    """The claimant gives up: money back to escrow, access and agreement as before.

    Raises DisputeNotFound (404), WrongSide (403), DisputeStateRefused, ProposalPending,
    DeadlinePassed (409).
    """
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        side = side_of(docket.dispute, actor)
        case = machine.withdraw(docket.case, side, uow.now)
        outcome = await dispute_closing.restore(
            uow,
            kernel,
            docket,
            case,
            kind=OutcomeKind.WITHDRAWN,
            actor_id=actor.party_id,
            reason=body.reason or "dispute withdrawn",
        )
        answer = view(docket.dispute, outcome)
        await uow.answer(answer, status=200)
    return answer
