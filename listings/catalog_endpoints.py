"""HTTP edge of the catalog: public, no login."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from listings import catalog
from listings.catalog_schemas import (
    QUERY_CHARS_MAX,
    CatalogItem,
    CatalogPage,
    CatalogQuery,
    Suggestions,
)
from listings.classification import Grade
from listings.schemas import Preview
from listings.vocabulary import Category
from market.kernel.errors import Invalid
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import ListingId
from market.kernel.money import MAX_MINOR, Currency
from market.kernel.schemas import PageQuery

router = APIRouter(route_class=IdempotentRoute, tags=["catalog"])
_TEXT = r"^[^\x00]*$"


class PriceNeedsCurrency(Invalid):
    code = "price_needs_currency"
    title = "A maximum price needs its currency"


def _query(
    q: Annotated[str, Query(max_length=QUERY_CHARS_MAX, pattern=_TEXT)] = "",
    category: Annotated[Category | None, Query()] = None,
    grade: Annotated[Grade | None, Query()] = None,
    currency: Annotated[Currency | None, Query()] = None,
    plan_kind: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
    max_price_minor: Annotated[int | None, Query(ge=1, le=MAX_MINOR)] = None,
) -> CatalogQuery:
    """The search of a request. Prices of different currencies do not compare."""
    if max_price_minor is not None and currency is None:
        raise PriceNeedsCurrency(param="currency")
    return CatalogQuery(
        q=q,
        category=category,
        grade=grade,
        currency=currency,
        plan_kind=plan_kind,
        max_price_minor=max_price_minor,
    )


@router.get("/v1/catalog", responses=problems(422))
async def search_catalog(
    kernel: KernelDep,
    query: Annotated[CatalogQuery, Depends(_query)],
    page: Annotated[PageQuery, Depends()],
) -> CatalogPage:
    """Search listings in English and Chinese, with filters and facet counts."""
    return await catalog.search_catalog(kernel, query, page)


@router.get("/v1/catalog/suggestions", responses=problems(422))
async def suggest(
    kernel: KernelDep,
    q: Annotated[str, Query(min_length=1, max_length=QUERY_CHARS_MAX, pattern=_TEXT)],
) -> Suggestions:
    """Titles that begin with the text, at most ten."""
    return await catalog.suggest(kernel, q)


@router.get("/v1/catalog/{listing_id}", responses=problems(404, 422))
async def show_item(kernel: KernelDep, listing_id: ListingId) -> CatalogItem:
    """Everything that is known of a listing before buying."""
    return await catalog.show_item(kernel, listing_id)


@router.get("/v1/catalog/{listing_id}/sample", responses=problems(404, 422))
async def show_preview(kernel: KernelDep, listing_id: ListingId) -> Preview:
    """The first ten rows; sensitive values are masked."""
    return await catalog.show_preview(kernel, listing_id)
