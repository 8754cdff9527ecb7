"""Cases under lock: who may see one, loading it, moving it, its timeline and its API shape.

Locks: agreement, then dispute, then grant, then ledger accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlmodel import col, select

from contracts import agreements
from contracts.dispute_errors import DisputeNotFound, WrongSide
from contracts.dispute_models import Dispute, DisputeOutcome, DisputeStep, RulingAcceptance
from contracts.dispute_schemas import (
    Amounts,
    ClaimView,
    DisputeView,
    Frozen,
    OutcomeView,
    SharePayment,
    StepView,
)
from contracts.dispute_states import CLOSED, Case, DisputeStatus, Periods, Side, Turn
from contracts.models import Agreement
from contracts.releases import split_terms
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.money import PPM, split
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.kernel.settings import Settings
from settlement.split import SplitTerms, increment

READERS = (Role.OPERATOR, Role.ARBITER, Role.REGULATOR)


@dataclass(slots=True)
class Docket:
    """A locked dispute with its locked agreement. ``case`` is the machine's view of it."""

    dispute: Dispute
    agreement: Agreement
    case: Case


def periods_of(settings: Settings) -> Periods:
    """The configured length of each stage."""
    return Periods(
        negotiation=timedelta(days=settings.dispute_negotiation_days),
        evidence=timedelta(days=settings.dispute_evidence_days),
        rebuttal=timedelta(days=settings.dispute_rebuttal_days),
        review=timedelta(days=settings.dispute_review_days),
        appeal=timedelta(days=settings.dispute_appeal_days),
        appeal_review=timedelta(days=settings.dispute_appeal_review_days),
    )


def may_read(dispute: Dispute, actor: Actor) -> bool:
    """Both parties, operators, arbiters and regulators."""
    return is_party(dispute, actor) or actor.has(*READERS)


def is_party(dispute: Dispute, actor: Actor) -> bool:
    """Whether the actor is one of the two sides."""
    return actor.party_id in (dispute.claimant_id, dispute.respondent_id)


def side_of(dispute: Dispute, actor: Actor) -> Side:
    """The actor's side. Raises WrongSide (403) for readers who are none."""
    if actor.party_id == dispute.claimant_id:
        return Side.CLAIMANT
    if actor.party_id == dispute.respondent_id:
        return Side.RESPONDENT
    raise WrongSide("Only the two parties of the dispute can do this.")


async def find(uow: UnitOfWork, dispute_id: UUID, actor: Actor) -> Dispute:
    """One dispute, unlocked. Raises DisputeNotFound also for those who may not see it."""
    dispute = await uow.session.get(Dispute, dispute_id)
    if dispute is None or not may_read(dispute, actor):
        raise DisputeNotFound(param="dispute_id")
    return dispute


async def lock(uow: UnitOfWork, dispute_id: UUID, actor: Actor) -> Docket:
    """A dispute and its agreement, locked until commit. Raises DisputeNotFound."""
    await find(uow, dispute_id, actor)
    return await lock_docket(uow, dispute_id)


