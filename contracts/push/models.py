"""Tables of pushes: where to, what, and the parts that arrived."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    bytes_column,
    integer_column,
    moment_column,
    text_column,
    uuid_column,
)


class TargetKind(StrEnum):
    """How parts are handed over."""

    WEBHOOK = "webhook"
    S3 = "s3"


class TargetStatus(StrEnum):
    """Only a verified target is pushed to; a retired one has no secret any more."""

    UNVERIFIED = "unverified"
    VERIFIED = "verified"
    RETIRED = "retired"


class PushStatus(StrEnum):
    """``exhausted``, ``refused`` and ``dead`` pushes stand still until they are tried again."""

    ACTIVE = "active"
    COMPLETED = "completed"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"
    DEAD = "dead"
    CANCELED = "canceled"


class Follow(StrEnum):
    """What of a later version is pushed by itself: all its rows, or what changed."""

    ALL = "all"
    CHANGES = "changes"


class PushTarget(SQLModel, table=True):
    """A buyer's address; ``sealed`` is its secret by ``market.kernel.envelope``."""

    __tablename__ = "push_target"
    __table_args__ = (
        CheckConstraint("kind IN ('webhook', 's3')", name="push_target_kind_known"),
        CheckConstraint(
            "status IN ('unverified', 'verified', 'retired')", name="push_target_status_known"
        ),
        CheckConstraint("(status = 'retired') = (sealed IS NULL)", name="push_target_secret"),
        Index("push_target_party", "party_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    kind: TargetKind = Field(sa_column=text_column())
    url: str = Field(sa_column=text_column())
    # Of S3: region, bucket, prefix.
    place: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    key_id: str = Field(sa_column=text_column())
    sealed: bytes | None = Field(default=None, sa_column=bytes_column(nullable=True))
    status: TargetStatus = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())
    verified_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Push(SQLModel, table=True):
    """A query of one version on its way to a target, part by part.

    With ``since`` it is one of what changed after that version. ``follow`` belongs to the newest
    push of a chain: it passes to the next one, whose ``previous_id`` names this one.
    ``next_after`` is the cursor behind the last part that arrived; ``breaks`` counts deliveries of
    the next one that ended before their last byte.
    """

    __tablename__ = "push"
    __table_args__ = (
        CheckConstraint(
            "status IN ('active', 'completed', 'exhausted', 'refused', 'dead', 'canceled')",
            name="push_status_known",
        ),
        CheckConstraint(
            "parts >= 0 AND rows >= 0 AND bytes >= 0 AND attempts >= 0 AND breaks >= 0",
            name="push_counts",
        ),
        CheckConstraint("follow IN ('all', 'changes')", name="push_follow_known"),
        CheckConstraint("since <= version", name="push_since_before"),
        UniqueConstraint("previous_id", name="push_previous"),
        Index("push_due", "next_at", postgresql_where=text("status = 'active'")),
        Index("push_party", "party_id", "id"),
        Index("push_grant", "grant_id", postgresql_where=text("status = 'active'")),
        Index("push_target_of", "target_id"),
        Index(
            "push_following",
            "next_at",
            postgresql_where=text("status = 'completed' AND follow IS NOT NULL"),
        ),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    target_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("contracts.push_target.id", name="push_target_fk"))
    )
    grant_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("contracts.access_grant.id", name="push_grant_fk"))
    )
    token_id: UUID = Field(sa_column=uuid_column())
    version: int = Field(sa_column=integer_column())
    since: int | None = Field(default=None, sa_column=integer_column(nullable=True))
    follow: Follow | None = Field(default=None, sa_column=text_column(nullable=True))
    previous_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    query: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    status: PushStatus = Field(sa_column=text_column())
    parts: int = Field(default=0, sa_column=integer_column())
    rows: int = Field(default=0, sa_column=bigint_column())
    bytes: int = Field(default=0, sa_column=bigint_column())
    next_after: str | None = Field(default=None, sa_column=text_column(nullable=True))
    all_sent: bool = Field(default=False)
    breaks: int = Field(default=0, sa_column=integer_column())
    attempts: int = Field(default=0, sa_column=integer_column())
    problem: str | None = Field(default=None, sa_column=text_column(nullable=True))
    next_at: datetime = Field(sa_column=moment_column())
    leased_until: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
    ended_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class PushPart(SQLModel, table=True):
    """A part that the target took (append-only)."""

    __tablename__ = "push_part"
    __table_args__ = (
        CheckConstraint("number > 0 AND rows >= 0 AND bytes >= 0", name="push_part_counts"),
        {"schema": "contracts"},
    )

    push_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("contracts.push.id", name="push_part_push_fk"), primary_key=True
        )
    )
    number: int = Field(sa_column=integer_column(primary_key=True))
    delivery_key: str = Field(sa_column=text_column())
    receipt_id: UUID = Field(sa_column=uuid_column())
    rows: int = Field(sa_column=bigint_column())
    bytes: int = Field(sa_column=bigint_column())
    sha256: str = Field(sa_column=text_column())
    arrived_at: datetime = Field(sa_column=moment_column())
