"""Tables of pricing: plans, shares, valuations, price observations.

Plans change by retirement only; all others are append-only.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

WORD_CHARS = 16
SHARES_MAX = 50


class PlanKind(StrEnum):
    """``metered`` sells units that are counted as they are used, ``license`` a term of use."""

    METERED = "metered"
    LICENSE = "license"


class Unit(StrEnum):
    """What a lot is made of. The meter counts some of them finer: :mod:`pricing.units`."""

    ROW = "row"
    CALL = "call"
    MIB = "mib"
    QUERY = "query"
    COMPUTE_SECOND = "compute_second"
    LICENSE = "license"


class PlanStatus(StrEnum):
    """A retired plan takes no new orders; agreements under it go on."""

    ACTIVE = "active"
    RETIRED = "retired"


def _words(enum: type[StrEnum]) -> Enum:
    # VARCHAR, not a Postgres enum type: adding a value there cannot be undone by a downgrade.
    return Enum(
        enum,
        native_enum=False,
        create_constraint=False,
        length=WORD_CHARS,
        values_callable=lambda members: [member.value for member in members],
    )


class Plan(SQLModel, table=True):
    """One price plan of a listing; also the instrument that orders trade. Frozen but for retire.

    ``price_minor`` is per lot of ``lot_units`` units.
    """

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint(
            "(kind = 'metered' AND unit IN ('row', 'call', 'mib', 'query', 'compute_second')) "
            "OR (kind = 'license' AND unit = 'license' AND lot_units = 1)",
            name="plan_kind_unit",
        ),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="plan_currency_form"),
        CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="plan_price_range"),
        CheckConstraint("lot_units BETWEEN 1 AND 1000000000", name="plan_lot_range"),
        CheckConstraint("term_days BETWEEN 1 AND 3650", name="plan_term_range"),
        CheckConstraint("acceptance_window_days BETWEEN 0 AND 90", name="plan_acceptance_range"),
        CheckConstraint("status IN ('active', 'retired')", name="plan_status_known"),
        CheckConstraint(
            "(status = 'retired') = (retired_at IS NOT NULL)", name="plan_retired_when"
        ),
        Index("plan_listing_id", "listing_id", "id"),
        {"schema": "pricing"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    listing_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    seller_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    kind: PlanKind = Field(sa_column=Column(_words(PlanKind), nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    price_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    unit: Unit = Field(sa_column=Column(_words(Unit), nullable=False))
    lot_units: int = Field(sa_column=Column(Integer, nullable=False))
    term_days: int = Field(sa_column=Column(Integer, nullable=False))
    acceptance_window_days: int = Field(sa_column=Column(Integer, nullable=False))
    status: PlanStatus = Field(sa_column=Column(_words(PlanStatus), nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    retired_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))


class ShareVersion(SQLModel, table=True):
    """One setting of a listing's shares. The highest ``version`` holds for new agreements."""

    __tablename__ = "share_version"
    __table_args__ = (
        CheckConstraint("version >= 1", name="share_version_positive"),
        CheckConstraint("total_ppm BETWEEN 0 AND 999999", name="share_version_total"),
        {"schema": "pricing"},
    )

    listing_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    total_ppm: int = Field(sa_column=Column(Integer, nullable=False))
    set_by: UUID = Field(sa_column=Column(Uuid, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class Share(SQLModel, table=True):
    """A contributor's part, in ppm, of the seller's net revenue under one share version."""

    __tablename__ = "share"
    __table_args__ = (
        CheckConstraint("ppm BETWEEN 1 AND 999999", name="share_ppm_range"),
        CheckConstraint("position BETWEEN 1 AND 50", name="share_position_range"),
        UniqueConstraint("listing_id", "version", "party_id", name="share_party_once"),
        ForeignKeyConstraint(
            ["listing_id", "version"],
            ["pricing.share_version.listing_id", "pricing.share_version.version"],
            name="share_of_version",
        ),
        {"schema": "pricing"},
    )

    listing_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    position: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    party_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    ppm: int = Field(sa_column=Column(Integer, nullable=False))


class Valuation(SQLModel, table=True):
    """A valuation with everything needed to repeat it: inputs, evidence, method version."""

    __tablename__ = "valuation"
    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="valuation_currency_form"),
        CheckConstraint(
            "0 <= low_minor AND low_minor <= value_minor AND value_minor <= high_minor "
            "AND 1 <= value_minor AND high_minor <= 1000000000000000",
            name="valuation_range",
        ),
        Index("valuation_listing_id", "listing_id", "id"),
        Index("valuation_seller_id", "seller_id", "id"),
        {"schema": "pricing"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    listing_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    seller_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    created_by: UUID = Field(sa_column=Column(Uuid, nullable=False))
    method_version: str = Field(sa_column=Column(Text, nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    value_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    low_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    high_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    inputs: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    results: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    evidence: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class PriceObservation(SQLModel, table=True):
    """One trade as the market approach sees it: what was paid per lot, and for what; no names."""

    __tablename__ = "observation"
    __table_args__ = (
        CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="observation_price"),
        CheckConstraint("lots >= 1", name="observation_lots"),
        CheckConstraint("lot_units >= 1", name="observation_lot_units"),
        Index("observation_comparable", "category", "currency", "unit", "traded_at"),
        {"schema": "pricing"},
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    plan_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    listing_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    category: str = Field(sa_column=Column(Text, nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    unit: Unit = Field(sa_column=Column(_words(Unit), nullable=False))
    lot_units: int = Field(sa_column=Column(Integer, nullable=False))
    price_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    lots: int = Field(sa_column=Column(BigInteger, nullable=False))
    traded_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
