"""API shapes of disputes, evidence, offers, arbitration and rulings."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints

from contracts.dispute_models import (
    EVIDENCE_INLINE_MAX_BYTES,
    AccessRemedy,
    Decision,
    EvidenceKind,
    OutcomeKind,
    Reason,
    RulingSource,
    Submitter,
)
from contracts.dispute_states import DisputeStatus, Turn
from market.kernel.ids import AgreementId, DisputeId, EvidenceId, PartyId, RulingId, TransferId
from market.kernel.money import Currency
from market.kernel.schemas import LongText, Schema, ShortText

OFFER_DAYS_MAX = 30
CLAUSES_MAX = 20

BuyerPpm = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=1_000_000,
        description="The buyer's part of the frozen money, in parts per million.",
    ),
]
AmountMinor = Annotated[int, Field(ge=0, description="Minor units.")]
SubmittedKind = Literal[
    EvidenceKind.STATEMENT,
    EvidenceKind.SAMPLE,
    EvidenceKind.SCHEMA_DIFF,
    EvidenceKind.QUALITY_REPORT,
    EvidenceKind.CORRESPONDENCE,
    EvidenceKind.LICENSE_TERMS,
    EvidenceKind.OTHER,
]
InlineType = Literal["text/plain", "text/html", "text/markdown", "text/csv", "application/json"]
# Kept verbatim: no stripping, no pattern. Bytes are bounded by the service.
InlineContent = Annotated[
    str, StringConstraints(min_length=1, max_length=EVIDENCE_INLINE_MAX_BYTES)
]


class Claim(Schema):
    """What the claimant says and wants."""

    statement: LongText
    buyer_ppm: BuyerPpm
    access: AccessRemedy
    escalate: StrictBool = Field(
        default=False,
        description="Go on to a ruling when the negotiation runs out; otherwise it lapses.",
    )


class DisputeRequest(Schema):
    """A dispute to open. It freezes what is left in escrow and suspends the grant."""

    agreement_id: AgreementId
    reason: Reason
    claim: Claim


class Withdrawal(Schema):
    """Why the claimant gives up."""

    reason: LongText | None = None


class EvidenceRequest(Schema):
    """A piece of evidence as text. It can never be changed or removed."""

    kind: SubmittedKind
    title: ShortText
    media_type: InlineType = "text/plain"
    content: InlineContent


class EvidenceCall(Schema):
    """What an arbiter wants to know from both sides."""

    question: LongText


class OfferRequest(Schema):
    """A settlement offer to the other side; a newer offer of either side replaces it."""

    buyer_ppm: BuyerPpm
    access: AccessRemedy
    message: LongText | None = None
    valid_days: Annotated[int, Field(strict=True, ge=1, le=OFFER_DAYS_MAX)] = 5


class Assignment(Schema):
    """Who takes the case: an arbiter leaves it out (oneself), an operator names an arbiter."""

    arbiter_id: PartyId | None = None


class Recusal(Schema):
    """Why the arbiter gives the case back."""

    reason: LongText


class RulingRequest(Schema):
    """A ruling: how the frozen money is divided, what becomes of access, and why."""

    buyer_ppm: BuyerPpm
    access: AccessRemedy
    reasons: LongText
    clauses: Annotated[list[ShortText], Field(max_length=CLAUSES_MAX)] = Field(
        default_factory=list, description="Clauses of the agreement or the rules that it rests on."
    )


class RulingDecision(Schema):
    """The second arbiter's answer to a proposed ruling."""

    decision: Decision
    comment: LongText


class AppealRequest(Schema):
    """An appeal: why the ruling is wrong, and evidence that was not on file."""

    reasons: LongText
    evidence: EvidenceRequest


class Frozen(Schema):
    """What the dispute froze; may be zero."""

    amount_minor: AmountMinor
    currency: Currency


class SharePayment(Schema):
    """What a contributor gets."""

    party_id: PartyId
    amount_minor: AmountMinor


class Amounts(Schema):
    """How frozen money is divided; the parts sum to ``frozen_minor`` exactly."""

    currency: Currency
    frozen_minor: AmountMinor
    buyer_minor: AmountMinor
    fee_minor: AmountMinor
    shares: list[SharePayment]
    seller_minor: AmountMinor


class RulingPreview(Schema):
    """What a ruling with this ``buyer_ppm`` would pay."""

    dispute_id: DisputeId
    buyer_ppm: int
    two_person: bool = Field(description="Whether a second arbiter must approve.")
    amounts: Amounts


class ClaimView(Schema):
    """The claim as it was made."""

    statement: str
    buyer_ppm: int
    access: AccessRemedy
    escalate: bool


class OutcomeView(Schema):
    """How the dispute ended; ``jws`` (typ ruling+jws) is the signed record of it."""

    kind: OutcomeKind
    ruling_id: RulingId | None
    offer_number: int | None
    transfer_id: TransferId | None
    amounts: Amounts
    jws: str | None
    closed_at: datetime


class DisputeView(Schema):
    """A dispute. ``turn`` tells from whom evidence is taken, until ``evidence_until``."""

    id: DisputeId
    agreement_id: AgreementId
    status: DisputeStatus
    round: int
    deadline_at: datetime | None
    turn: Turn
    evidence_until: datetime | None
    reason: Reason
    claim: ClaimView
    claimant_id: PartyId
    respondent_id: PartyId
    buyer_id: PartyId
    seller_id: PartyId
    frozen: Frozen
    two_person: bool
    ruling_pending: bool
    arbiter_id: PartyId | None
    escalations: int
    ruling_id: RulingId | None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    outcome: OutcomeView | None = Field(
        default=None, description="Set when one closed dispute is read; lists leave it out."
    )


class QueueItem(Schema):
    """A case for arbiters. ``conflict``: the caller may not take it."""

    dispute: DisputeView
    seconds_left: int = Field(description="Until the deadline; negative when overdue.")
    evidence_count: int
    conflict: bool


class StepView(Schema):
    """One line of the timeline. ``actor_id`` null: a deadline or the exchange itself."""

    kind: str
    actor_id: PartyId | None
    status: DisputeStatus
    data: dict[str, object]
    at: datetime


class EvidenceView(Schema):
    """A piece of evidence; its content is at ``/v1/disputes/{id}/evidence/{id}/content``."""

    id: EvidenceId
    dispute_id: DisputeId
    number: int
    side: Submitter
    submitted_by: PartyId | None
    round: int
    kind: EvidenceKind
    title: str
    media_type: str
    byte_count: int
    sha256: str
    submitted_at: datetime


class OfferView(Schema):
    """A settlement offer. ``open``: it can still be accepted."""

    dispute_id: DisputeId
    number: int
    offered_by: PartyId
    buyer_ppm: int
    access: AccessRemedy
    message: str | None
    offered_at: datetime
    expires_at: datetime
    open: bool


class RulingView(Schema):
    """A ruling. ``effective``: it is the one that counts at present."""

    id: RulingId
    dispute_id: DisputeId
    round: int
    source: RulingSource
    arbiter_id: PartyId | None
    buyer_ppm: int
    access: AccessRemedy
    reasons: str
    clauses: list[str]
    evidence_sha256: str = Field(description="Over number and hash of all evidence on file then.")
    needs_approval: bool
    decision: Decision | None
    reviewed_by: PartyId | None
    accepted_by: list[PartyId]
    effective: bool
    amounts: Amounts
    ruled_at: datetime


class AppealView(Schema):
    """The appeal of a dispute."""

    dispute_id: DisputeId
    ruling_id: RulingId
    appellant_id: PartyId
    evidence_id: EvidenceId
    reasons: str
    appealed_at: datetime
