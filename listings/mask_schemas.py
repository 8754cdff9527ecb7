"""API shapes of masks: how a buyer's copy shows a column less exactly than the seller's."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from market.kernel.schemas import Schema

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern="^[^\x00]*$")]
# At most 23 digits, so that every one fits DuckDB's DECIMAL.
Step = Annotated[
    str,
    StringConstraints(pattern=r"^(?:[1-9][0-9]{0,11}|(?:0|[1-9][0-9]{0,11})\.[0-9]{0,11}[1-9])$"),
    Field(examples=["0.01"], description="A decimal number above zero."),
]
MASKS_MAX = 64


class HideMask(Schema):
    """Every value becomes null; any type."""

    kind: Literal["hide"]
    column: ColumnName


class PseudonymMask(Schema):
    """Texts become 32 hexadecimal digits of a keyed hash, the same for the same text in all
    versions of the product, and unlike those of any other product."""

    kind: Literal["pseudonym"]
    column: ColumnName


class RoundMask(Schema):
    """Numbers become a multiple of ``step``, the nearest one towards zero."""

    kind: Literal["round"]
    column: ColumnName
    step: Step


class TruncateMask(Schema):
    """Dates and timestamps become the beginning (in UTC) of the span of time around them."""

    kind: Literal["truncate"]
    column: ColumnName
    to: Literal["hour", "day", "week", "month", "quarter", "year"]


class PrefixMask(Schema):
    """Texts lose everything after their first ``characters``."""

    kind: Literal["prefix"]
    column: ColumnName
    characters: Annotated[int, Field(strict=True, ge=0, le=1_000)]


Mask = Annotated[
    HideMask | PseudonymMask | RoundMask | TruncateMask | PrefixMask, Field(discriminator="kind")
]
