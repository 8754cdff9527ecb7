"""Tables of currency exchange and of corrections; all append-only."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, currency_column, moment_column, uuid_column
from settlement.models import AMOUNT_SQL, SCHEMA

RATIO_MAX = 10**12
SPREAD_MAX_BPS = 5_000


class ExchangeRate(SQLModel, table=True):
    """An operator's rate: one major unit of ``source`` is numerator/denominator of ``target``.

    Of several valid ones the newest counts; a rate is replaced, never changed.
    """

    __tablename__ = "exchange_rate"
    __table_args__ = (
        CheckConstraint("source <> target", name="exchange_rate_pair"),
        CheckConstraint(
            f"numerator BETWEEN 1 AND {RATIO_MAX} AND denominator BETWEEN 1 AND {RATIO_MAX}",
            name="exchange_rate_ratio",
        ),
        CheckConstraint(f"spread_bps BETWEEN 0 AND {SPREAD_MAX_BPS}", name="exchange_rate_spread"),
        CheckConstraint("valid_until > valid_from", name="exchange_rate_validity"),
        Index("exchange_rate_pair_id", "source", "target", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    source: str = Field(sa_column=currency_column())
    target: str = Field(sa_column=currency_column())
    numerator: int = Field(sa_column=bigint_column())
    denominator: int = Field(sa_column=bigint_column())
    spread_bps: int = Field(sa_column=Column(Integer, nullable=False))
    valid_from: datetime = Field(sa_column=moment_column())
    valid_until: datetime = Field(sa_column=moment_column())
    set_by: UUID = Field(sa_column=uuid_column())
    created_at: datetime = Field(sa_column=moment_column())


class ExchangeQuote(SQLModel, table=True):
    """What a party was offered: ``gross`` at the rate, less ``fee``, for ``amount``."""

    __tablename__ = "exchange_quote"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="exchange_quote_amount"),
        CheckConstraint("fee_minor >= 0 AND gross_minor > fee_minor", name="exchange_quote_fee"),
        Index("exchange_quote_party_id", "party_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    rate_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("settlement.exchange_rate.id", name="exchange_quote_rate_id_fkey")
        )
    )
    amount_minor: int = Field(sa_column=bigint_column())
    source: str = Field(sa_column=currency_column())
    gross_minor: int = Field(sa_column=bigint_column())
    fee_minor: int = Field(sa_column=bigint_column())
    target: str = Field(sa_column=currency_column())
    expires_at: datetime = Field(sa_column=moment_column())
    created_at: datetime = Field(sa_column=moment_column())


class ExchangeConversion(SQLModel, table=True):
    """A quote that was taken; once, by its key."""

    __tablename__ = "exchange_conversion"
    __table_args__ = (
        UniqueConstraint("transfer_id", name="exchange_conversion_transfer_id"),
        SCHEMA,
    )

    quote_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("settlement.exchange_quote.id", name="exchange_conversion_quote_id_fkey"),
            primary_key=True,
        )
    )
    transfer_id: UUID = Field(sa_column=uuid_column())
    converted_at: datetime = Field(sa_column=moment_column())


class Correction(SQLModel, table=True):
    """A correcting transfer that an operator proposes: account ids and signed minor units."""

    __tablename__ = "correction"
    __table_args__ = (SCHEMA,)

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    reverses: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    legs: list[list[Any]] = Field(sa_column=Column(JSONB, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    event_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    proposed_by: UUID = Field(sa_column=uuid_column())
    created_at: datetime = Field(sa_column=moment_column())


class CorrectionApproval(SQLModel, table=True):
    """A second operator's approval; by CHECK never the proposer's own."""

    __tablename__ = "correction_approval"
    __table_args__ = (
        CheckConstraint("approved_by <> proposed_by", name="correction_approval_two_operators"),
        UniqueConstraint("transfer_id", name="correction_approval_transfer_id"),
        SCHEMA,
    )

    correction_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("settlement.correction.id", name="correction_approval_correction_id_fkey"),
            primary_key=True,
        )
    )
    transfer_id: UUID = Field(sa_column=uuid_column())
    proposed_by: UUID = Field(sa_column=uuid_column())
    approved_by: UUID = Field(sa_column=uuid_column())
    approved_at: datetime = Field(sa_column=moment_column())
