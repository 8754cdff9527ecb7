"""Tables of market.usage: rules for top-up orders, and the orders that they placed."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column

SCHEMA = {"schema": "usage"}
ORDERS_PER_MONTH_MAX = 100


class AutoTopUpStatus(StrEnum):
    """``pending`` until the engine has answered; then ``placed``, or ``refused`` with a code."""

    PENDING = "pending"
    PLACED = "placed"
    REFUSED = "refused"


class TopUpRule(SQLModel, table=True):
    """A buyer's wish to buy more when an agreement's quota runs low.

    ``revision`` counts the occasions: it grows when the buyer sets the rule and when the rule
    moves on to the agreement that its order has made. One order is placed per revision.
    """

    __tablename__ = "top_up_rule"
    __table_args__ = (
        CheckConstraint("at_percent BETWEEN 0 AND 99", name="top_up_rule_percent"),
        CheckConstraint(
            "lots BETWEEN 1 AND 1000000000 AND limit_price_minor > 0 AND revision > 0",
            name="top_up_rule_positive",
        ),
        CheckConstraint(
            f"max_per_month BETWEEN 1 AND {ORDERS_PER_MONTH_MAX}", name="top_up_rule_month"
        ),
        UniqueConstraint("agreement_id", name="top_up_rule_agreement"),
        Index("top_up_rule_enabled", "id", postgresql_where=text("enabled")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    agreement_id: UUID = Field(sa_column=uuid_column())
    buyer_id: UUID = Field(sa_column=uuid_column())
    plan_id: UUID = Field(sa_column=uuid_column())
    enabled: bool = Field(sa_column=Column(Boolean, nullable=False))
    at_percent: int = Field(sa_column=Column(SmallInteger, nullable=False))
    lots: int = Field(sa_column=bigint_column())
    limit_price_minor: int = Field(sa_column=bigint_column())
    max_per_month: int = Field(sa_column=Column(SmallInteger, nullable=False))
    revision: int = Field(sa_column=Column(Integer, nullable=False))
    updated_at: datetime = Field(sa_column=moment_column())


class TopUpOrder(SQLModel, table=True):
    """One occasion of a rule and its order; ``code`` says why the order was refused."""

    __tablename__ = "top_up_order"
    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'placed', 'refused')", name="top_up_order_status_known"
        ),
        CheckConstraint(
            "(status = 'placed') = (order_id IS NOT NULL) "
            "AND (status = 'refused') = (code IS NOT NULL)",
            name="top_up_order_whole",
        ),
        UniqueConstraint("rule_id", "revision", name="top_up_order_once"),
        Index("top_up_order_agreement", "agreement_id", "id"),
        Index("top_up_order_pending", "id", postgresql_where=text("status = 'pending'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    rule_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("usage.top_up_rule.id", name="top_up_order_rule_fk"))
    )
    revision: int = Field(sa_column=Column(Integer, nullable=False))
    agreement_id: UUID = Field(sa_column=uuid_column())
    buyer_id: UUID = Field(sa_column=uuid_column())
    plan_id: UUID = Field(sa_column=uuid_column())
    lots: int = Field(sa_column=bigint_column())
    limit_price_minor: int = Field(sa_column=bigint_column())
    status: AutoTopUpStatus = Field(sa_column=text_column())
    order_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    code: str | None = Field(default=None, sa_column=text_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
