"""Table of units that went from one grant to another (append-only)."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    UniqueConstraint,
    Uuid,
)
from sqlmodel import Field, SQLModel


def _ref(target: str, name: str) -> "Column[UUID]":
    return Column(Uuid, ForeignKey(f"contracts.{target}.id", name=name), nullable=False)


class Resale(SQLModel, table=True):
    """``units`` left one grant for good and became another's, by one trade."""

    __tablename__ = "resale"
    __table_args__ = (
        CheckConstraint("units > 0", name="resale_units_positive"),
        CheckConstraint("from_grant_id <> to_grant_id", name="resale_two_grants"),
        UniqueConstraint("trade_id", name="resale_trade"),
        UniqueConstraint("to_agreement_id", name="resale_to_agreement"),
        Index("resale_from_agreement", "from_agreement_id", "id"),
        {"schema": "contracts"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    trade_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    from_grant_id: UUID = Field(sa_column=_ref("access_grant", "resale_from_grant_fk"))
    from_agreement_id: UUID = Field(sa_column=_ref("agreement", "resale_from_agreement_fk"))
    to_grant_id: UUID = Field(sa_column=_ref("access_grant", "resale_to_grant_fk"))
    to_agreement_id: UUID = Field(sa_column=_ref("agreement", "resale_to_agreement_fk"))
    units: int = Field(sa_column=Column(BigInteger, nullable=False))
    moved_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
