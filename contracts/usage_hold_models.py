"""Tables of holds on access because of unusual use, and of who wants them set by themselves."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from market.kernel.columns import moment_column, text_column, uuid_column

SCHEMA = {"schema": "contracts"}


class UsageSuspicion(StrEnum):
    """What use may look like: sudden volume, a set read page by page, an address or country never
    seen.
    """

    SPIKE = "usage_spike"
    SCRAPING = "usage_scraping"
    ADDRESS = "usage_address"
    COUNTRY = "usage_country"


_KNOWN = ", ".join(f"'{word.value}'" for word in UsageSuspicion)


class UsageGuard(SQLModel, table=True):
    """On which suspicions a party wants an agreement's access held until somebody has looked."""

    __tablename__ = "usage_guard"
    __table_args__ = (
        CheckConstraint(f"hold_on <@ ARRAY[{_KNOWN}]", name="usage_guard_known"),
        SCHEMA,
    )

    agreement_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("contracts.agreement.id", name="usage_guard_agreement_fk"),
            primary_key=True,
        )
    )
    hold_on: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    set_by: UUID = Field(sa_column=uuid_column())
    updated_at: datetime = Field(sa_column=moment_column())


class UsageHold(SQLModel, table=True):
    """Access is suspended until an operator releases it; one open hold per agreement."""

    __tablename__ = "usage_hold"
    __table_args__ = (
        CheckConstraint(f"suspicion IN ({_KNOWN})", name="usage_hold_suspicion_known"),
        CheckConstraint(
            "num_nulls(released_at, released_by, reason) IN (0, 3)", name="usage_hold_whole"
        ),
        Index(
            "usage_hold_one_open",
            "agreement_id",
            unique=True,
            postgresql_where=text("released_at IS NULL"),
        ),
        Index("usage_hold_agreement", "agreement_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("contracts.agreement.id", name="usage_hold_agreement_fk"))
    )
    suspicion: str = Field(sa_column=text_column())
    placed_at: datetime = Field(sa_column=moment_column())
    released_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    released_by: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
