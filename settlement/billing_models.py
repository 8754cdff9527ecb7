"""Tables of billing: fee schedules, billing profiles, invoices.

All but the profiles are append-only. Triggers of migration 0014 number invoices without a gap per
issuer and year, make lines add up to their invoice, and keep credit notes within what they
correct.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    integer_column,
    moment_column,
    text_column,
    uuid_column,
)

SCHEMA = {"schema": "settlement"}
MAX_SQL = "1000000000000000"
# The issuer of fee invoices: the exchange is no party of its own.
EXCHANGE = UUID(int=0)


class InvoiceKind(StrEnum):
    """A credit note takes back part of an invoice; nothing else corrects one."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class Supply(StrEnum):
    """What was supplied: data by a seller to a buyer, or the exchange's service to a seller."""

    DATA = "data"
    FEE = "fee"


class FeeSchedule(SQLModel, table=True):
    """What the platform takes from ``effective_from`` on, of one category or (NULL) of all others.

    ``reason``, ``set_by`` and ``created_at`` are its audit record.
    """

    __tablename__ = "fee_schedule"
    __table_args__ = (
        CheckConstraint("fee_ppm BETWEEN 0 AND 999999", name="fee_schedule_rate"),
        CheckConstraint("vat_ppm BETWEEN 0 AND 999999", name="fee_schedule_vat"),
        CheckConstraint(
            f"minimum_minor >= 0 AND (cap_minor IS NULL OR cap_minor >= minimum_minor) "
            f"AND coalesce(cap_minor, minimum_minor) <= {MAX_SQL}",
            name="fee_schedule_bounds",
        ),
        CheckConstraint("effective_from >= created_at", name="fee_schedule_not_backdated"),
        Index("fee_schedule_in_force", "currency", "category", "effective_from", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    category: str | None = Field(default=None, sa_column=text_column(nullable=True))
    currency: str = Field(sa_column=Column(String(3), nullable=False))
    fee_ppm: int = Field(sa_column=integer_column())
    minimum_minor: int = Field(sa_column=bigint_column())
    cap_minor: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    vat_ppm: int = Field(sa_column=integer_column())
    effective_from: datetime = Field(sa_column=moment_column())
    reason: str = Field(sa_column=text_column())
    set_by: UUID = Field(sa_column=uuid_column())
    created_at: datetime = Field(sa_column=moment_column())


class BillingProfile(SQLModel, table=True):
    """What a party wants printed on its invoices (发票抬头); the newest values hold."""

    __tablename__ = "billing_profile"
    __table_args__ = (SCHEMA,)

    party_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    title: str = Field(sa_column=text_column())
    tax_number: str | None = Field(default=None, sa_column=text_column(nullable=True))
    address: str | None = Field(default=None, sa_column=text_column(nullable=True))
    phone: str | None = Field(default=None, sa_column=text_column(nullable=True))
    bank_name: str | None = Field(default=None, sa_column=text_column(nullable=True))
    bank_account: str | None = Field(default=None, sa_column=text_column(nullable=True))
    updated_at: datetime = Field(sa_column=moment_column())


class InvoiceSeries(SQLModel, table=True):
    """The last number of an issuer's year; written by the numbering trigger only."""

    __tablename__ = "invoice_series"
    __table_args__ = (
        CheckConstraint("last_number >= 1", name="invoice_series_positive"),
        SCHEMA,
    )

    issuer_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    year: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    last_number: int = Field(sa_column=bigint_column())


class Invoice(SQLModel, table=True):
    """One issued document; amounts of a credit note are what it takes back, as positive."""

    __tablename__ = "invoice"
    __table_args__ = (
        CheckConstraint("kind IN ('invoice', 'credit_note')", name="invoice_kind"),
        CheckConstraint("supply IN ('data', 'fee')", name="invoice_supply"),
        CheckConstraint(
            "without_tax_minor >= 0 AND tax_minor >= 0 AND total_minor > 0 "
            "AND without_tax_minor + tax_minor = total_minor",
            name="invoice_adds_up",
        ),
        CheckConstraint("issuer_id <> recipient_id", name="invoice_two_parties"),
        CheckConstraint("period_start < period_end", name="invoice_period"),
        CheckConstraint(
            "(kind = 'credit_note') = (corrects IS NOT NULL) "
            "AND (kind = 'credit_note') = (reason IS NOT NULL) "
            "AND (kind = 'credit_note') = (transfer_id IS NOT NULL)",
            name="invoice_correction",
        ),
        UniqueConstraint("issuer_id", "year", "number", name="invoice_number"),
        Index("invoice_issuer", "issuer_id", "id"),
        Index("invoice_recipient", "recipient_id", "id"),
        Index("invoice_corrects", "corrects"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    kind: str = Field(sa_column=text_column())
    supply: str = Field(sa_column=text_column())
    issuer_id: UUID = Field(sa_column=uuid_column())
    recipient_id: UUID = Field(sa_column=uuid_column())
    year: int = Field(sa_column=integer_column())
    number: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=Column(String(3), nullable=False))
    period_start: date = Field(sa_column=Column(Date, nullable=False))
    period_end: date = Field(sa_column=Column(Date, nullable=False))
    without_tax_minor: int = Field(sa_column=bigint_column())
    tax_minor: int = Field(sa_column=bigint_column())
    total_minor: int = Field(sa_column=bigint_column())
    issuer: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    recipient: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    corrects: UUID | None = Field(
        default=None,
        sa_column=uuid_column(
            ForeignKey("settlement.invoice.id", name="invoice_corrects_fk"), nullable=True
        ),
    )
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    transfer_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    issued_at: datetime = Field(sa_column=moment_column())


class InvoiceLine(SQLModel, table=True):
    """One agreement's part of an invoice. ``source_key`` lets each be invoiced once a month.

    A credit note's line has the position of the line that it corrects.
    """

    __tablename__ = "invoice_line"
    __table_args__ = (
        CheckConstraint("position >= 1", name="invoice_line_position"),
        CheckConstraint("tax_ppm BETWEEN 0 AND 999999", name="invoice_line_rate"),
        CheckConstraint(
            "without_tax_minor >= 0 AND tax_minor >= 0 AND total_minor > 0 "
            "AND without_tax_minor + tax_minor = total_minor",
            name="invoice_line_adds_up",
        ),
        UniqueConstraint("source_key", name="invoice_line_source"),
        SCHEMA,
    )

    invoice_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("settlement.invoice.id", name="invoice_line_invoice_fk"), primary_key=True
        )
    )
    position: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    agreement_id: UUID = Field(sa_column=uuid_column())
    item: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    tax_ppm: int = Field(sa_column=integer_column())
    without_tax_minor: int = Field(sa_column=bigint_column())
    tax_minor: int = Field(sa_column=bigint_column())
    total_minor: int = Field(sa_column=bigint_column())
    source_key: str | None = Field(default=None, sa_column=text_column(nullable=True))
