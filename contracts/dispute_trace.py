"""The disputes' section of a trade's trace: timeline, evidence by hash, rulings, outcome."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlmodel import col, select

from contracts import trace
from contracts.dispute_closing import outcome_of
from contracts.dispute_models import (
    Decision,
    Dispute,
    DisputeStep,
    Evidence,
    Ruling,
    RulingReview,
)
from contracts.evidence import WITHOUT_CONTENT
from contracts.models import Agreement
from market.kernel.db import UnitOfWork
from market.kernel.ids import show


async def trace_section(uow: UnitOfWork, agreement_id: UUID) -> list[dict[str, Any]]:
    """All disputes of an agreement, oldest first, for both parties and overseers.

    Evidence appears by hash, settlement offers and proposals that never came into force not at
    all. Bounded: an agreement has few disputes, a dispute at most ``trace.ITEMS_MAX`` steps here.
    """
    query = select(Dispute).where(Dispute.agreement_id == agreement_id).order_by(col(Dispute.id))
    disputes = list(await uow.session.exec(query))
    return [await _dispute(uow, dispute) for dispute in disputes]


def install() -> None:
    """Put the section into every trace."""
    trace.register("disputes", _section)


async def _section(uow: UnitOfWork, agreement: Agreement) -> Any:
    return await trace_section(uow, agreement.id) or None


async def _dispute(uow: UnitOfWork, dispute: Dispute) -> dict[str, Any]:
    outcome = await outcome_of(uow, dispute.id)
    return {
        "dispute_id": show("dsp", dispute.id),
        "claimant_id": show("pty", dispute.claimant_id),
        "respondent_id": show("pty", dispute.respondent_id),
        "reason": dispute.reason.value,
        "claim": {
            "statement": dispute.claim_statement,
            "buyer_ppm": dispute.claim_buyer_ppm,
            "access": dispute.claim_access.value,
        },
        "frozen": {"amount_minor": dispute.frozen_minor, "currency": dispute.currency},
        "status": dispute.status.value,
        "opened_at": dispute.opened_at.isoformat(),
        "steps": await _steps(uow, dispute.id),
        "evidence": await _evidence(uow, dispute.id),
        "rulings": await _rulings(uow, dispute.id),
        "outcome": outcome
        and {
            "kind": outcome.kind.value,
            "amounts": outcome.amounts,
            "jws": outcome.jws,
            "closed_at": outcome.closed_at.isoformat(),
        },
    }


async def _steps(uow: UnitOfWork, dispute_id: UUID) -> list[dict[str, Any]]:
    query = (
        select(DisputeStep)
        .where(DisputeStep.dispute_id == dispute_id)
        .order_by(col(DisputeStep.seq))
        .limit(trace.ITEMS_MAX)
    )
    return [
        {
            "kind": step.kind,
            "actor_id": None if step.actor_id is None else show("pty", step.actor_id),
            "status": step.status.value,
            "at": step.at.isoformat(),
        }
        for step in await uow.session.exec(query)
    ]


async def _evidence(uow: UnitOfWork, dispute_id: UUID) -> list[dict[str, Any]]:
    query = (
        select(Evidence)
        .options(WITHOUT_CONTENT)
        .where(Evidence.dispute_id == dispute_id)
        .order_by(col(Evidence.number))
        .limit(trace.ITEMS_MAX)
    )
    return [
        {
            "evidence_id": show("evd", row.id),
            "number": row.number,
            "side": row.side.value,
            "kind": row.kind.value,
            "sha256": row.sha256,
        }
        for row in await uow.session.exec(query)
    ]


async def _rulings(uow: UnitOfWork, dispute_id: UUID) -> list[dict[str, Any]]:
    approved = select(RulingReview.ruling_id).where(RulingReview.decision == Decision.APPROVE)
    query = (
        select(Ruling)
        .where(
            Ruling.dispute_id == dispute_id,
            (~col(Ruling.needs_approval)) | col(Ruling.id).in_(approved),
        )
        .order_by(col(Ruling.id))
    )
    return [
        {
            "ruling_id": show("rul", ruling.id),
            "round": ruling.round,
            "source": ruling.source.value,
            "arbiter_id": None if ruling.arbiter_id is None else show("pty", ruling.arbiter_id),
            "buyer_ppm": ruling.buyer_ppm,
            "access": ruling.access.value,
            "reasons": ruling.reasons,
            "clauses": ruling.clauses,
            "evidence_sha256": ruling.evidence_sha256,
            "ruled_at": ruling.ruled_at.isoformat(),
        }
        for ruling in await uow.session.exec(query)
    ]
