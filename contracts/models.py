"""Tables of agreements, grants, tokens, the meter and receipts.

``delivery``, ``receipt`` and ``agreement_step`` are append-only. The terms of an agreement can
never change: the application role may update its progress columns only (see migration 0006).
Tables of disputes are in :mod:`contracts.dispute_models`.
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
    Index,
    Integer,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

# delivery_token.quota_id refers to its table.
from contracts import token_quota_models as _quotas  # noqa: F401
from contracts.agreement_states import AgreementStatus
from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column

WORD_CHARS = 16


class PlanKind(StrEnum):
    """How the agreement is paid: by units used, or once for a term."""

    METERED = "metered"
    LICENSE = "license"


class Unit(StrEnum):
    """What the meter counts (:mod:`pricing.units`). A license counts deliveries."""

    ROW = "row"
    CALL = "call"
    BYTE = "byte"
    QUERY = "query"
    MILLISECOND = "millisecond"
    LICENSE = "license"


class GrantStatus(StrEnum):
    """Whether a grant delivers, and why not."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"


class LeaseState(StrEnum):
    """``active`` serves, ``draining`` only takes late records, ``closed`` is settled."""

    ACTIVE = "active"
    DRAINING = "draining"
    CLOSED = "closed"


class Ending(StrEnum):
    """Why the money of an ended grant is to be closed out."""

    EXPIRED = "expired"
    TERMINATED = "terminated"


def _words(enum: type[StrEnum]) -> Enum:
    # VARCHAR, not a Postgres enum type: adding a value there cannot be undone by a downgrade.
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=WORD_CHARS,
        values_callable=lambda members: [member.value for member in members],
    )


def _known(column: str, enum: type[StrEnum], *, name: str) -> CheckConstraint:
    words = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({words})", name=name)


def _ref(target: str, name: str) -> Any:
    return Column(Uuid, ForeignKey(f"contracts.{target}.id", name=name), nullable=False)


def _zero() -> Any:
    # The database's own default: the rows of a matching batch need not carry it.
    return Column(BigInteger, nullable=False, server_default="0")


