"""Operators' reviews: the queue, one product or listing, approval and rejection."""

from typing import Annotated, Final

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse

from listings import offering, products, reviews, versions
from listings.lifecycle import ListingStatus, VersionStatus
from listings.schemas import ListingView, ProductView, Reason, VersionView
from market.console.access import MemberDep
from market.console.forms import ActForm, RejectionForm
from market.console.readings import party_names, version_number
from market.console.rendering import Visit, render
from market.console.routes import ConsoleRoute
from market.kernel.ids import ListingId, ProductId
from market.kernel.schemas import PageQuery
from market.kernel.security import Role

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)

ITEMS_MAX: Final = 50


@router.get("/console/reviews")
async def show_reviews(
    visit: MemberDep, after: Annotated[str | None, Query(max_length=500)] = None
) -> HTMLResponse:
    """What waits for an operator; regulators may look."""
    page = await reviews.review_queue(visit.kernel, visit.actor, PageQuery(ITEMS_MAX, after))
    return render(visit, "reviews.html", page=page)


@router.get("/console/reviews/products/{product_id}")
async def show_product_review(visit: MemberDep, product_id: ProductId) -> HTMLResponse:
    """A registration with its newest version."""
    visit.actor.require(Role.OPERATOR, Role.REGULATOR)
    product = await products.show_product(visit.kernel, visit.actor, product_id)
    number = product.latest_version
    version = (
        None
        if number is None
        else await versions.show_version(visit.kernel, visit.actor, product_id, number)
    )
    waits = version is not None and version.status is VersionStatus.IN_REVIEW
    return await _page(visit, product, version, listing=None, waits=waits)


@router.get("/console/reviews/listings/{listing_id}")
async def show_listing_review(visit: MemberDep, listing_id: ListingId) -> HTMLResponse:
    """An offer with its product and the version that it sells."""
    visit.actor.require(Role.OPERATOR, Role.REGULATOR)
    listing = await offering.show_listing(visit.kernel, visit.actor, listing_id)
    product = await products.show_product(visit.kernel, visit.actor, listing.product_id)
    number = await version_number(visit.kernel, listing.version_id)
    version = await versions.show_version(visit.kernel, visit.actor, product.id, number)
    waits = listing.status is ListingStatus.IN_REVIEW
    return await _page(visit, product, version, listing=listing, waits=waits)


async def _page(
    visit: Visit,
    product: ProductView,
    version: VersionView | None,
    *,
    listing: ListingView | None,
    waits: bool,
) -> HTMLResponse:
    names = await party_names(visit.kernel, [product.owner_id])
    return render(
        visit,
        "review.html",
        product=product,
        version=version,
        listing=listing,
        owner=names[product.owner_id],
        may=waits and visit.actor.has(Role.OPERATOR),
    )


@router.post("/console/reviews/products/{product_id}/approve")
async def approve_product_in_console(
    visit: MemberDep, product_id: ProductId, form: Annotated[ActForm, Form()]
) -> ProductView:
    """Register it and issue the certificate."""
    return await reviews.approve_product(visit.kernel, visit.actor, product_id)


@router.post("/console/reviews/products/{product_id}/reject")
async def reject_product_in_console(
    visit: MemberDep, product_id: ProductId, form: Annotated[RejectionForm, Form()]
) -> ProductView:
    """Refuse it with a reason."""
    reason = Reason(reason=form.reason)
    return await reviews.reject_product(visit.kernel, visit.actor, product_id, reason)


@router.post("/console/reviews/listings/{listing_id}/approve")
async def approve_listing_in_console(
    visit: MemberDep, listing_id: ListingId, form: Annotated[ActForm, Form()]
) -> ListingView:
    """Put it on the market."""
    return await reviews.approve_listing(visit.kernel, visit.actor, listing_id)


@router.post("/console/reviews/listings/{listing_id}/reject")
async def reject_listing_in_console(
    visit: MemberDep, listing_id: ListingId, form: Annotated[RejectionForm, Form()]
) -> ListingView:
    """Refuse it with a reason."""
    reason = Reason(reason=form.reason)
    return await reviews.reject_listing(visit.kernel, visit.actor, listing_id, reason)
