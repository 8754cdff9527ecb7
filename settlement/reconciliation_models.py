"""Tables of reconciliation: the rail's movements, runs, chargebacks, and cases for operators."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Date, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    currency_column,
    integer_column,
    moment_column,
    text_column,
    uuid_column,
)
from settlement.models import SCHEMA

# ISO 4217 for "no currency": keys need a value where a case concerns none.
NO_CURRENCY = "XXX"


class CaseKind(StrEnum):
    """Why somebody has to look. The first four are differences of a reconciliation."""

    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT_DIFFERS = "amount_differs"
    FEE_DIFFERS = "fee_differs"
    CHARGEBACK = "chargeback"
    REFUSED = "refused"
    TRANSFER_REVERSED = "transfer_reversed"


DIFFERENCES = frozenset(
    {
        CaseKind.MISSING_HERE,
        CaseKind.MISSING_THERE,
        CaseKind.AMOUNT_DIFFERS,
        CaseKind.FEE_DIFFERS,
    }
)


class CaseState(StrEnum):
    """A closed case that comes back is a new one."""

    OPEN = "open"
    CLOSED = "closed"


class Resolution(StrEnum):
    """How a case ended. ``agrees``: by itself, the two sides are equal now."""

    EXPLAINED = "explained"
    BOOKED_TO_LOSSES = "booked_to_losses"
    AGREES = "agrees"


class ChargebackOutcome(StrEnum):
    """Where a cardholder's dispute stands at the bank."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


class RailMovement(SQLModel, table=True):
    """One movement of our balance at the rail, as read. ``reconciled_on`` once it was compared."""

    __tablename__ = "rail_movement"
    __table_args__ = (
        UniqueConstraint("rail", "position", name="rail_movement_name"),
        Index("rail_movement_key", "key"),
        Index("rail_movement_source", "source"),
        Index(
            "rail_movement_open",
            "rail",
            "moved_at",
            postgresql_where=text("reconciled_on IS NULL"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rail: str = Field(sa_column=text_column())
    position: str = Field(sa_column=text_column())
    kind: str = Field(sa_column=text_column())
    source: str | None = Field(default=None, sa_column=text_column(nullable=True))
    key: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    amount_minor: int = Field(sa_column=bigint_column())
    fee_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    moved_at: datetime = Field(sa_column=moment_column())
    read_at: datetime = Field(sa_column=moment_column())
    reconciled_on: date | None = Field(default=None, sa_column=Column(Date, nullable=True))


class Reconciliation(SQLModel, table=True):
    """One comparison of rail and ledger over [``since``, ``until``), with what it found."""

    __tablename__ = "reconciliation"
    __table_args__ = (
        CheckConstraint("since < until", name="reconciliation_span"),
        Index("reconciliation_until", "rail", "until"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rail: str = Field(sa_column=text_column())
    since: datetime = Field(sa_column=moment_column())
    until: datetime = Field(sa_column=moment_column())
    movement_count: int = Field(sa_column=integer_column())
    subject_count: int = Field(sa_column=integer_column())
    in_flight_count: int = Field(sa_column=integer_column())
    difference_count: int = Field(sa_column=integer_column())
    totals: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=moment_column())


class RailCase(SQLModel, table=True):
    """Something that a person must look at; one open case per kind, subject and currency.

    ``ledger_minor`` and ``rail_minor`` are what the two sides say, as seen from the rail:
    positive is money that came in.
    """

    __tablename__ = "rail_case"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('missing_here', 'missing_there', 'amount_differs', 'fee_differs', "
            "'chargeback', 'refused', 'transfer_reversed')",
            name="rail_case_kind",
        ),
        CheckConstraint("state IN ('open', 'closed')", name="rail_case_state"),
        CheckConstraint(
            "resolution IN ('explained', 'booked_to_losses', 'agrees')",
            name="rail_case_resolution",
        ),
        CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL) "
            "AND (closed_at IS NULL) = (reason IS NULL) "
            "AND (closed_at IS NULL) = (resolution IS NULL)",
            name="rail_case_closing",
        ),
        Index(
            "rail_case_open",
            "rail",
            "kind",
            "subject_id",
            "currency",
            unique=True,
            postgresql_where=text("state = 'open'"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rail: str = Field(sa_column=text_column())
    kind: str = Field(sa_column=text_column())
    subject_id: UUID = Field(sa_column=uuid_column())
    party_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    currency: str = Field(sa_column=currency_column())
    ledger_minor: int = Field(sa_column=bigint_column())
    rail_minor: int = Field(sa_column=bigint_column())
    detail: str = Field(sa_column=text_column())
    state: str = Field(sa_column=text_column())
    opened_at: datetime = Field(sa_column=moment_column())
    seen_at: datetime = Field(sa_column=moment_column())
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    closed_by: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    resolution: str | None = Field(default=None, sa_column=text_column(nullable=True))
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))


class ChargebackRecord(SQLModel, table=True):
    """A cardholder's dispute. ``amount_minor`` is what the bank holds now, ``party_minor`` the
    part of it that the party was charged; ``steps`` orders what the rail says."""

    __tablename__ = "chargeback"
    __table_args__ = (
        CheckConstraint("outcome IN ('open', 'won', 'lost')", name="chargeback_outcome"),
        CheckConstraint(
            "party_minor BETWEEN 0 AND amount_minor AND steps >= 0 AND postings >= 0",
            name="chargeback_figures",
        ),
        UniqueConstraint("rail", "dispute", name="chargeback_name"),
        Index("chargeback_top_up", "top_up_id"),
        Index("chargeback_open", "checked_at", postgresql_where=text("outcome = 'open'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rail: str = Field(sa_column=text_column())
    dispute: str = Field(sa_column=text_column())
    top_up_id: UUID = Field(sa_column=uuid_column())
    currency: str = Field(sa_column=currency_column())
    amount_minor: int = Field(sa_column=bigint_column())
    party_minor: int = Field(sa_column=bigint_column())
    steps: int = Field(sa_column=integer_column())
    postings: int = Field(sa_column=integer_column())
    outcome: str = Field(sa_column=text_column())
    hold_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    checked_at: datetime = Field(sa_column=moment_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