class Agreement(SQLModel, table=True):
    """A signed deal. Amounts in minor units of ``currency``.

    ``released_minor + refunded_minor + disputed_minor`` is what has left escrow; a closed
    agreement has nothing left there, by CHECK.
    """

    __tablename__ = "agreement"
    __table_args__ = (
        _known("status", AgreementStatus, name="agreement_status_known"),
        _known("kind", PlanKind, name="agreement_kind_known"),
        _known("unit", Unit, name="agreement_unit_known"),
        _known("ending", Ending, name="agreement_ending_known"),
        CheckConstraint("(kind = 'license') = (unit = 'license')", name="agreement_kind_unit"),
        CheckConstraint("lots > 0 AND price_minor > 0", name="agreement_positive"),
        CheckConstraint("total_minor = lots * price_minor", name="agreement_total"),
        CheckConstraint(
            "kind <> 'metered' OR granted_units = lots * lot_units", name="agreement_units"
        ),
        CheckConstraint("fee_ppm >= 0 AND fee_ppm < 1000000", name="agreement_fee"),
        CheckConstraint("buyer_id <> seller_id", name="agreement_two_parties"),
        CheckConstraint(
            "released_minor >= 0 AND refunded_minor >= 0 AND disputed_minor >= 0 "
            "AND released_minor + refunded_minor + disputed_minor <= total_minor",
            name="agreement_escrow_bounds",
        ),
        CheckConstraint(
            "status NOT IN ('settled', 'terminated') "
            "OR released_minor + refunded_minor + disputed_minor = total_minor",
            name="agreement_closed_escrow_zero",
        ),
        CheckConstraint(
            "(status IN ('settled', 'terminated')) = (closed_at IS NOT NULL)",
            name="agreement_closed_when",
        ),
        UniqueConstraint("trade_id", name="agreement_trade"),
        Index("agreement_buyer", "buyer_id", "id"),
        Index("agreement_seller", "seller_id", "id"),
        Index(
            "agreement_window",
            "acceptance_due_at",
            postgresql_where=text("kind = 'license' AND status IN ('active', 'delivered')"),
        ),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    trade_id: UUID = Field(sa_column=uuid_column())
    buy_order_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    sell_order_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    listing_id: UUID = Field(sa_column=uuid_column())
    product_id: UUID = Field(sa_column=uuid_column())
    version_id: UUID = Field(sa_column=uuid_column())
    plan_id: UUID = Field(sa_column=uuid_column())
    certificate_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    kind: PlanKind = Field(sa_column=Column(_words(PlanKind), nullable=False))
    status: AgreementStatus = Field(sa_column=Column(_words(AgreementStatus), nullable=False))
    lots: int = Field(sa_column=bigint_column())
    price_minor: int = Field(sa_column=bigint_column())
    total_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=text_column())
    unit: Unit = Field(sa_column=Column(_words(Unit), nullable=False))
    lot_units: int = Field(sa_column=bigint_column())
    granted_units: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    fee_ppm: int = Field(sa_column=Column(Integer, nullable=False))
    terms: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    terms_sha256: str = Field(sa_column=text_column())
    jws: str = Field(sa_column=text_column())
    formed_at: datetime = Field(sa_column=moment_column())
    acceptance_due_at: datetime = Field(sa_column=moment_column())
    expires_at: datetime = Field(sa_column=moment_column())
    delivered_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    accepted_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    released_minor: int = Field(default=0, sa_column=bigint_column())
    refunded_minor: int = Field(default=0, sa_column=bigint_column())
    disputed_minor: int = Field(default=0, sa_column=bigint_column())
    ending: Ending | None = Field(default=None, sa_column=Column(_words(Ending), nullable=True))
    ending_reason: str | None = Field(default=None, sa_column=text_column(nullable=True))

    @property
    def escrow_minor(self) -> int:
        """What the agreement's escrow account still holds."""
        return self.total_minor - self.released_minor - self.refunded_minor - self.disputed_minor


