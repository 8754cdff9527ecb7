"""Closing a dispute: money, access, agreement, signed record, all in the caller's unit of work.

Whichever way it closes, the frozen account ends at zero (asserted here) and exactly one outcome
row exists (primary key).
"""

from __future__ import annotations

from uuid import UUID

from sqlmodel import select

from contracts import accrual, agreements, grants, releases
from contracts.agreement_states import AgreementStatus
from contracts.dispute_cases import Docket, advance, amounts_of
from contracts.dispute_models import (
    AccessRemedy,
    Dispute,
    DisputeOffer,
    DisputeOutcome,
    OutcomeKind,
    Ruling,
    RulingReview,
)
from contracts.dispute_schemas import Amounts
from contracts.dispute_states import CLOSED, Case
from contracts.models import Grant, GrantStatus
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import sha256_hex
from settlement import escrow

RULING_TYP = "ruling+jws"


async def execute_ruling(
    uow: UnitOfWork, kernel: Kernel, docket: Docket, case: Case, *, actor_id: UUID | None
) -> DisputeOutcome:
    """Carry out the effective ruling of a case that has become final.

    Effects: frozen → buyer and the seller's split, grant revoked or reinstated, agreement
    settled, signed outcome, events.
    """
    dispute = docket.dispute
    ruling = await uow.session.get(Ruling, dispute.ruling_id)
    assert ruling is not None
    if docket.agreement.status is not AgreementStatus.RULED:
        agreements.move(uow, docket.agreement, AgreementStatus.RULED, reason="ruling upheld")
    amounts, transfer_id = await _divide(
        uow, kernel, docket, buyer_ppm=ruling.buyer_ppm, access=ruling.access
    )
    claims = await _ruling_claims(uow, ruling)
    outcome = DisputeOutcome(
        dispute_id=dispute.id,
        kind=OutcomeKind.RULING,
        ruling_id=ruling.id,
        amounts=_stored(amounts, transfer_id),
        jws=_sign(uow, kernel, docket, claims, _stored(amounts, transfer_id)),
        closed_at=uow.now,
    )
    await _finish(uow, docket, case, outcome, kind="final", actor_id=actor_id)
    return outcome


async def execute_settlement(
    uow: UnitOfWork,
    kernel: Kernel,
    docket: Docket,
    case: Case,
    *,
    offer: DisputeOffer,
    actor_id: UUID,
) -> DisputeOutcome:
    """Carry out an accepted offer, as a ruling would be."""
    amounts, transfer_id = await _divide(
        uow, kernel, docket, buyer_ppm=offer.buyer_ppm, access=offer.access
    )
    claims: dict[str, object] = {
        "kind": OutcomeKind.SETTLEMENT.value,
        "offer": offer.number,
        "buyer_ppm": offer.buyer_ppm,
        "access": offer.access.value,
        "offered_by": show("pty", offer.offered_by),
        "accepted_by": show("pty", actor_id),
    }
    outcome = DisputeOutcome(
        dispute_id=docket.dispute.id,
        kind=OutcomeKind.SETTLEMENT,
        offer_number=offer.number,
        amounts=_stored(amounts, transfer_id),
        jws=_sign(uow, kernel, docket, claims, _stored(amounts, transfer_id)),
        closed_at=uow.now,
    )
    await _finish(uow, docket, case, outcome, kind="settled", actor_id=actor_id)
    return outcome


async def restore(
    uow: UnitOfWork,
    kernel: Kernel,
    docket: Docket,
    case: Case,
    *,
    kind: OutcomeKind,
    actor_id: UUID | None,
    reason: str,
) -> DisputeOutcome:
    """Undo the opening of a withdrawn or lapsed dispute: frozen → escrow, access, agreement.

    What use had earned meanwhile is released at once; a grant that ended during the dispute is
    handed to the close-out job, which had to pass it by.
    """
    dispute, agreement = docket.dispute, docket.agreement
    await grants.reinstate(uow, kernel, agreement.id)
    moved = await escrow.unfreeze(
        uow, _key(dispute, "unfreeze"), agreement.id, dispute.id, dispute.currency
    )
    assert moved == dispute.frozen_minor
    agreements.thaw_rest(agreement, moved)
    agreements.move(uow, agreement, agreements.resume_status(agreement), reason=reason)
    await uow.session.flush()
    grant = (await accrual.lock_grants_of(uow, [agreement.id]))[agreement.id]
    if grant.status in {GrantStatus.EXPIRED, GrantStatus.REVOKED}:
        grant.closed_out_at = None
    await accrual.progress(uow, agreement, grant)
    outcome = DisputeOutcome(
        dispute_id=dispute.id,
        kind=kind,
        amounts=_stored(
            Amounts(
                currency=dispute.currency,
                frozen_minor=0,
                buyer_minor=0,
                fee_minor=0,
                shares=[],
                seller_minor=0,
            ),
            None,
        ),
        closed_at=uow.now,
    )
    await _finish(uow, docket, case, outcome, kind=kind.value, actor_id=actor_id)
    return outcome


