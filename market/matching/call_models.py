"""The table of call auctions: when each one collects, and what it traded."""

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
    Numeric,
    Text,
    Uuid,
    text,
)
from sqlmodel import Field, SQLModel

_OPEN = "status IN ('scheduled', 'collecting')"


class CallStatus(StrEnum):
    """``void``: it ended without trading, and its instrument was halted."""

    SCHEDULED = "scheduled"
    COLLECTING = "collecting"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    VOID = "void"

    @property
    def is_open(self) -> bool:
        return self in (CallStatus.SCHEDULED, CallStatus.COLLECTING)


class CallAuction(SQLModel, table=True):
    """A call auction of one instrument; at most one of them is open.

    While it collects, price (minor units per lot), volume and surplus (lots; > 0: demand left)
    are indicative; once ``closed`` they are what traded. ``surplus_lots`` is null when a posted
    price without an end takes part: then no demand is left at the price.
    """

    __tablename__ = "call_auction"
    __table_args__ = (
        CheckConstraint(
            "status IN ('scheduled', 'collecting', 'closed', 'cancelled', 'void')",
            name="call_auction_status_known",
        ),
        CheckConstraint("opens_at < closes_at", name="call_auction_times"),
        CheckConstraint(
            "(price_minor IS NULL) = (volume_lots IS NULL)", name="call_auction_price_volume"
        ),
        CheckConstraint(
            "price_minor IS NOT NULL OR surplus_lots IS NULL", name="call_auction_surplus"
        ),
        Index(
            "call_auction_open",
            "plan_id",
            unique=True,
            postgresql_where=text(_OPEN),
        ),
        Index("call_auction_plan", "plan_id", "id"),
        {"schema": "matching"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    plan_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    status: str = Field(sa_column=Column(Text, nullable=False))
    reopening: bool = Field(sa_column=Column(Boolean, nullable=False))
    opens_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    closes_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    price_minor: int | None = Field(default=None, sa_column=Column(BigInteger))
    volume_lots: int | None = Field(default=None, sa_column=Column(Numeric(30, 0)))
    surplus_lots: int | None = Field(default=None, sa_column=Column(Numeric(30, 0)))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