async def lock_docket(uow: UnitOfWork, dispute_id: UUID) -> Docket:
    """As :func:`lock`, for the exchange itself. Raises DisputeNotFound."""
    found = await uow.session.get(Dispute, dispute_id)
    if found is None:
        raise DisputeNotFound(param="dispute_id")
    agreement = await agreements.lock_agreement(uow, found.agreement_id)
    query = (
        select(Dispute)
        .where(Dispute.id == dispute_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    dispute = (await uow.session.exec(query)).one()
    return Docket(dispute, agreement, await _case_of(uow, dispute))


async def _case_of(uow: UnitOfWork, dispute: Dispute) -> Case:
    accepted: frozenset[Side] = frozenset()
    if dispute.status is DisputeStatus.RULED and dispute.ruling_id is not None:
        parties = await accepted_by(uow, dispute.ruling_id)
        accepted = frozenset(
            Side.CLAIMANT if party == dispute.claimant_id else Side.RESPONDENT for party in parties
        )
    return Case(
        status=dispute.status,
        deadline_at=dispute.deadline_at,
        round=dispute.round,
        turn=dispute.turn,
        evidence_until=dispute.evidence_until,
        evidence_requests=dispute.evidence_requests,
        respondent_answered=dispute.respondent_answered,
        escalate_on_expiry=dispute.escalate_on_expiry,
        proposal_pending=dispute.proposal_id is not None,
        accepted=accepted,
        escalations=dispute.escalations,
    )


async def accepted_by(uow: UnitOfWork, ruling_id: UUID) -> list[UUID]:
    """The parties that accepted a ruling, first one first."""
    query = (
        select(RulingAcceptance.party_id)
        .where(RulingAcceptance.ruling_id == ruling_id)
        .order_by(col(RulingAcceptance.accepted_at), col(RulingAcceptance.party_id))
    )
    return list(await uow.session.exec(query))


def advance(
    uow: UnitOfWork,
    docket: Docket,
    case: Case,
    *,
    kind: str,
    actor_id: UUID | None,
    data: Mapping[str, object] | None = None,
) -> None:
    """Write the machine's new view into the locked row, with its timeline entry and event.

    ``proposal_id`` and ``ruling_id`` are the caller's to set; they must agree with ``case``.
    """
    dispute = docket.dispute
    docket.case = case
    dispute.status = case.status
    dispute.round = case.round
    dispute.deadline_at = case.deadline_at
    dispute.turn = case.turn
    dispute.evidence_until = case.evidence_until
    dispute.evidence_requests = case.evidence_requests
    dispute.respondent_answered = case.respondent_answered
    dispute.escalations = case.escalations
    if case.status in CLOSED:
        dispute.closed_at = uow.now
    assert case.proposal_pending == (dispute.proposal_id is not None)
    note(uow, dispute, kind=kind, actor_id=actor_id, data=data)


def note(
    uow: UnitOfWork,
    dispute: Dispute,
    *,
    kind: str,
    actor_id: UUID | None,
    data: Mapping[str, object] | None = None,
) -> None:
    """A timeline entry and its event (``dispute.<kind>``) to both parties."""
    dispute.updated_at = uow.now
    facts = dict(data or {})
    uow.session.add(
        DisputeStep(
            dispute_id=dispute.id,
            kind=kind,
            actor_id=actor_id,
            status=dispute.status,
            data=facts,
            at=uow.now,
        )
    )
    uow.emit(
        f"dispute.{kind}",
        dispute.id,
        {
            "dispute_id": show("dsp", dispute.id),
            "agreement_id": show("agr", dispute.agreement_id),
            "status": dispute.status.value,
            **facts,
        },
        parties=[dispute.buyer_id, dispute.seller_id],
    )


def shares_of(agreement: Agreement) -> tuple[tuple[UUID, int], ...]:
    """Parts frozen in the terms, an intermediary's first: (party, ppm of the seller's net)."""
    return split_terms(agreement).shares


def amounts_of(dispute: Dispute, agreement: Agreement, buyer_ppm: int) -> Amounts:
    """What ``settlement.escrow.apply_ruling`` will pay of the frozen money. No effect."""
    return divide(
        dispute.frozen_minor,
        buyer_ppm,
        currency=dispute.currency,
        terms=split_terms(agreement),
        released_before=agreement.released_minor,
    )


def divide(
    frozen_minor: int, buyer_ppm: int, *, currency: str, terms: SplitTerms, released_before: int
) -> Amounts:
    """Divide frozen minor units; the parts are not negative and sum to them exactly. Pure.

    The buyer's part is rounded by largest remainder; the rest is a release of the agreement,
    rounded together with the ``released_before`` of all earlier ones (settlement.split).
    """
    buyer, rest = split(frozen_minor, (buyer_ppm, PPM - buyer_ppm))
    parts = increment(released_before, rest, terms)
    return Amounts(
        currency=currency,
        frozen_minor=frozen_minor,
        buyer_minor=buyer,
        fee_minor=parts.fee,
        shares=[
            SharePayment(party_id=party, amount_minor=amount)
            for (party, _), amount in zip(terms.shares, parts.shares, strict=True)
        ],
        seller_minor=parts.seller,
    )


def view(dispute: Dispute, outcome: DisputeOutcome | None = None) -> DisputeView:
    """The API shape of a dispute."""
    until = dispute.evidence_until or dispute.deadline_at
    return DisputeView(
        id=dispute.id,
        agreement_id=dispute.agreement_id,
        status=dispute.status,
        round=dispute.round,
        deadline_at=dispute.deadline_at,
        turn=dispute.turn,
        evidence_until=None if dispute.turn is Turn.NONE else until,
        reason=dispute.reason,
        claim=ClaimView(
            statement=dispute.claim_statement,
            buyer_ppm=dispute.claim_buyer_ppm,
            access=dispute.claim_access,
            escalate=dispute.escalate_on_expiry,
        ),
        claimant_id=dispute.claimant_id,
        respondent_id=dispute.respondent_id,
        buyer_id=dispute.buyer_id,
        seller_id=dispute.seller_id,
        frozen=Frozen(amount_minor=dispute.frozen_minor, currency=dispute.currency),
        two_person=dispute.two_person,
        ruling_pending=dispute.proposal_id is not None,
        arbiter_id=dispute.arbiter_id,
        escalations=dispute.escalations,
        ruling_id=dispute.ruling_id,
        opened_at=dispute.opened_at,
        updated_at=dispute.updated_at,
        closed_at=dispute.closed_at,
        outcome=None if outcome is None else outcome_view(outcome),
    )


def outcome_view(outcome: DisputeOutcome) -> OutcomeView:
    """The API shape of an outcome."""
    stored = dict(outcome.amounts)
    return OutcomeView(
        kind=outcome.kind,
        ruling_id=outcome.ruling_id,
        offer_number=outcome.offer_number,
        transfer_id=stored.pop("transfer_id", None),
        amounts=Amounts.model_validate(stored),
        jws=outcome.jws,
        closed_at=outcome.closed_at,
    )


async def list_steps(
    kernel: Kernel, actor: Actor, dispute_id: UUID, *, page: PageQuery
) -> Page[StepView]:
    """The timeline, oldest first. Raises DisputeNotFound, BadCursor."""
    key = page.key(1)
    query = (
        select(DisputeStep)
        .where(DisputeStep.dispute_id == dispute_id)
        .order_by(col(DisputeStep.seq))
        .limit(page.limit + 1)
    )
    if key is not None:
        query = query.where(col(DisputeStep.seq) > number_of(key[0]))
    async with kernel.unit_of_work() as uow:
        await find(uow, dispute_id, actor)
        rows = list(await uow.session.exec(query))
        return Page[StepView].of(
            [StepView.model_validate(row) for row in rows],
            page.limit,
            [(row.seq,) for row in rows],
        )


def number_of(text: str) -> int:
    """A whole number out of a cursor. Raises BadCursor."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadCursor(param="after")
    return int(text)
