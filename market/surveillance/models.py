"""Tables of market.surveillance: alerts for operators, and how far the trades were examined."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

SCHEMA = {"schema": "surveillance"}


class AlertStatus(StrEnum):
    """A decided alert does not change again (trigger)."""

    OPEN = "open"
    DISMISSED = "dismissed"
    CONFIRMED = "confirmed"


class SurveillanceAlert(SQLModel, table=True):
    """A suspicion with its evidence. One per rule, subject and window of time."""

    __tablename__ = "alert"
    __table_args__ = (
        CheckConstraint(
            "rule IN ('affiliated_trade', 'circular_trading', 'cancelled_pressure', "
            "'price_jump', 'price_off_valuation', 'concentration', 'usage_spike', "
            "'usage_scraping', 'usage_address', 'usage_country')",
            name="alert_rule_known",
        ),
        CheckConstraint("status IN ('open', 'dismissed', 'confirmed')", name="alert_status_known"),
        CheckConstraint(
            "num_nulls(reason, decided_by, decided_at) = CASE status WHEN 'open' THEN 3 ELSE 0 END",
            name="alert_decided_whole",
        ),
        UniqueConstraint("rule", "subject", "window_start", name="alert_once"),
        Index("alert_open", "id", postgresql_where=text("status = 'open'")),
        Index("alert_parties", "parties", postgresql_using="gin"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    rule: str = Field(sa_column=Column(Text, nullable=False))
    subject: str = Field(sa_column=Column(Text, nullable=False))
    window_start: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    plan_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    parties: list[UUID] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    figures: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    orders: list[UUID] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    trades: list[UUID] = Field(sa_column=Column(ARRAY(Uuid), nullable=False))
    status: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(Text))
    decided_by: UUID | None = Field(default=None, sa_column=Column(Uuid))
    decided_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))


class Progress(SQLModel, table=True):
    """One row: every trade up to ``trade_seq`` has been examined."""

    __tablename__ = "progress"
    __table_args__ = (CheckConstraint("id = 1", name="progress_single"), SCHEMA)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    trade_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
