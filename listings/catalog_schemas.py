"""API shapes of the catalog: what everybody may see before buying."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from listings.classification import Grade
from listings.policy_schemas import Policy
from listings.schemas import (
    ColumnView,
    PriceSummary,
    Quality,
    RightFlags,
    Sha256Hex,
)
from listings.vocabulary import Category, UpdateCycle
from market.kernel.ids import CertificateId, ListingId, PartyId, ProductId, VersionId
from market.kernel.money import MAX_MINOR, Currency
from market.kernel.schemas import LocalizedText, Schema

QUERY_CHARS_MAX = 200
# Of the columns of a search hit; the item itself shows all.
HIT_COLUMNS_MAX = 12


class CatalogQuery(Schema):
    """A search. All filters must hold; ``q`` words must all occur, Chinese without spaces too."""

    q: Annotated[str, StringConstraints(max_length=QUERY_CHARS_MAX, strip_whitespace=True)] = ""
    category: Category | None = None
    grade: Grade | None = None
    currency: Currency | None = None
    plan_kind: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")] | None = Field(
        default=None, examples=["metered"]
    )
    max_price_minor: Annotated[int, Field(ge=1, le=MAX_MINOR)] | None = Field(
        default=None, description="Per lot, in minor units of `currency`."
    )

    @model_validator(mode="after")
    def _price_has_a_currency(self) -> Self:
        if self.max_price_minor is not None and self.currency is None:
            raise ValueError("max_price_minor needs currency")
        if "\x00" in self.q:
            raise ValueError("q must not contain NUL")
        return self


class CatalogHit(Schema):
    """One listing on the market."""

    listing_id: ListingId
    title: LocalizedText
    summary: str
    category: Category
    grade: Grade
    seller_id: PartyId
    seller_name: str
    product_id: ProductId
    version_id: VersionId
    row_count: int
    column_count: int
    columns: list[ColumnView] = Field(description="The first columns; the item has all of them.")
    quality: Quality
    price: PriceSummary | None
    certificate_id: CertificateId
    listed_at: datetime


class CatalogItem(CatalogHit):
    """A listing with everything that is known before buying."""

    description: str
    regions: list[str]
    update_cycle: UpdateCycle
    rights: RightFlags
    policy: Policy
    byte_count: int
    sha256: Sha256Hex
    sensitive_columns: list[str]


class FacetValue(Schema):
    """How many hits would remain with this value (the other filters kept)."""

    value: str
    count: int


class Facets(Schema):
    """Counts per value; the most frequent first. Not ``exact`` means: of the first 2,000 hits."""

    exact: bool
    category: list[FacetValue]
    grade: list[FacetValue]
    currency: list[FacetValue]
    plan_kind: list[FacetValue]


class CatalogPage(Schema):
    """A page of hits. ``facets`` and ``total`` come with the first page only."""

    items: list[CatalogHit]
    has_more: bool
    next_after: str | None = None
    total: int | None = Field(default=None, description="At least, unless `facets.exact`.")
    facets: Facets | None = None


class Suggestion(Schema):
    """A title that begins with the given text."""

    listing_id: ListingId
    title: LocalizedText


class Suggestions(Schema):
    """At most ten."""

    items: list[Suggestion]
