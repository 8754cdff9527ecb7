"""Rulings: proposed by the assigned arbiter, approved by a second one above the limit,
accepted or appealed by the parties, executed when final."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from sqlmodel import col, select

from contracts import agreements, arbitration, dispute_closing, dispute_states as machine, evidence
from contracts.agreement_states import AgreementStatus
from contracts.dispute_cases import (
    Docket,
    accepted_by,
    advance,
    amounts_of,
    find,
    lock,
    periods_of,
    side_of,
    view,
)
from contracts.dispute_errors import ArbiterConflict, RulingNotFound
from contracts.dispute_models import (
    Appeal,
    Decision,
    Dispute,
    DisputeOutcome,
    Ruling,
    RulingAcceptance,
    RulingReview,
    RulingSource,
)
from contracts.dispute_schemas import (
    AppealRequest,
    AppealView,
    DisputeView,
    RulingDecision,
    RulingPreview,
    RulingRequest,
    RulingView,
)
from contracts.dispute_states import CLOSED, Case, DisputeStatus
from contracts.models import Agreement
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id, get_parties, related

_STAFF = (Role.OPERATOR, Role.ARBITER, Role.REGULATOR)


async def preview(
    kernel: Kernel, actor: Actor, dispute_id: UUID, *, buyer_ppm: int
) -> RulingPreview:
    """What a ruling would pay, to the minor unit. Changes nothing. Raises DisputeNotFound."""
    async with kernel.unit_of_work() as uow:
        dispute = await find(uow, dispute_id, actor)
        agreement = await _agreement_of(uow, dispute)
        return RulingPreview(
            dispute_id=dispute_id,
            buyer_ppm=buyer_ppm,
            two_person=dispute.two_person,
            amounts=amounts_of(dispute, agreement, buyer_ppm),
        )


async def rule(kernel: Kernel, actor: Actor, dispute_id: UUID, body: RulingRequest) -> RulingView:
    """The assigned arbiter rules: preliminary at first, final on appeal.

    Above the two-person limit it is only a proposal until another arbiter approves. Effects of
    a final ruling: see :func:`contracts.dispute_closing.execute_ruling`. Raises RoleRequired,
    ArbiterNotAssigned, ArbiterConflict (403), DisputeNotFound (404), DisputeStateRefused,
    ProposalPending, DeadlinePassed (409).
    """
    actor.require(Role.ARBITER)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        case = machine.rule(
            docket.case, uow.now, periods_of(kernel.settings), two_person=dispute.two_person
        )
        await arbitration.check_assigned(uow, dispute, actor)
        ruling = Ruling(
            id=new_id(),
            dispute_id=dispute_id,
            round=dispute.round,
            source=RulingSource.ARBITER,
            arbiter_id=actor.party_id,
            buyer_ppm=body.buyer_ppm,
            access=body.access,
            reasons=body.reasons,
            clauses=body.clauses,
            evidence_sha256=await evidence.digest_of(uow, dispute_id),
            needs_approval=dispute.two_person,
            ruled_at=uow.now,
        )
        uow.session.add(ruling)
        await uow.session.flush()
        if case.proposal_pending:
            dispute.proposal_id = ruling.id
            advance(uow, docket, case, kind="ruling_proposed", actor_id=actor.party_id)
        else:
            await put_in_force(uow, kernel, docket, case, ruling, actor_id=actor.party_id)
        answer = await _view(uow, docket.dispute, docket.agreement, ruling)
        location = f"/v1/disputes/{show('dsp', dispute_id)}/rulings"
        await uow.answer(answer, headers={"Location": location})
    return answer


async def put_in_force(
    uow: UnitOfWork,
    kernel: Kernel,
    docket: Docket,
    case: Case,
    ruling: Ruling,
    *,
    actor_id: UUID | None,
) -> DisputeOutcome | None:
    """Make a stored ruling the effective one; execute it if ``case`` is final by it."""
    dispute = docket.dispute
    dispute.proposal_id = None
    dispute.ruling_id = ruling.id
    agreements.move(uow, docket.agreement, AgreementStatus.RULED, reason="ruling")
    if case.status in CLOSED:
        return await dispute_closing.execute_ruling(uow, kernel, docket, case, actor_id=actor_id)
    data: dict[str, object] = {
        "ruling_id": show("rul", ruling.id),
        "source": ruling.source.value,
        "buyer_ppm": ruling.buyer_ppm,
        "access": ruling.access.value,
    }
    advance(uow, docket, case, kind="ruled", actor_id=actor_id, data=data)
    return None


async def review(
    kernel: Kernel, actor: Actor, dispute_id: UUID, ruling_id: UUID, body: RulingDecision
) -> RulingView:
    """A second arbiter approves or rejects a proposal.

    Raises RoleRequired, ArbiterConflict (403: also for the author and relatives of the author),
    DisputeNotFound, RulingNotFound (404), DisputeStateRefused, DeadlinePassed (409).
    """
    actor.require(Role.ARBITER)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        ruling = await uow.session.get(Ruling, ruling_id)
        if ruling is None or ruling.dispute_id != dispute_id:
            raise RulingNotFound(param="ruling_id")
        approves = body.decision is Decision.APPROVE
        step = machine.approve if approves else machine.reject
        case = step(docket.case, uow.now, periods_of(kernel.settings))
        if dispute.proposal_id != ruling_id:
            raise RulingNotFound("This proposal is not under approval.", param="ruling_id")
        await _check_second(uow, dispute, ruling, actor)
        assert ruling.arbiter_id is not None
        uow.session.add(
            RulingReview(
                ruling_id=ruling_id,
                proposed_by=ruling.arbiter_id,
                dispute_id=dispute_id,
                round=ruling.round,
                reviewed_by=actor.party_id,
                decision=body.decision,
                comment=body.comment,
                reviewed_at=uow.now,
            )
        )
        await uow.session.flush()
        if approves:
            await put_in_force(uow, kernel, docket, case, ruling, actor_id=actor.party_id)
        else:
            dispute.proposal_id = None
            advance(uow, docket, case, kind="ruling_rejected", actor_id=actor.party_id)
        answer = await _view(uow, dispute, docket.agreement, ruling)
        await uow.answer(answer, status=200)
    return answer


async def _check_second(uow: UnitOfWork, dispute: Dispute, ruling: Ruling, actor: Actor) -> None:
    author_id = cast(UUID, ruling.arbiter_id)
    people = await get_parties(uow, [actor.party_id, author_id])
    if related(people[actor.party_id], people[author_id]):
        raise ArbiterConflict("A second, independent arbiter decides this.", reason="same_arbiter")
    await arbitration.check_impartial(uow, dispute, actor.party_id)


async def accept(kernel: Kernel, actor: Actor, dispute_id: UUID) -> DisputeView:
    """A party accepts the preliminary ruling; the second acceptance executes it.

    Raises DisputeNotFound (404), WrongSide (403), DisputeStateRefused, RulingAccepted,
    DeadlinePassed (409).
    """
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        case = machine.accept(docket.case, side_of(dispute, actor), uow.now)
        assert dispute.ruling_id is not None
        uow.session.add(
            RulingAcceptance(
                ruling_id=dispute.ruling_id, party_id=actor.party_id, accepted_at=uow.now
            )
        )
        outcome = None
        if case.status is DisputeStatus.FINAL:
            outcome = await dispute_closing.execute_ruling(
                uow, kernel, docket, case, actor_id=actor.party_id
            )
        else:
            advance(uow, docket, case, kind="ruling_accepted", actor_id=actor.party_id)
        answer = view(dispute, outcome)
        await uow.answer(answer, status=200)
    return answer


async def appeal(kernel: Kernel, actor: Actor, dispute_id: UUID, body: AppealRequest) -> AppealView:
    """A party appeals with new evidence; another arbiter decides, finally.

    Raises DisputeNotFound (404), WrongSide (403), DisputeStateRefused, RulingAccepted,
    DeadlinePassed (409), EvidenceInvalid (422: nothing new).
    """
    content = evidence.inline_bytes(body.evidence)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        side = side_of(dispute, actor)
        case = machine.appeal(docket.case, side, uow.now, periods_of(kernel.settings))
        await evidence.require_new(uow, dispute_id, content)
        row = await evidence.append(
            uow, dispute, actor, side, body.evidence, content=content, round_=2
        )
        assert dispute.ruling_id is not None
        appealed = Appeal(
            dispute_id=dispute_id,
            ruling_id=dispute.ruling_id,
            appellant_id=actor.party_id,
            evidence_id=row.id,
            reasons=body.reasons,
            appealed_at=uow.now,
        )
        uow.session.add(appealed)
        agreements.move(uow, docket.agreement, AgreementStatus.DISPUTED, reason="appeal")
        dispute.arbiter_id = None
        dispute.assigned_at = None
        dispute.barred_arbiter_id = None
        data: dict[str, object] = {"evidence_id": show("evd", row.id), "side": side.value}
        advance(uow, docket, case, kind="appealed", actor_id=actor.party_id, data=data)
        answer = AppealView.model_validate(appealed)
        await uow.answer(answer, headers={"Location": f"/v1/disputes/{show('dsp', dispute_id)}"})
    return answer


async def list_rulings(
    kernel: Kernel, actor: Actor, dispute_id: UUID, *, page: PageQuery
) -> Page[RulingView]:
    """Oldest first. The parties see those in force (now or earlier), staff also proposals.

    Raises DisputeNotFound (404), BadCursor (422).
    """
    after = after_id(page)
    query = (
        select(Ruling)
        .where(Ruling.dispute_id == dispute_id)
        .order_by(col(Ruling.id))
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(Ruling.id) > after)
    if not actor.has(*_STAFF):
        approved = select(RulingReview.ruling_id).where(RulingReview.decision == Decision.APPROVE)
        query = query.where((~col(Ruling.needs_approval)) | col(Ruling.id).in_(approved))
    async with kernel.unit_of_work() as uow:
        dispute = await find(uow, dispute_id, actor)
        agreement = await _agreement_of(uow, dispute)
        rows = list(await uow.session.exec(query))
        views = [await _view(uow, dispute, agreement, row) for row in rows]
    return Page[RulingView].of(views, page.limit, [(row.id,) for row in rows])


async def _agreement_of(uow: UnitOfWork, dispute: Dispute) -> Agreement:
    agreement = await uow.session.get(Agreement, dispute.agreement_id)
    assert agreement is not None
    return agreement


async def _view(
    uow: UnitOfWork, dispute: Dispute, agreement: Agreement, ruling: Ruling
) -> RulingView:
    given = await uow.session.get(RulingReview, ruling.id)
    return RulingView(
        id=ruling.id,
        dispute_id=ruling.dispute_id,
        round=ruling.round,
        source=ruling.source,
        arbiter_id=ruling.arbiter_id,
        buyer_ppm=ruling.buyer_ppm,
        access=ruling.access,
        reasons=ruling.reasons,
        clauses=ruling.clauses,
        evidence_sha256=ruling.evidence_sha256,
        needs_approval=ruling.needs_approval,
        decision=None if given is None else given.decision,
        reviewed_by=None if given is None else given.reviewed_by,
        accepted_by=await accepted_by(uow, ruling.id),
        effective=ruling.id == dispute.ruling_id,
        amounts=amounts_of(dispute, agreement, ruling.buyer_ppm),
        ruled_at=ruling.ruled_at,
    )
