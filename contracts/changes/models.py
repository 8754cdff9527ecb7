"""The declared keys of products."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from market.kernel.columns import moment_column, uuid_column

KEY_COLUMNS_MAX = 8


class ProductKey(SQLModel, table=True):
    """The columns that tell the rows of a product's versions apart, as its seller says."""

    __tablename__ = "product_key"
    __table_args__ = (
        CheckConstraint(
            f"cardinality(columns) BETWEEN 1 AND {KEY_COLUMNS_MAX}", name="product_key_columns"
        ),
        {"schema": "contracts"},
    )

    product_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    columns: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    updated_at: datetime = Field(sa_column=moment_column())
