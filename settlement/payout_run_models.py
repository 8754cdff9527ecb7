"""Tables of payout runs, of debts that were given up, and of what operators did."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Date, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    currency_column,
    moment_column,
    text_column,
    uuid_column,
)
from settlement.models import AMOUNT_SQL, SCHEMA


class Interval(StrEnum):
    """When a balance is paid out: each day, on Mondays, on the first of the month, or by hand."""

    MANUAL = "manual"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class RunTrigger(StrEnum):
    """``schedule`` takes what is due; ``operator`` every balance that is not paid by hand."""

    SCHEDULE = "schedule"
    OPERATOR = "operator"


class PayoutSchedule(SQLModel, table=True):
    """How a party wants one currency paid out. ``keep_minor`` stays on the balance."""

    __tablename__ = "payout_schedule"
    __table_args__ = (
        CheckConstraint(
            "\"interval\" IN ('manual', 'daily', 'weekly', 'monthly')",
            name="payout_schedule_interval",
        ),
        CheckConstraint(
            "(\"interval\" = 'manual') = (next_on IS NULL)", name="payout_schedule_next"
        ),
        CheckConstraint("minimum_minor >= 1 AND keep_minor >= 0", name="payout_schedule_amounts"),
        Index("payout_schedule_due", "next_on", postgresql_where=text("next_on IS NOT NULL")),
        SCHEMA,
    )

    party_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    currency: str = Field(sa_column=currency_column(primary_key=True))
    interval: str = Field(sa_column=text_column())
    minimum_minor: int = Field(sa_column=bigint_column())
    keep_minor: int = Field(sa_column=bigint_column())
    destination: str | None = Field(default=None, sa_column=text_column(nullable=True))
    next_on: date | None = Field(default=None, sa_column=Column(Date, nullable=True))
    updated_at: datetime = Field(sa_column=moment_column())


class PayoutRun(SQLModel, table=True):
    """One pass over the schedules. At most one is open per rail and trigger."""

    __tablename__ = "payout_run"
    __table_args__ = (
        CheckConstraint("trigger IN ('schedule', 'operator')", name="payout_run_trigger"),
        Index(
            "payout_run_open",
            "rail",
            "trigger",
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rail: str = Field(sa_column=text_column())
    trigger: str = Field(sa_column=text_column())
    day: date = Field(sa_column=Column(Date, nullable=False))
    started_at: datetime = Field(sa_column=moment_column())
    finished_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class PayoutRunLine(SQLModel, table=True):
    """What a run did for one balance: a payout, or the reason why there is none."""

    __tablename__ = "payout_run_line"
    __table_args__ = (
        CheckConstraint(
            "(payout_id IS NULL) = (skipped IS NOT NULL)", name="payout_run_line_outcome"
        ),
        SCHEMA,
    )

    run_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    currency: str = Field(sa_column=currency_column(primary_key=True))
    payout_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    skipped: str | None = Field(default=None, sa_column=text_column(nullable=True))
    balance_minor: int = Field(sa_column=bigint_column())
    netted_minor: int = Field(sa_column=bigint_column())
    held_back_minor: int = Field(sa_column=bigint_column())
    amount_minor: int = Field(sa_column=bigint_column())
    at: datetime = Field(sa_column=moment_column())


class WriteOff(SQLModel, table=True):
    """A debt that was booked to losses; ``recovered_minor`` came back later from the bank."""

    __tablename__ = "write_off"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="write_off_amount"),
        CheckConstraint("recovered_minor BETWEEN 0 AND amount_minor", name="write_off_recovered"),
        Index("write_off_party", "party_id", "currency"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    currency: str = Field(sa_column=currency_column())
    amount_minor: int = Field(sa_column=bigint_column())
    recovered_minor: int = Field(sa_column=bigint_column())
    reason: str = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())


class OperatorAction(SQLModel, table=True):
    """Append-only: who decided what about money, when and why. ``via``: api or cli."""

    __tablename__ = "operator_action"
    __table_args__ = (
        CheckConstraint("via IN ('api', 'cli')", name="operator_action_via"),
        Index("operator_action_subject", "subject_id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    via: str = Field(sa_column=text_column())
    actor_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    credential_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    action: str = Field(sa_column=text_column())
    subject_id: UUID = Field(sa_column=uuid_column())
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    at: datetime = Field(sa_column=moment_column())
