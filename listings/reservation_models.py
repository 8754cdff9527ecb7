"""Which products are promised to one buyer: while an exclusive sale runs, and while it lasts."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, DateTime, ForeignKey, Index, Uuid, text
from sqlmodel import Field, SQLModel


class Reservation(SQLModel, table=True):
    """A product that only ``holder_id`` may sell until ``released_at``; one at a time (unique).

    It is of the product, because the same data may stand on the market under several listings.
    """

    __tablename__ = "reservation"
    __table_args__ = (
        CheckConstraint("released_at >= created_at", name="reservation_released_after"),
        Index(
            "reservation_in_force",
            "product_id",
            unique=True,
            postgresql_where=text("released_at IS NULL"),
        ),
        {"schema": "listings"},
    )

    holder_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    product_id: UUID = Field(
        sa_column=Column(
            Uuid, ForeignKey("listings.product.id", name="reservation_product"), nullable=False
        )
    )
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    released_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
