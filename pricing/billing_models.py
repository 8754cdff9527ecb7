"""Tables of an offer's intermediary and of declared tax rates; both append-only."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, DateTime, Index, Integer, Text, Uuid
from sqlmodel import Field, SQLModel


class Intermediary(SQLModel, table=True):
    """One setting of a listing's intermediary (数商); the highest ``version`` holds.

    ``party_id`` and ``ppm`` NULL: none. ``set_by`` is the seller, whose setting is its consent.
    """

    __tablename__ = "intermediary"
    __table_args__ = (
        CheckConstraint("version >= 1", name="intermediary_version_positive"),
        CheckConstraint(
            "(party_id IS NULL) = (ppm IS NULL) AND (ppm IS NULL OR ppm BETWEEN 1 AND 999999)",
            name="intermediary_rate",
        ),
        CheckConstraint("party_id <> set_by", name="intermediary_not_seller"),
        {"schema": "pricing"},
    )

    listing_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    party_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    ppm: int | None = Field(default=None, sa_column=Column(Integer))
    set_by: UUID = Field(sa_column=Column(Uuid, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class TaxDeclaration(SQLModel, table=True):
    """The rate that a seller declares for a plan, else for a category, else for all it sells."""

    __tablename__ = "tax_declaration"
    __table_args__ = (
        CheckConstraint("rate_ppm BETWEEN 0 AND 999999", name="tax_declaration_rate"),
        CheckConstraint("plan_id IS NULL OR category IS NULL", name="tax_declaration_scope"),
        Index("tax_declaration_seller", "seller_id", "plan_id", "category", "id"),
        {"schema": "pricing"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seller_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    plan_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    category: str | None = Field(default=None, sa_column=Column(Text))
    rate_ppm: int = Field(sa_column=Column(Integer, nullable=False))
    declared_by: UUID = Field(sa_column=Column(Uuid, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
