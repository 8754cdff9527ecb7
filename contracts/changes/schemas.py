"""API shapes of changes between versions."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from contracts.changes.models import KEY_COLUMNS_MAX
from listings.mask_schemas import ColumnName
from market.kernel.ids import ProductId
from market.kernel.schemas import Schema


class ProductKeyInput(Schema):
    """The columns that tell rows apart; an empty list: rows are compared whole."""

    columns: Annotated[list[ColumnName], Field(max_length=KEY_COLUMNS_MAX, examples=[["id"]])]


class ProductKeyView(Schema):
    """A product's key; ``updated_at`` null: none was ever declared, or it was taken back."""

    product_id: ProductId
    columns: list[str]
    updated_at: datetime | None


class ChangeCounts(Schema):
    """How many rows came, changed and went; the feed has as many rows as these together."""

    inserted: int = Field(ge=0)
    updated: int = Field(ge=0)
    deleted: int = Field(ge=0)
