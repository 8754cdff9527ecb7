"""Tables of the kernel: outbox, idempotent answers, the sandbox clock."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Interval,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel


class OutboxEvent(SQLModel, table=True):
    """One event, written in the transaction that caused it."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_position", "txid", "seq"),
        Index("outbox_parties", "parties", postgresql_using="gin"),
        {"schema": "kernel"},
    )

    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    txid: int = Field(
        sa_column=Column(
            BigInteger,
            nullable=False,
            server_default=text("((pg_current_xact_id())::text)::bigint"),
        )
    )
    id: UUID = Field(sa_column=Column(Uuid(), nullable=False))
    type: str = Field(sa_column=Column(Text, nullable=False))
    object_id: UUID = Field(sa_column=Column(Uuid(), nullable=False))
    parties: list[UUID] = Field(sa_column=Column(ARRAY(Uuid()), nullable=False))
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )


class IdempotentAnswer(SQLModel, table=True):
    """The answer to one Idempotency-Key; the key itself is stored as SHA-256."""

    __tablename__ = "idempotent_answer"
    __table_args__ = (
        CheckConstraint("octet_length(key_hash) = 32", name="idempotent_answer_key_hash"),
        CheckConstraint("octet_length(request_hash) = 32", name="idempotent_answer_request_hash"),
        Index("idempotent_answer_created_at", "created_at"),
        {"schema": "kernel"},
    )

    scope: UUID = Field(sa_column=Column(Uuid(), primary_key=True))
    key_hash: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    request_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    status: int = Field(sa_column=Column(SmallInteger, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    headers: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    encrypted: bool = Field(sa_column=Column(Boolean, nullable=False))
    created_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )


class SandboxClock(SQLModel, table=True):
    """How far the sandbox's clock was moved ahead; always zero in production."""

    __tablename__ = "sandbox_clock"
    __table_args__ = (
        CheckConstraint("id = 1", name="sandbox_clock_single"),
        CheckConstraint("ahead >= '00:00:00'::interval", name="sandbox_clock_forward"),
        {"schema": "kernel"},
    )

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    ahead: timedelta = Field(sa_column=Column(Interval, nullable=False))
