"""Table of Delta Sharing's queries: one file each, and what of it has been sent and charged."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column


class ShareQuery(SQLModel, table=True):
    """One answered query. ``units`` is what its whole file costs; ``charged`` of them are settled.

    ``covered`` holds the sent byte ranges ``[[start, end), …]``, ``covered_bytes`` their sum. A
    query without rows has no file.
    """

    __tablename__ = "share_query"
    __table_args__ = (
        CheckConstraint("row_count >= 0 AND units >= 0", name="share_query_counts"),
        CheckConstraint("charged >= 0 AND charged <= units", name="share_query_never_over"),
        CheckConstraint(
            "covered_bytes >= 0 AND covered_bytes <= byte_count", name="share_query_covered"
        ),
        CheckConstraint("(row_count = 0) = (blob_key IS NULL)", name="share_query_file"),
        UniqueConstraint("grant_id", "delivery_key", name="share_query_once"),
        Index("share_query_expiry", "expires_at"),
        Index("share_query_blob", "blob_key"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("contracts.access_grant.id", name="share_query_grant_fk"),
            nullable=False,
        )
    )
    agreement_id: UUID = Field(sa_column=uuid_column())
    version_id: UUID = Field(sa_column=uuid_column())
    buyer_id: UUID = Field(sa_column=uuid_column())
    token_id: UUID = Field(sa_column=uuid_column())
    delivery_key: str = Field(sa_column=text_column())
    query_sha256: str = Field(sa_column=text_column())
    blob_key: str | None = Field(default=None, sa_column=text_column(nullable=True))
    byte_count: int = Field(sa_column=bigint_column())
    row_count: int = Field(sa_column=bigint_column())
    in_parts: bool = Field(sa_column=Column(Boolean, nullable=False))
    units: int = Field(sa_column=bigint_column())
    seller_safe: bool = Field(sa_column=Column(Boolean, nullable=False))
    fields: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    covered: list[Any] = Field(sa_column=Column(JSONB, nullable=False))
    covered_bytes: int = Field(default=0, sa_column=bigint_column())
    charged: int = Field(default=0, sa_column=bigint_column())
    created_at: datetime = Field(sa_column=moment_column())
    expires_at: datetime = Field(sa_column=moment_column())
