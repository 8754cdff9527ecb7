"""Tables of the rails: commands sent to Stripe, payout accounts, refunds, received webhooks."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from settlement.models import AMOUNT_SQL, SCHEMA


class RefundStatus(StrEnum):
    """``pending``: the money has left the balance, the rail has not decided."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class WebhookState(StrEnum):
    """``received`` waits for the worker; ``dead`` failed too often; both can be replayed."""

    RECEIVED = "received"
    DONE = "done"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"
    DEAD = "dead"


class StripeCommand(SQLModel, table=True):
    """A creating call to Stripe, committed before it is made. ``key`` is its Idempotency-Key.

    ``subject_id`` is the object of ours that it serves; ``account`` the connected account.
    """

    __tablename__ = "stripe_command"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('customer', 'checkout', 'payment_intent', 'refund', 'account', 'schedule', "
            "'transfer', 'payout', 'reversal')",
            name="stripe_command_kind",
        ),
        CheckConstraint("object_id IS NULL OR failure_code IS NULL", name="stripe_command_outcome"),
        Index("stripe_command_subject", "subject_id", "kind"),
        SCHEMA,
    )

    key: UUID = Field(sa_column=Column(Uuid(), primary_key=True, nullable=False))
    kind: str = Field(sa_column=Column(Text, nullable=False))
    subject_id: UUID = Field(sa_column=Column(Uuid(), nullable=False))
    account: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    object_id: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    failure_code: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class PayoutAccount(SQLModel, table=True):
    """A seller's account at the rail, as last fetched from it."""

    __tablename__ = "payout_account"
    __table_args__ = (
        UniqueConstraint("rail", "account", name="payout_account_name"),
        SCHEMA,
    )

    party_id: UUID = Field(sa_column=Column(Uuid(), primary_key=True, nullable=False))
    rail: str = Field(sa_column=Column(Text, primary_key=True, nullable=False))
    account: str = Field(sa_column=Column(Text, nullable=False))
    details_submitted: bool = Field(sa_column=Column(Boolean, nullable=False))
    payouts_enabled: bool = Field(sa_column=Column(Boolean, nullable=False))
    due: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    disabled_reason: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class Refund(SQLModel, table=True):
    """Money of a top-up on its way back to the card. Its id is the key of the rail's refund."""

    __tablename__ = "refund"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="refund_amount"),
        CheckConstraint("status IN ('pending', 'succeeded', 'failed')", name="refund_status"),
        CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="refund_failure"),
        CheckConstraint("attempts >= 0", name="refund_attempts"),
        Index("refund_top_up_id", "top_up_id"),
        Index("refund_due", "next_attempt_at", postgresql_where=text("status = 'pending'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=Column(Uuid(), primary_key=True, nullable=False))
    top_up_id: UUID = Field(sa_column=Column(Uuid(), nullable=False))
    party_id: UUID = Field(sa_column=Column(Uuid(), nullable=False))
    amount_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    currency: str = Field(sa_column=Column(String(3), nullable=False))
    rail: str = Field(sa_column=Column(Text, nullable=False))
    status: str = Field(sa_column=Column(Text, nullable=False))
    failure_code: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    next_attempt_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class WebhookEvent(SQLModel, table=True):
    """A verified event. Only names are kept: the worker fetches the object as it is now."""

    __tablename__ = "webhook_event"
    __table_args__ = (
        CheckConstraint(
            "state IN ('received', 'done', 'ignored', 'quarantined', 'dead')",
            name="webhook_event_state",
        ),
        CheckConstraint("attempts >= 0", name="webhook_event_attempts"),
        UniqueConstraint("source", "event_id", name="webhook_event_name"),
        Index("webhook_event_due", "next_attempt_at", postgresql_where=text("state = 'received'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=Column(Uuid(), primary_key=True, nullable=False))
    source: str = Field(sa_column=Column(Text, nullable=False))
    event_id: str = Field(sa_column=Column(Text, nullable=False))
    type: str = Field(sa_column=Column(Text, nullable=False))
    object_id: str = Field(sa_column=Column(Text, nullable=False))
    account: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    livemode: bool = Field(sa_column=Column(Boolean, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    detail: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    next_attempt_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    processed_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), nullable=True)
    )
