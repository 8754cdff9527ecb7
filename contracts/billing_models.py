"""Tables of released money as invoices need it, and of releases by mutual agreement.

``release_record`` is append-only; an adjustment changes by its answer only.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column

SCHEMA = {"schema": "contracts"}


class AdjustmentStatus(StrEnum):
    """``open`` until the other party answers or the proposer takes it back."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"


class ReleaseRecord(SQLModel, table=True):
    """One release of an agreement's money, by use, acceptance, adjustment or ruling.

    ``…_before_minor`` is what the agreement's earlier releases sum to: parts and tax are rounded
    cumulatively.
    """

    __tablename__ = "release_record"
    __table_args__ = (
        CheckConstraint(
            "amount_minor > 0 AND fee_minor BETWEEN 0 AND amount_minor "
            "AND released_before_minor >= 0 AND fee_before_minor >= 0",
            name="release_record_amounts",
        ),
        UniqueConstraint("transfer_id", name="release_record_transfer"),
        Index("release_record_month", "released_at"),
        Index("release_record_agreement", "agreement_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("contracts.agreement.id", name="release_record_agreement_fk")
        )
    )
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    currency: str = Field(sa_column=Column(String(3), nullable=False))
    transfer_id: UUID = Field(sa_column=uuid_column())
    amount_minor: int = Field(sa_column=bigint_column())
    fee_minor: int = Field(sa_column=bigint_column())
    released_before_minor: int = Field(sa_column=bigint_column())
    fee_before_minor: int = Field(sa_column=bigint_column())
    released_at: datetime = Field(sa_column=moment_column())


class Adjustment(SQLModel, table=True):
    """A proposal of one party to release or refund part of the escrow before its time."""

    __tablename__ = "adjustment"
    __table_args__ = (
        CheckConstraint("number >= 1", name="adjustment_number"),
        CheckConstraint(
            "release_minor >= 0 AND refund_minor >= 0 AND release_minor + refund_minor > 0",
            name="adjustment_amounts",
        ),
        CheckConstraint(
            "status IN ('open', 'accepted', 'declined', 'withdrawn')", name="adjustment_status"
        ),
        CheckConstraint(
            "(status = 'open') = (answered_at IS NULL)", name="adjustment_answered_when"
        ),
        Index(
            "adjustment_one_open",
            "agreement_id",
            unique=True,
            postgresql_where=text("status = 'open'"),
        ),
        SCHEMA,
    )

    agreement_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("contracts.agreement.id", name="adjustment_agreement_fk"), primary_key=True
        )
    )
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    proposed_by: UUID = Field(sa_column=uuid_column())
    release_minor: int = Field(sa_column=bigint_column())
    refund_minor: int = Field(sa_column=bigint_column())
    reason: str = Field(sa_column=text_column())
    status: AdjustmentStatus = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())
    answered_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
