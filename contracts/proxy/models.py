"""Tables of the proxy: upstreams, their sealed secrets, kept answers, violations."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Uuid, text
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


class UpstreamStatus(StrEnum):
    """A retired upstream answers nothing and has no secret any more."""

    ACTIVE = "active"
    RETIRED = "retired"


class Upstream(SQLModel, table=True):
    """A seller's API behind a product; ``operations`` are ``contracts.proxy.schemas.Operation``.

    ``revision`` grows with each replacement, so that what was cached or learned of the one before
    is not used for it.
    """

    __tablename__ = "upstream"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'retired')", name="upstream_status_known"),
        CheckConstraint("(status = 'retired') = (retired_at IS NOT NULL)", name="upstream_retired"),
        CheckConstraint("revision > 0", name="upstream_revision_positive"),
        Index(
            "upstream_product",
            "product_id",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
        Index("upstream_owner", "owner_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    product_id: UUID = Field(sa_column=uuid_column())
    owner_id: UUID = Field(sa_column=uuid_column())
    base_url: str = Field(sa_column=text_column())
    secret: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )
    operations: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    status: UpstreamStatus = Field(sa_column=text_column())
    revision: int = Field(default=1, sa_column=integer_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    retired_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class UpstreamSecret(SQLModel, table=True):
    """The secret in force, sealed by ``market.kernel.envelope``; the one before is gone."""

    __tablename__ = "upstream_secret"
    __table_args__ = (
        CheckConstraint("number > 0", name="upstream_secret_number_positive"),
        Index("upstream_secret_key", "key_id"),
        {"schema": "contracts"},
    )

    upstream_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("contracts.upstream.id", name="upstream_secret_upstream_fk"),
            primary_key=True,
        )
    )
    number: int = Field(sa_column=integer_column())
    key_id: str = Field(sa_column=text_column())
    sealed: bytes = Field(sa_column=bytes_column())
    set_at: datetime = Field(sa_column=moment_column())


class KeptAnswer(SQLModel, table=True):
    """An answer under a client's own Delivery-Id, for its free repetition."""

    __tablename__ = "proxy_answer"
    __table_args__ = (
        CheckConstraint("octet_length(body) <= 1048576", name="proxy_answer_bounded"),
        Index("proxy_answer_until", "kept_until"),
        {"schema": "contracts"},
    )

    grant_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    delivery_key: str = Field(sa_column=text_column(primary_key=True))
    query_sha256: str = Field(sa_column=text_column())
    media_type: str = Field(sa_column=text_column())
    body: bytes = Field(sa_column=bytes_column())
    kept_until: datetime = Field(sa_column=moment_column())


class ViolationKind(StrEnum):
    """What an upstream's answer broke."""

    SCHEMA = "schema"
    MEDIA_TYPE = "media_type"
    ENCODING = "encoding"
    FRAMING = "framing"
    SIZE = "size"
    REDIRECT = "redirect"
    ECHO = "secret_echo"


class Violation(SQLModel, table=True):
    """An answer that broke its operation's description (append-only). Holds none of its content."""

    __tablename__ = "proxy_violation"
    __table_args__ = (
        CheckConstraint("byte_count >= 0", name="proxy_violation_bytes"),
        Index("proxy_violation_agreement", "agreement_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("contracts.agreement.id", name="proxy_violation_agreement_fk"),
            nullable=False,
        )
    )
    upstream_id: UUID = Field(sa_column=uuid_column())
    revision: int = Field(sa_column=integer_column())
    delivery_key: str = Field(sa_column=text_column())
    operation: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    kind: ViolationKind = Field(sa_column=text_column())
    findings: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    parameters_sha256: str = Field(sa_column=text_column())
    body_sha256: str = Field(sa_column=text_column())
    byte_count: int = Field(sa_column=bigint_column())
    happened_at: datetime = Field(sa_column=moment_column())
