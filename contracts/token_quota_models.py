"""Tables of tokens' own quotas: what a token may take out of its grant, and what is set aside."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column


class TokenQuota(SQLModel, table=True):
    """The cap of a token and of all that replace it, in the units of its grant.

    ``used_units`` are billed, ``held_units`` set aside for deliveries under way.
    """

    __tablename__ = "token_quota"
    __table_args__ = (
        CheckConstraint(
            "quota_units > 0 AND used_units >= 0 AND held_units >= 0", name="token_quota_counts"
        ),
        CheckConstraint("used_units + held_units <= quota_units", name="token_quota_never_over"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    grant_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("contracts.access_grant.id", name="token_quota_grant_fk"))
    )
    quota_units: int = Field(sa_column=bigint_column())
    used_units: int = Field(default=0, sa_column=bigint_column())
    held_units: int = Field(default=0, sa_column=bigint_column())
    created_at: datetime = Field(sa_column=moment_column())

    @property
    def remaining_units(self) -> int:
        """What is neither billed nor will be; deliveries under way are not counted."""
        return self.quota_units - self.used_units


class TokenQuotaHold(SQLModel, table=True):
    """Units set aside for one delivery until its record is durable.

    ``ends_at`` is real, not sandbox, time: nobody sends after it.
    """

    __tablename__ = "token_quota_hold"
    __table_args__ = (
        CheckConstraint("units > 0", name="token_quota_hold_positive"),
        Index("token_quota_hold_quota", "quota_id", "delivery_key"),
        Index("token_quota_hold_end", "ends_at"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    quota_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("contracts.token_quota.id", name="token_quota_hold_quota_fk")
        )
    )
    delivery_key: str = Field(sa_column=text_column())
    units: int = Field(sa_column=bigint_column())
    ends_at: datetime = Field(sa_column=moment_column())
