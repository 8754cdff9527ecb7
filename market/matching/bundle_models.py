"""The table of bundles: orders over several plans that were filled together."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Index, Text, Uuid, text
from sqlmodel import Field, SQLModel


class Bundle(SQLModel, table=True):
    """A bundle (append-only); its legs are the orders with its id, all of them filled.

    ``seq`` is its place in the input sequence, right before its legs. ``cost_minor`` is what they
    bought less what they sold, and never more than ``cost_max_minor``.
    """

    __tablename__ = "bundle"
    __table_args__ = (
        CheckConstraint("cost_minor <= cost_max_minor", name="bundle_within_limit"),
        CheckConstraint(
            "self_trade_mode IN ('cancel_newest', 'cancel_oldest', 'cancel_both', 'decrement')",
            name="bundle_self_trade_mode_known",
        ),
        CheckConstraint("client_order_id ~ '^[!-~]{1,64}$'", name="bundle_client_order_id_form"),
        Index("bundle_seq", "seq", unique=True),
        Index(
            "bundle_client_order_id",
            "party_id",
            "client_order_id",
            unique=True,
            postgresql_where=text("client_order_id IS NOT NULL"),
        ),
        Index("bundle_party", "party_id", "id"),
        {"schema": "matching"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    party_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    cost_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    cost_max_minor: int | None = Field(default=None, sa_column=Column(BigInteger))
    self_trade_mode: str = Field(sa_column=Column(Text, nullable=False))
    client_order_id: str | None = Field(default=None, sa_column=Column(Text))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