class AgreementStep(SQLModel, table=True):
    """One change of an agreement's status (append-only history)."""

    __tablename__ = "agreement_step"
    __table_args__ = (
        _known("status", AgreementStatus, name="agreement_step_status_known"),
        Index("agreement_step_agreement", "agreement_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(sa_column=_ref("agreement", "agreement_step_agreement_fk"))
    status: AgreementStatus = Field(sa_column=Column(_words(AgreementStatus), nullable=False))
    reason: str = Field(sa_column=text_column())
    at: datetime = Field(sa_column=moment_column())


class Grant(SQLModel, table=True):
    """Access under an agreement, and its entitlement: the truth of the meter.

    ``reserved_units`` are lent to leases and not yet used, ``settled_units`` are used and
    durable. ``offered_units`` stand in resale orders, ``resold_units`` have gone to other grants
    for good. ``accrued_units`` are those used or resold whose money has been released. ``gen``
    grows with every change of status or tokens. ``granted_units`` None: no bound within the term.
    ``resold_from`` is the agreement that a resale took the units from.
    """

    __tablename__ = "access_grant"
    __table_args__ = (
        _known("status", GrantStatus, name="access_grant_status_known"),
        _known("unit", Unit, name="access_grant_unit_known"),
        CheckConstraint(
            "reserved_units >= 0 AND settled_units >= 0 AND accrued_units >= 0 "
            "AND offered_units >= 0 AND resold_units >= 0 "
            "AND accrued_units <= settled_units + resold_units AND gen > 0",
            name="access_grant_counts",
        ),
        CheckConstraint(
            "granted_units IS NULL OR reserved_units + settled_units + offered_units "
            "+ resold_units <= granted_units",
            name="access_grant_never_over",
        ),
        CheckConstraint(
            "granted_units IS NOT NULL OR offered_units + resold_units = 0",
            name="access_grant_resale_counted",
        ),
        UniqueConstraint("agreement_id", name="access_grant_agreement"),
        Index("access_grant_buyer", "buyer_id", "id"),
        Index("access_grant_seller", "seller_id", "id"),
        Index("access_grant_product", "product_id", "id"),
        Index(
            "access_grant_unaccrued",
            "id",
            postgresql_where=text("settled_units + resold_units > accrued_units"),
        ),
        Index(
            "access_grant_expiring",
            "expires_at",
            postgresql_where=text("status IN ('active', 'suspended', 'exhausted')"),
        ),
        Index(
            "access_grant_to_close",
            "id",
            postgresql_where=text("closed_out_at IS NULL AND status IN ('expired', 'revoked')"),
        ),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(sa_column=_ref("agreement", "access_grant_agreement_fk"))
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    product_id: UUID = Field(sa_column=uuid_column())
    product_version_id: UUID = Field(sa_column=uuid_column())
    unit: Unit = Field(sa_column=Column(_words(Unit), nullable=False))
    granted_units: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    reserved_units: int = Field(default=0, sa_column=bigint_column())
    settled_units: int = Field(default=0, sa_column=bigint_column())
    accrued_units: int = Field(default=0, sa_column=bigint_column())
    offered_units: int = Field(default=0, sa_column=_zero())
    resold_units: int = Field(default=0, sa_column=_zero())
    resold_from: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    delivery_count: int = Field(default=0, sa_column=bigint_column())
    receipt_head: str = Field(default="", sa_column=text_column())
    gen: int = Field(default=1, sa_column=bigint_column())
    status: GrantStatus = Field(sa_column=Column(_words(GrantStatus), nullable=False))
    created_at: datetime = Field(sa_column=moment_column())
    expires_at: datetime = Field(sa_column=moment_column())
    ended_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    closed_out_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))

    @property
    def spent_units(self) -> int:
        """Units that are gone for good and owed to the seller: used or resold."""
        return self.settled_units + self.resold_units


class DeliveryToken(SQLModel, table=True):
    """A minted delivery token, known by its ``jti`` or, an opaque key, by ``secret_sha256``.

    The token itself is not stored. ``ends_at`` is set by its rotation: from then on it is as good
    as revoked.

    ``limits`` is a :class:`contracts.token_limits.TokenLimits` without its nulls. ``quota_id`` is
    its own quota, which it shares with the tokens that its rotation made.
    """

    __tablename__ = "delivery_token"
    __table_args__ = (
        CheckConstraint("expires_at > created_at", name="delivery_token_lives"),
        UniqueConstraint("secret_sha256", name="delivery_token_secret"),
        Index("delivery_token_grant", "grant_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(sa_column=_ref("access_grant", "delivery_token_grant_fk"))
    party_id: UUID = Field(sa_column=uuid_column())
    credential_id: UUID = Field(sa_column=uuid_column())
    label: str = Field(sa_column=text_column())
    purpose: str | None = Field(default=None, sa_column=text_column(nullable=True))
    limits: dict[str, Any] = Field(
        default_factory=dict,
        sa_column=Column(JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    )
    created_at: datetime = Field(sa_column=moment_column())
    expires_at: datetime = Field(sa_column=moment_column())
    revoked_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    ends_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    secret_sha256: str | None = Field(default=None, sa_column=text_column(nullable=True))
    quota_id: UUID | None = Field(
        default=None,
        sa_column=uuid_column(
            ForeignKey("contracts.token_quota.id", name="delivery_token_quota_fk"), nullable=True
        ),
    )


class Lease(SQLModel, table=True):
    """Units of a grant lent to the meter's cache. Its times are real, not sandbox, times.

    ``nonce`` names the emptiness of the cache that the lease was made for: the lease can be
    activated only there, so that a lost cache never brings spent units back.
    """

    __tablename__ = "lease"
    __table_args__ = (
        _known("state", LeaseState, name="lease_state_known"),
        CheckConstraint("settled_units >= 0 AND settled_units <= units", name="lease_never_over"),
        CheckConstraint(
            "(state = 'draining') = (drain_until IS NOT NULL)", name="lease_drain_until"
        ),
        Index(
            "lease_one_active",
            "grant_id",
            unique=True,
            postgresql_where=text("state = 'active'"),
        ),
        Index("lease_open", "touched_at", postgresql_where=text("state <> 'closed'")),
        Index("lease_grant", "grant_id", postgresql_where=text("state <> 'closed'")),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(sa_column=_ref("access_grant", "lease_grant_fk"))
    nonce: str = Field(sa_column=text_column())
    units: int = Field(sa_column=bigint_column())
    settled_units: int = Field(default=0, sa_column=bigint_column())
    state: LeaseState = Field(sa_column=Column(_words(LeaseState), nullable=False))
    opened_at: datetime = Field(sa_column=moment_column())
    touched_at: datetime = Field(sa_column=moment_column())
    drain_until: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Delivery(SQLModel, table=True):
    """The usage record of one delivery (append-only); unique by the client's Delivery-Id.

    ``fields`` and what follows are :class:`contracts.metering_asked.Asked`; null where unknown.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        CheckConstraint(
            "units >= 0 AND row_count >= 0 AND byte_count >= 0", name="delivery_counts"
        ),
        UniqueConstraint("grant_id", "delivery_key", name="delivery_once"),
        Index("delivery_grant", "grant_id", "id"),
        Index("delivery_grant_time", "grant_id", "delivered_at"),
        Index("delivery_time", "delivered_at", postgresql_using="brin"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(sa_column=_ref("access_grant", "delivery_grant_fk"))
    agreement_id: UUID = Field(sa_column=uuid_column())
    lease_id: UUID = Field(sa_column=uuid_column())
    token_id: UUID = Field(sa_column=uuid_column())
    receipt_id: UUID = Field(sa_column=uuid_column())
    delivery_key: str = Field(sa_column=text_column())
    query_sha256: str = Field(sa_column=text_column())
    format: str = Field(sa_column=text_column())
    units: int = Field(sa_column=bigint_column())
    row_count: int = Field(sa_column=bigint_column())
    byte_count: int = Field(sa_column=bigint_column())
    body_sha256: str = Field(sa_column=text_column())
    complete: bool = Field(sa_column=Column(Boolean, nullable=False))
    delivered_at: datetime = Field(sa_column=moment_column())
    assumed: bool = Field(
        default=False,
        sa_column=Column(Boolean, nullable=False, server_default=text("false")),
    )
    fields: list[str] | None = Field(default=None, sa_column=Column(JSONB))
    page_sequence: str | None = Field(default=None, sa_column=text_column(nullable=True))
    page_after: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    page_until: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    client_address: str | None = Field(default=None, sa_column=text_column(nullable=True))


class Receipt(SQLModel, table=True):
    """Signed proof of one delivery, chained per agreement (append-only)."""

    __tablename__ = "receipt"
    __table_args__ = (
        CheckConstraint("seq > 0", name="receipt_seq_positive"),
        CheckConstraint("(seq = 1) = (prev_sha256 = '')", name="receipt_chain_start"),
        UniqueConstraint("agreement_id", "seq", name="receipt_chain"),
        UniqueConstraint("delivery_id", name="receipt_delivery"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(sa_column=uuid_column())
    delivery_id: UUID = Field(sa_column=_ref("delivery", "receipt_delivery_fk"))
    seq: int = Field(sa_column=bigint_column())
    prev_sha256: str = Field(sa_column=text_column())
    sha256: str = Field(sa_column=text_column())
    jws: str = Field(sa_column=text_column())
    issued_at: datetime = Field(sa_column=moment_column())
