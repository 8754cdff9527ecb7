"""The public catalog: search with live results, one listing, its order books."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse

from listings import catalog
from listings.catalog_schemas import QUERY_CHARS_MAX, CatalogQuery, Facets
from listings.classification import Grade
from listings.vocabulary import Category
from market.console.access import VisitDep
from market.console.rendering import Visit, address, render
from market.console.routes import ConsoleRoute
from market.kernel.ids import ListingId, PlanId
from market.kernel.money import Currency
from market.kernel.schemas import PageQuery
from market.matching import market_data
from market.matching.schemas import BookView
from pricing import plans
from pricing.models import PlanStatus

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)

HITS_MAX: Final = 20
PLANS_MAX: Final = 20
BOOK_LEVELS: Final = 8
_FACETS: Final = ("category", "grade", "currency", "plan_kind")
# The group of words that translates a facet's values; currencies are their own names.
_WORDS: Final = {"category": "category", "grade": "grade", "plan_kind": "plan_kind"}


def _query(
    q: Annotated[str, Query(max_length=QUERY_CHARS_MAX, pattern=r"^[^\x00]*$")] = "",
    category: Category | None = None,
    grade: Grade | None = None,
    currency: Currency | None = None,
    plan_kind: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
) -> CatalogQuery:
    return CatalogQuery(q=q, category=category, grade=grade, currency=currency, plan_kind=plan_kind)


@router.get("/console")
async def show_catalog(
    visit: VisitDep,
    query: Annotated[CatalogQuery, Depends(_query)],
    after: Annotated[str | None, Query(max_length=500)] = None,
) -> HTMLResponse:
    """Search and facets; htmx gets the results only."""
    found = await catalog.search_catalog(visit.kernel, query, PageQuery(HITS_MAX, after))
    chosen = query.model_dump(mode="json", exclude_none=True, exclude={"max_price_minor"})
    return render(
        visit,
        "_results.html" if visit.partial else "catalog.html",
        found=found,
        chosen=chosen,
        facets=_facets(chosen, found.facets),
    )


def _facets(chosen: dict[str, Any], counted: Facets | None) -> list[dict[str, Any]]:
    """Each facet with its values, as links that choose or drop one."""
    shown = []
    for name in _FACETS:
        values = getattr(counted, name) if counted else []
        current = chosen.get(name)
        links = [
            {
                "value": item.value,
                "count": item.count,
                "chosen": item.value == current,
                "url": address(
                    "/console", chosen, **{name: None if item.value == current else item.value}
                ),
            }
            for item in values
        ]
        shown.append({"name": name, "words": _WORDS.get(name, ""), "links": links})
    return shown


@router.get("/console/listings/{listing_id}")
async def show_listing_page(visit: VisitDep, listing_id: ListingId) -> HTMLResponse:
    """All that is known before buying."""
    item = await catalog.show_item(visit.kernel, listing_id)
    sample = await catalog.show_preview(visit.kernel, listing_id)
    offered = await plans.list_plans(
        visit.kernel,
        visit.actor,
        listing_id,
        PageQuery(PLANS_MAX, None),
        status=PlanStatus.ACTIVE,
    )
    offers = [(plan, await _book(visit, plan.id)) for plan in offered.items]
    return render(visit, "listing.html", item=item, sample=sample, offers=offers)


@router.get("/console/plans/{plan_id}/book")
async def show_book_part(visit: VisitDep, plan_id: PlanId) -> Response:
    """The order book of a plan, as a part of its listing's page."""
    return render(visit, "_book.html", book=await _book(visit, plan_id))


async def _book(visit: Visit, plan_id: PlanId) -> BookView:
    return await market_data.show_book(visit.kernel, plan_id, levels_max=BOOK_LEVELS)
