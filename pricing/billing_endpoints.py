"""HTTP of an offer's intermediary and of declared taxes."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response

from market.kernel.http import IdempotentRoute, IfMatch, KernelDep, etag, problems
from market.kernel.ids import ListingId, PlanId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, SellerDep
from pricing import intermediaries, taxes
from pricing.billing_schemas import (
    IntermediaryInput,
    IntermediaryView,
    PlanTax,
    TaxDeclarationInput,
    TaxDeclarationView,
)

router = APIRouter(route_class=IdempotentRoute, tags=["pricing"])

PageDep = Annotated[PageQuery, Depends()]
_ETAG: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The intermediary", "headers": {"ETag": {"schema": {"type": "string"}}}}
}


@router.get(
    "/v1/listings/{listing_id}/intermediary", responses={**_ETAG, **problems(401, 404, 422)}
)
async def show_intermediary(
    kernel: KernelDep, actor: ActorDep, listing_id: ListingId, response: Response
) -> IntermediaryView:
    """Who brokers the listing and for which part of the net; version 0 before the first PUT."""
    view = await intermediaries.show_intermediary(kernel, actor, listing_id)
    response.headers["ETag"] = etag(view.version)
    return view


@router.put(
    "/v1/listings/{listing_id}/intermediary",
    responses={**_ETAG, **problems(401, 403, 404, 409, 412, 422, 428)},
)
async def set_intermediary(
    kernel: KernelDep,
    actor: ActorDep,
    listing_id: ListingId,
    body: IntermediaryInput,
    expected: IfMatch,
    response: Response,
) -> IntermediaryView:
    """Name or remove your listing's intermediary for agreements formed from now on."""
    view = await intermediaries.set_intermediary(
        kernel, actor, listing_id, body, expected_version=expected
    )
    response.headers["ETag"] = etag(view.version)
    return view


@router.post(
    "/v1/tax-declarations", status_code=201, responses=problems(400, 401, 403, 404, 409, 422)
)
async def declare_tax(
    kernel: KernelDep, actor: SellerDep, body: TaxDeclarationInput
) -> TaxDeclarationView:
    """Declare the tax rate of what you sell, for agreements formed from now on."""
    return await taxes.declare_tax(kernel, actor, body)


@router.get("/v1/tax-declarations", responses=problems(401, 422))
async def list_tax_declarations(
    kernel: KernelDep, actor: ActorDep, page: PageDep
) -> Page[TaxDeclarationView]:
    """Your declarations, newest first; the newest of a scope holds."""
    return await taxes.list_declarations(kernel, actor, page)


@router.get("/v1/plans/{plan_id}/tax", responses=problems(401, 404, 422))
async def show_plan_tax(
    kernel: KernelDep,
    actor: ActorDep,
    plan_id: PlanId,
    lots: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> PlanTax:
    """The tax inside the price of a number of lots. Prices contain their tax."""
    return await taxes.show_plan_tax(kernel, actor, plan_id, lots=lots)