async def _divide(
    uow: UnitOfWork, kernel: Kernel, docket: Docket, *, buyer_ppm: int, access: AccessRemedy
) -> tuple[Amounts, UUID | None]:
    dispute, agreement = docket.dispute, docket.agreement
    if access is AccessRemedy.REVOKE:
        await grants.revoke(uow, kernel, agreement.id)
    else:
        await grants.reinstate(uow, kernel, agreement.id)
    expected = amounts_of(dispute, agreement, buyer_ppm)
    terms = releases.split_terms(agreement)
    paid = await escrow.apply_ruling(
        uow,
        _key(dispute, "final"),
        dispute.id,
        dispute.currency,
        buyer_id=dispute.buyer_id,
        buyer_ppm=buyer_ppm,
        seller_id=dispute.seller_id,
        fee_ppm=terms.fee_ppm,
        shares=terms.shares,
        released_before=agreement.released_minor,
        fee_minimum=terms.fee_minimum,
        fee_cap=terms.fee_cap,
    )
    # The preview that the arbiter and the parties saw is what is paid.
    assert (paid["buyer"], paid["fee"], paid["seller"]) == (
        expected.buyer_minor,
        expected.fee_minor,
        expected.seller_minor,
    )
    released = expected.frozen_minor - expected.buyer_minor
    if released and paid["transfer_id"] is not None:
        releases.record(
            uow, agreement, paid["transfer_id"], amount=released, fee=expected.fee_minor
        )
    agreements.move(uow, agreement, AgreementStatus.SETTLED, reason="dispute decided")
    return expected, paid["transfer_id"]


def _sign(
    uow: UnitOfWork,
    kernel: Kernel,
    docket: Docket,
    claims: dict[str, object],
    amounts: dict[str, object],
) -> str:
    dispute, agreement = docket.dispute, docket.agreement
    facts: dict[str, object] = {
        "dispute": show("dsp", dispute.id),
        "agreement": show("agr", agreement.id),
        "terms_sha256": agreement.terms_sha256,
        "buyer": show("pty", dispute.buyer_id),
        "seller": show("pty", dispute.seller_id),
        "amounts": amounts,
        "closed_at": uow.now.isoformat(),
    }
    return kernel.keys.sign(RULING_TYP, {**facts, **claims})


async def _ruling_claims(uow: UnitOfWork, ruling: Ruling) -> dict[str, object]:
    review = await uow.session.get(RulingReview, ruling.id)
    return {
        "kind": OutcomeKind.RULING.value,
        "ruling": show("rul", ruling.id),
        "buyer_ppm": ruling.buyer_ppm,
        "access": ruling.access.value,
        "round": ruling.round,
        "source": ruling.source.value,
        "arbiter": None if ruling.arbiter_id is None else show("pty", ruling.arbiter_id),
        "approved_by": None if review is None else show("pty", review.reviewed_by),
        "reasons_sha256": sha256_hex(ruling.reasons.encode()),
        "clauses": ruling.clauses,
        "evidence_sha256": ruling.evidence_sha256,
        "ruled_at": ruling.ruled_at.isoformat(),
    }


async def _finish(
    uow: UnitOfWork,
    docket: Docket,
    case: Case,
    outcome: DisputeOutcome,
    *,
    kind: str,
    actor_id: UUID | None,
) -> None:
    dispute = docket.dispute
    assert case.status in CLOSED
    dispute.proposal_id = None
    uow.session.add(outcome)
    data: dict[str, object] = {"outcome": outcome.kind.value, "amounts": outcome.amounts}
    advance(uow, docket, case, kind=kind, actor_id=actor_id, data=data)
    await uow.session.flush()
    left = await escrow.balance(uow, escrow.frozen_of(dispute.id, dispute.currency))
    assert left == 0, f"dispute {dispute.id} closes with {left} frozen"


def _stored(amounts: Amounts, transfer_id: UUID | None) -> dict[str, object]:
    shown = None if transfer_id is None else show("txn", transfer_id)
    return {**amounts.model_dump(mode="json"), "transfer_id": shown}


def _key(dispute: Dispute, event: str) -> str:
    return f"dispute:{dispute.id.hex}:{event}"


async def outcome_of(uow: UnitOfWork, dispute_id: UUID) -> DisputeOutcome | None:
    """How a dispute ended, if it has."""
    query = select(DisputeOutcome).where(DisputeOutcome.dispute_id == dispute_id)
    return (await uow.session.exec(query)).one_or_none()


async def freeze(uow: UnitOfWork, kernel: Kernel, dispute_id: UUID, agreement_id: UUID) -> int:
    """Suspend access and freeze what is left in escrow; returns the minor units frozen.

    The agreement must be locked; its grant is locked before the ledger's accounts are.
    """
    agreement = await agreements.lock_agreement(uow, agreement_id)
    await grants.suspend(uow, kernel, agreement_id)
    frozen = await escrow.freeze(
        uow, f"dispute:{dispute_id.hex}:freeze", agreement_id, dispute_id, agreement.currency
    )
    assert frozen == agreement.escrow_minor
    agreements.freeze_rest(agreement, frozen)
    return frozen


async def grant_of(uow: UnitOfWork, agreement_id: UUID) -> Grant:
    """The agreement's grant."""
    return (await uow.session.exec(select(Grant).where(Grant.agreement_id == agreement_id))).one()
