"""Tables of disputes, evidence, offers, rulings and their outcomes.

Only ``dispute`` itself is ever updated, and a trigger lets it follow the table of
:mod:`contracts.dispute_states` only; all others are append-only (operations.md §2, row 41).
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from contracts.dispute_states import DisputeStatus, Turn
from market.kernel.columns import integer_column, moment_column, text_column, uuid_column

WORD_CHARS = 24
# Larger evidence goes to the blob store.
EVIDENCE_INLINE_MAX_BYTES = 1 << 16


class Reason(StrEnum):
    """Why a party disputes."""

    NOT_DELIVERED = "not_delivered"
    INCOMPLETE = "incomplete"
    QUALITY = "quality"
    SCHEMA_MISMATCH = "schema_mismatch"
    NOT_AS_DESCRIBED = "not_as_described"
    RIGHTS = "rights"
    POLICY_BREACH = "policy_breach"
    BILLING = "billing"
    OTHER = "other"


class AccessRemedy(StrEnum):
    """What becomes of the buyer's grant."""

    KEEP = "keep"
    REVOKE = "revoke"


class EvidenceKind(StrEnum):
    """What a piece of evidence is. The last three are attached by the exchange itself."""

    STATEMENT = "statement"
    SAMPLE = "sample"
    SCHEMA_DIFF = "schema_diff"
    QUALITY_REPORT = "quality_report"
    CORRESPONDENCE = "correspondence"
    LICENSE_TERMS = "license_terms"
    OTHER = "other"
    AGREEMENT_TERMS = "agreement_terms"
    DELIVERY_RECEIPTS = "delivery_receipts"
    USAGE_TOTAL = "usage_total"


class Submitter(StrEnum):
    """Who put evidence on file."""

    CLAIMANT = "claimant"
    RESPONDENT = "respondent"
    SYSTEM = "system"


class RulingSource(StrEnum):
    """``default``: the respondent stayed silent (operations.md §6)."""

    ARBITER = "arbiter"
    DEFAULT = "default"


class Decision(StrEnum):
    """A second arbiter's answer to a proposed ruling."""

    APPROVE = "approve"
    REJECT = "reject"


class OutcomeKind(StrEnum):
    """How a dispute ended."""

    RULING = "ruling"
    SETTLEMENT = "settlement"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


def _words(enum: type[StrEnum]) -> Enum:
    # VARCHAR, not a Postgres enum type: adding a value there cannot be undone by a downgrade.
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=WORD_CHARS,
        values_callable=lambda members: [member.value for member in members],
    )


def _word(enum: type[StrEnum], *, nullable: bool = False) -> Any:
    return Column(_words(enum), nullable=nullable)


def _known(column: str, enum: type[StrEnum], *, name: str) -> CheckConstraint:
    words = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({words})", name=name)


def _ppm(column: str, *, name: str) -> CheckConstraint:
    return CheckConstraint(f"{column} BETWEEN 0 AND 1000000", name=name)


def _dispute(name: str, *, primary_key: bool = False) -> Any:
    key = ForeignKey("contracts.dispute.id", name=name)
    return Column(Uuid, key, nullable=False, primary_key=primary_key)


_CLOSED = "status IN ('final', 'settled', 'withdrawn')"


