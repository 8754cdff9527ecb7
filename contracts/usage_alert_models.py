"""Tables of usage alerts: thresholds that a buyer has set, and what has been reached."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, uuid_column

SCHEMA = {"schema": "contracts"}
THRESHOLDS_MAX = 10


class UsageThreshold(SQLModel, table=True):
    """At which percentages of its quota the buyer of a grant wants to hear; none set: default."""

    __tablename__ = "usage_threshold"
    __table_args__ = (
        CheckConstraint(
            f"cardinality(percents) <= {THRESHOLDS_MAX} AND 1 <= ALL (percents) "
            "AND 100 >= ALL (percents)",
            name="usage_threshold_percents",
        ),
        SCHEMA,
    )

    grant_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("contracts.access_grant.id", name="usage_threshold_grant_fk"),
            primary_key=True,
        )
    )
    percents: list[int] = Field(sa_column=Column(ARRAY(SmallInteger), nullable=False))
    updated_at: datetime = Field(sa_column=moment_column())


class UsageAlert(SQLModel, table=True):
    """A threshold was reached (append-only); once per grant and percentage."""

    __tablename__ = "usage_alert"
    __table_args__ = (
        CheckConstraint("percent BETWEEN 1 AND 100", name="usage_alert_percent"),
        CheckConstraint(
            "used_units >= 0 AND used_units <= granted_units", name="usage_alert_units"
        ),
        UniqueConstraint("grant_id", "percent", name="usage_alert_once"),
        Index("usage_alert_buyer", "buyer_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("contracts.access_grant.id", name="usage_alert_grant_fk"))
    )
    buyer_id: UUID = Field(sa_column=uuid_column())
    percent: int = Field(sa_column=Column(SmallInteger, nullable=False))
    used_units: int = Field(sa_column=bigint_column())
    granted_units: int = Field(sa_column=bigint_column())
    raised_at: datetime = Field(sa_column=moment_column())
