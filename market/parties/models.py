"""Tables of market.parties: parties, their credentials, decisions about them, accepted rules.

``decision`` and ``rules_acceptance`` are append-only: they are the record of identity checks
that 数据安全法 article 33 makes an intermediary keep.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from market.kernel.security import Role

STATUS_CHARS = 16
KIND_CHARS = 32
TRADER_ROLES = frozenset({Role.SELLER, Role.BUYER})
STAFF_ROLES = frozenset({Role.OPERATOR, Role.ARBITER, Role.REGULATOR})


class PartyKind(StrEnum):
    """What kind of organization a party is."""

    COMPANY = "company"
    PUBLIC_BODY = "public_body"
    ASSOCIATION = "association"
    RESEARCH_INSTITUTE = "research_institute"
    SOLE_TRADER = "sole_trader"


class PartyStatus(StrEnum):
    """``pending`` may look around, ``verified`` may trade, ``suspended`` may nothing."""

    PENDING = "pending"
    VERIFIED = "verified"
    SUSPENDED = "suspended"


class DecisionKind(StrEnum):
    """What an operator decided about a party."""

    VERIFY = "verify"
    SUSPEND = "suspend"


def _words(enum: type[StrEnum], chars: int) -> Enum:
    # VARCHAR, not a Postgres enum type: adding a value there cannot be undone by a downgrade.
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=chars,
        values_callable=lambda members: [member.value for member in members],
    )


class Party(SQLModel, table=True):
    """An organization. ``version`` counts its changes and is its ETag."""

    __tablename__ = "party"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="party_name_length"),
        CheckConstraint("jurisdiction ~ '^[A-Z]{2}$'", name="party_jurisdiction_form"),
        CheckConstraint(
            "kind IN ('company', 'public_body', 'association', 'research_institute', "
            "'sole_trader')",
            name="party_kind_known",
        ),
        CheckConstraint(
            "status IN ('pending', 'verified', 'suspended')", name="party_status_known"
        ),
        CheckConstraint(
            "cardinality(roles) >= 1 AND (roles <@ ARRAY['seller', 'buyer']::text[] "
            "OR roles <@ ARRAY['operator', 'arbiter', 'regulator']::text[])",
            name="party_roles_separate",
        ),
        CheckConstraint(
            "status <> 'verified' OR verified_at IS NOT NULL", name="party_verified_when"
        ),
        CheckConstraint("version >= 1", name="party_version_positive"),
        Index("party_status_id", "status", "id"),
        # Whoever was verified once keeps its number, so that a new sign-up cannot evade a
        # suspension; whoever never was holds none, so that an impostor cannot block the owner.
        Index(
            "party_identity",
            "jurisdiction",
            "tax_number",
            unique=True,
            postgresql_where=text("verified_at IS NOT NULL AND tax_number IS NOT NULL"),
        ),
        Index("party_roles", "roles", postgresql_using="gin"),
        Index(
            "party_affiliate_group",
            "affiliate_group",
            postgresql_where=text("affiliate_group IS NOT NULL"),
        ),
        {"schema": "parties"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    name: str = Field(sa_column=Column(Text, nullable=False))
    kind: PartyKind = Field(sa_column=Column(_words(PartyKind, KIND_CHARS), nullable=False))
    jurisdiction: str = Field(sa_column=Column(Text, nullable=False))
    tax_number: str | None = Field(default=None, sa_column=Column(Text))
    roles: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    status: PartyStatus = Field(sa_column=Column(_words(PartyStatus, STATUS_CHARS), nullable=False))
    affiliate_group: UUID | None = Field(default=None, sa_column=Column(Uuid))
    contact_name: str | None = Field(default=None, sa_column=Column(Text))
    contact_email: str | None = Field(default=None, sa_column=Column(Text))
    contact_phone: str | None = Field(default=None, sa_column=Column(Text))
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    verified_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    suspended_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))

    @property
    def role_set(self) -> frozenset[Role]:
        """The roles as a set; stored sorted."""
        return frozenset(Role(role) for role in self.roles)


class Credential(SQLModel, table=True):
    """A client id and the hash of its secret. Revoked ones stay on record."""

    __tablename__ = "credential"
    __table_args__ = (
        CheckConstraint("secret_hash LIKE '$argon2id$%'", name="credential_hash_argon2id"),
        CheckConstraint("cardinality(roles) >= 1", name="credential_roles_some"),
        CheckConstraint("length(label) BETWEEN 1 AND 200", name="credential_label_length"),
        CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL)", name="credential_revoked_by_someone"
        ),
        Index("credential_party_id", "party_id", "id"),
        {"schema": "parties"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    party_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("parties.party.id", name="credential_party"),
            nullable=False,
        )
    )
    label: str = Field(sa_column=Column(Text, nullable=False))
    roles: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    secret_hash: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    revoked_by: UUID | None = Field(default=None, sa_column=Column(Uuid))


class Decision(SQLModel, table=True):
    """One identity decision of an operator, with its evidence or reason (append-only)."""

    __tablename__ = "decision"
    __table_args__ = (
        CheckConstraint("kind IN ('verify', 'suspend')", name="decision_kind_known"),
        CheckConstraint("jsonb_typeof(evidence) = 'array'", name="decision_evidence_array"),
        CheckConstraint(
            "kind <> 'verify' OR jsonb_array_length(evidence) >= 1", name="decision_verify_proven"
        ),
        CheckConstraint(
            "kind <> 'suspend' OR reason IS NOT NULL", name="decision_suspend_reasoned"
        ),
        Index("decision_party_id", "party_id", "id"),
        {"schema": "parties"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    party_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("parties.party.id", name="decision_party"),
            nullable=False,
        )
    )
    kind: DecisionKind = Field(sa_column=Column(_words(DecisionKind, STATUS_CHARS), nullable=False))
    decided_by: UUID = Field(sa_column=Column(Uuid, nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(Text))
    evidence: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    decided_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class RulesAcceptance(SQLModel, table=True):
    """That a party accepted one version of the rules (append-only)."""

    __tablename__ = "rules_acceptance"
    __table_args__ = ({"schema": "parties"},)

    party_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("parties.party.id", name="rules_acceptance_party"),
            primary_key=True,
        )
    )
    rules_version: str = Field(sa_column=Column(Text, primary_key=True))
    accepted_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