class Dispute(SQLModel, table=True):
    """A case. ``frozen_minor`` is what the opening froze, in minor units of ``currency``.

    ``interested`` are both parties and the contributors: nobody related to them may arbitrate.
    ``two_person`` is fixed at the opening, so that a later change of the limit moves no case.
    """

    __tablename__ = "dispute"
    __table_args__ = (
        _known("status", DisputeStatus, name="dispute_status_known"),
        _known("turn", Turn, name="dispute_turn_known"),
        _known("reason", Reason, name="dispute_reason_known"),
        _known("claim_access", AccessRemedy, name="dispute_claim_access_known"),
        _ppm("claim_buyer_ppm", name="dispute_claim_ppm"),
        CheckConstraint("frozen_minor >= 0", name="dispute_frozen_not_negative"),
        CheckConstraint("round IN (1, 2)", name="dispute_round_known"),
        CheckConstraint(
            "(claimant_id = buyer_id AND respondent_id = seller_id) "
            "OR (claimant_id = seller_id AND respondent_id = buyer_id)",
            name="dispute_sides_are_parties",
        ),
        CheckConstraint("buyer_id <> seller_id", name="dispute_two_parties"),
        CheckConstraint(f"({_CLOSED}) = (closed_at IS NOT NULL)", name="dispute_closed_when"),
        CheckConstraint(
            "(deadline_at IS NULL) = (closed_at IS NOT NULL)", name="dispute_deadline_always"
        ),
        CheckConstraint(
            "status NOT IN ('ruled', 'appealed', 'final') OR ruling_id IS NOT NULL",
            name="dispute_ruled_by_ruling",
        ),
        CheckConstraint(
            "proposal_id IS NULL OR status IN ('under_review', 'appealed')",
            name="dispute_proposal_in_review",
        ),
        CheckConstraint("status <> 'appealed' OR round = 2", name="dispute_appeal_second_round"),
        Index(
            "dispute_one_active",
            "agreement_id",
            unique=True,
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("dispute_agreement", "agreement_id", "id"),
        Index("dispute_claimant", "claimant_id", "id"),
        Index("dispute_respondent", "respondent_id", "id"),
        Index("dispute_due", "deadline_at", "id", postgresql_where=text("closed_at IS NULL")),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(
        sa_column=Column(
            Uuid, ForeignKey("contracts.agreement.id", name="dispute_agreement_fk"), nullable=False
        )
    )
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    claimant_id: UUID = Field(sa_column=uuid_column())
    respondent_id: UUID = Field(sa_column=uuid_column())
    interested: list[UUID] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    currency: str = Field(sa_column=text_column())
    frozen_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    two_person: bool = Field(sa_column=Column(Boolean, nullable=False))
    reason: Reason = Field(sa_column=_word(Reason))
    claim_statement: str = Field(sa_column=text_column())
    claim_buyer_ppm: int = Field(sa_column=integer_column())
    claim_access: AccessRemedy = Field(sa_column=_word(AccessRemedy))
    escalate_on_expiry: bool = Field(sa_column=Column(Boolean, nullable=False))
    opened_at: datetime = Field(sa_column=moment_column())
    status: DisputeStatus = Field(sa_column=_word(DisputeStatus))
    round: int = Field(sa_column=Column(SmallInteger, nullable=False))
    deadline_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    turn: Turn = Field(sa_column=_word(Turn))
    evidence_until: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    evidence_requests: int = Field(default=0, sa_column=integer_column())
    respondent_answered: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    escalations: int = Field(default=0, sa_column=integer_column())
    arbiter_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    assigned_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    barred_arbiter_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    proposal_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    ruling_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    updated_at: datetime = Field(sa_column=moment_column())
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class DisputeStep(SQLModel, table=True):
    """One line of the timeline: who did what when. ``actor_id`` None: a deadline did."""

    __tablename__ = "dispute_step"
    __table_args__ = (
        _known("status", DisputeStatus, name="dispute_step_status_known"),
        Index("dispute_step_dispute", "dispute_id", "seq"),
        {"schema": "contracts"},
    )

    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    dispute_id: UUID = Field(sa_column=_dispute("dispute_step_dispute_fk"))
    kind: str = Field(sa_column=text_column())
    actor_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    status: DisputeStatus = Field(sa_column=_word(DisputeStatus))
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    at: datetime = Field(sa_column=moment_column())


class Evidence(SQLModel, table=True):
    """One piece of evidence, verbatim: inline, or a blob. The database checks inline hashes."""

    __tablename__ = "evidence"
    __table_args__ = (
        _known("kind", EvidenceKind, name="evidence_kind_known"),
        _known("side", Submitter, name="evidence_side_known"),
        CheckConstraint(
            "(side = 'system') = (submitted_by IS NULL)", name="evidence_submitted_by_someone"
        ),
        CheckConstraint("length(title) BETWEEN 1 AND 200", name="evidence_title_length"),
        CheckConstraint("number > 0 AND byte_count > 0", name="evidence_counts"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="evidence_sha256_form"),
        CheckConstraint("(content IS NULL) <> (blob_key IS NULL)", name="evidence_one_place"),
        CheckConstraint(
            "content IS NULL OR (octet_length(content) = byte_count "
            f"AND byte_count <= {EVIDENCE_INLINE_MAX_BYTES} "
            "AND encode(sha256(content), 'hex') = sha256)",
            name="evidence_hash_true",
        ),
        UniqueConstraint("dispute_id", "number", name="evidence_number"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    dispute_id: UUID = Field(sa_column=_dispute("evidence_dispute_fk"))
    number: int = Field(sa_column=integer_column())
    side: Submitter = Field(sa_column=_word(Submitter))
    submitted_by: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    round: int = Field(sa_column=Column(SmallInteger, nullable=False))
    kind: EvidenceKind = Field(sa_column=_word(EvidenceKind))
    title: str = Field(sa_column=text_column())
    media_type: str = Field(sa_column=text_column())
    byte_count: int = Field(sa_column=integer_column())
    sha256: str = Field(sa_column=text_column())
    content: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    blob_key: str | None = Field(default=None, sa_column=text_column(nullable=True))
    submitted_at: datetime = Field(sa_column=moment_column())


class DisputeOffer(SQLModel, table=True):
    """A settlement offer. It stands while it is the latest, in time, and no ruling came since."""

    __tablename__ = "dispute_offer"
    __table_args__ = (
        _ppm("buyer_ppm", name="dispute_offer_ppm"),
        _known("access", AccessRemedy, name="dispute_offer_access_known"),
        CheckConstraint("number > 0", name="dispute_offer_number_positive"),
        CheckConstraint("expires_at > offered_at", name="dispute_offer_lives"),
        {"schema": "contracts"},
    )

    dispute_id: UUID = Field(sa_column=_dispute("dispute_offer_dispute_fk", primary_key=True))
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    offered_by: UUID = Field(sa_column=uuid_column())
    buyer_ppm: int = Field(sa_column=integer_column())
    access: AccessRemedy = Field(sa_column=_word(AccessRemedy))
    message: str | None = Field(default=None, sa_column=text_column(nullable=True))
    ruling_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    offered_at: datetime = Field(sa_column=moment_column())
    expires_at: datetime = Field(sa_column=moment_column())


class Ruling(SQLModel, table=True):
    """A ruling as written. With ``needs_approval`` it counts once a second arbiter approves."""

    __tablename__ = "ruling"
    __table_args__ = (
        _known("source", RulingSource, name="ruling_source_known"),
        _known("access", AccessRemedy, name="ruling_access_known"),
        _ppm("buyer_ppm", name="ruling_ppm"),
        CheckConstraint("round IN (1, 2)", name="ruling_round_known"),
        CheckConstraint("(source = 'arbiter') = (arbiter_id IS NOT NULL)", name="ruling_by_whom"),
        CheckConstraint(
            "source = 'arbiter' OR NOT needs_approval", name="ruling_default_below_limit"
        ),
        CheckConstraint("jsonb_typeof(clauses) = 'array'", name="ruling_clauses_array"),
        UniqueConstraint("id", "arbiter_id", name="ruling_author"),
        Index(
            "ruling_once",
            "dispute_id",
            "round",
            unique=True,
            postgresql_where=text("NOT needs_approval"),
        ),
        Index("ruling_dispute", "dispute_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    dispute_id: UUID = Field(sa_column=_dispute("ruling_dispute_fk"))
    round: int = Field(sa_column=Column(SmallInteger, nullable=False))
    source: RulingSource = Field(sa_column=_word(RulingSource))
    arbiter_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    buyer_ppm: int = Field(sa_column=integer_column())
    access: AccessRemedy = Field(sa_column=_word(AccessRemedy))
    reasons: str = Field(sa_column=text_column())
    clauses: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    evidence_sha256: str = Field(sa_column=text_column())
    needs_approval: bool = Field(sa_column=Column(Boolean, nullable=False))
    ruled_at: datetime = Field(sa_column=moment_column())


class RulingReview(SQLModel, table=True):
    """The second arbiter's decision on a proposal: by CHECK, never the author's own."""

    __tablename__ = "ruling_review"
    __table_args__ = (
        _known("decision", Decision, name="ruling_review_decision_known"),
        CheckConstraint("reviewed_by <> proposed_by", name="ruling_review_two_persons"),
        ForeignKeyConstraint(
            ["ruling_id", "proposed_by"],
            ["contracts.ruling.id", "contracts.ruling.arbiter_id"],
            name="ruling_review_ruling_fk",
        ),
        Index(
            "ruling_review_one_approval",
            "dispute_id",
            "round",
            unique=True,
            postgresql_where=text("decision = 'approve'"),
        ),
        {"schema": "contracts"},
    )

    ruling_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    proposed_by: UUID = Field(sa_column=uuid_column())
    dispute_id: UUID = Field(sa_column=_dispute("ruling_review_dispute_fk"))
    round: int = Field(sa_column=Column(SmallInteger, nullable=False))
    reviewed_by: UUID = Field(sa_column=uuid_column())
    decision: Decision = Field(sa_column=_word(Decision))
    comment: str = Field(sa_column=text_column())
    reviewed_at: datetime = Field(sa_column=moment_column())


class RulingAcceptance(SQLModel, table=True):
    """A party accepts a preliminary ruling, and thereby gives up its appeal."""

    __tablename__ = "ruling_acceptance"
    __table_args__ = ({"schema": "contracts"},)

    ruling_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("contracts.ruling.id", name="ruling_acceptance_ruling_fk"),
            primary_key=True,
        )
    )
    party_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    accepted_at: datetime = Field(sa_column=moment_column())


class Appeal(SQLModel, table=True):
    """The one appeal of a dispute, with its new evidence."""

    __tablename__ = "appeal"
    __table_args__ = ({"schema": "contracts"},)

    dispute_id: UUID = Field(sa_column=_dispute("appeal_dispute_fk", primary_key=True))
    ruling_id: UUID = Field(
        sa_column=Column(
            Uuid, ForeignKey("contracts.ruling.id", name="appeal_ruling_fk"), nullable=False
        )
    )
    appellant_id: UUID = Field(sa_column=uuid_column())
    evidence_id: UUID = Field(
        sa_column=Column(
            Uuid, ForeignKey("contracts.evidence.id", name="appeal_evidence_fk"), nullable=False
        )
    )
    reasons: str = Field(sa_column=text_column())
    appealed_at: datetime = Field(sa_column=moment_column())


class DisputeOutcome(SQLModel, table=True):
    """How a dispute ended and what was moved: once per dispute, by primary key."""

    __tablename__ = "dispute_outcome"
    __table_args__ = (
        _known("kind", OutcomeKind, name="dispute_outcome_kind_known"),
        CheckConstraint(
            "(kind = 'ruling') = (ruling_id IS NOT NULL)", name="dispute_outcome_by_ruling"
        ),
        CheckConstraint(
            "(kind = 'settlement') = (offer_number IS NOT NULL)", name="dispute_outcome_by_offer"
        ),
        CheckConstraint(
            "(kind IN ('ruling', 'settlement')) = (jws IS NOT NULL)", name="dispute_outcome_signed"
        ),
        {"schema": "contracts"},
    )

    dispute_id: UUID = Field(sa_column=_dispute("dispute_outcome_dispute_fk", primary_key=True))
    kind: OutcomeKind = Field(sa_column=_word(OutcomeKind))
    ruling_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    offer_number: int | None = Field(default=None, sa_column=integer_column(nullable=True))
    amounts: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    jws: str | None = Field(default=None, sa_column=text_column(nullable=True))
    closed_at: datetime = Field(sa_column=moment_column())
