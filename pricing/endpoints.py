"""HTTP of pricing: plans, shares, valuations."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response

from market.kernel.http import IdempotentRoute, IfMatch, KernelDep, etag, problems
from market.kernel.ids import ListingId, PlanId, ValuationId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep
from pricing import plans, shares, valuations
from pricing.models import PlanStatus
from pricing.schemas import PlanInput, PlanView, SharesInput, SharesView
from pricing.valuation_schemas import ValuationInput, ValuationSummary, ValuationView

router = APIRouter(route_class=IdempotentRoute, tags=["pricing"])

PageDep = Annotated[PageQuery, Depends()]
_LOCATION: Final[dict[str, Any]] = {"Location": {"schema": {"type": "string"}}}
_ETAG: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The shares", "headers": {"ETag": {"schema": {"type": "string"}}}}
}


@router.post(
    "/v1/listings/{listing_id}/plans",
    operation_id="create_plan",
    status_code=201,
    responses={
        201: {
            "description": "The plan",
            "headers": _LOCATION,
            "links": {
                name: {
                    "operationId": operation,
                    "parameters": {"plan_id": "$response.body#/id"},
                }
                for name, operation in (("show", "show_plan"), ("retire", "retire_plan"))
            },
        },
        **problems(400, 401, 403, 404, 409, 422),
    },
)
async def create_plan(
    kernel: KernelDep, actor: ActorDep, listing_id: ListingId, body: PlanInput
) -> PlanView:
    """Offer your listing under a plan. Its terms never change; retire it and make another."""
    return await plans.create_plan(kernel, actor, listing_id, body)


@router.get(
    "/v1/listings/{listing_id}/plans",
    operation_id="list_plans",
    responses=problems(401, 404, 422),
)
async def list_plans(
    kernel: KernelDep,
    actor: ActorDep,
    listing_id: ListingId,
    page: PageDep,
    status: Annotated[PlanStatus | None, Query(description="Only plans in this status.")] = None,
) -> Page[PlanView]:
    """The plans of a listing, oldest first."""
    return await plans.list_plans(kernel, actor, listing_id, page, status=status)


@router.get("/v1/plans/{plan_id}", operation_id="show_plan", responses=problems(401, 404, 422))
async def show_plan(kernel: KernelDep, actor: ActorDep, plan_id: PlanId) -> PlanView:
    """One plan; its id is also the instrument id of orders."""
    return await plans.show_plan(kernel, actor, plan_id)


@router.post(
    "/v1/plans/{plan_id}/retire",
    operation_id="retire_plan",
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def retire_plan(kernel: KernelDep, actor: ActorDep, plan_id: PlanId) -> PlanView:
    """End your plan for new orders; agreements under it go on."""
    return await plans.retire_plan(kernel, actor, plan_id)


@router.get(
    "/v1/listings/{listing_id}/shares",
    operation_id="show_shares",
    responses={**_ETAG, **problems(401, 403, 404, 422)},
)
async def show_shares(
    kernel: KernelDep, actor: ActorDep, listing_id: ListingId, response: Response
) -> SharesView:
    """How the net revenue of your listing is split; version 0 before the first PUT."""
    view = await shares.show_shares(kernel, actor, listing_id)
    response.headers["ETag"] = etag(view.version)
    return view


@router.put(
    "/v1/listings/{listing_id}/shares",
    operation_id="set_shares",
    responses={**_ETAG, **problems(401, 403, 404, 409, 412, 422, 428)},
)
async def set_shares(
    kernel: KernelDep,
    actor: ActorDep,
    listing_id: ListingId,
    body: SharesInput,
    expected: IfMatch,
    response: Response,
) -> SharesView:
    """Replace the split for agreements formed from now on; send the current ETag in If-Match."""
    view = await shares.set_shares(kernel, actor, listing_id, body, expected_version=expected)
    response.headers["ETag"] = etag(view.version)
    return view


@router.post(
    "/v1/valuations",
    operation_id="create_valuation",
    status_code=201,
    responses={
        201: {
            "description": "The valuation",
            "headers": _LOCATION,
            "links": {
                "show": {
                    "operationId": "show_valuation",
                    "parameters": {"valuation_id": "$response.body#/id"},
                }
            },
        },
        **problems(400, 401, 403, 404, 409, 422),
    },
)
async def create_valuation(
    kernel: KernelDep, actor: ActorDep, body: ValuationInput
) -> ValuationView:
    """Value a listing by cost, income and market, with range, trace and a price per lot."""
    return await valuations.create_valuation(kernel, actor, body)


@router.get("/v1/valuations", operation_id="list_valuations", responses=problems(401, 403, 422))
async def list_valuations(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    listing_id: Annotated[ListingId | None, Query(description="Only of this listing.")] = None,
) -> Page[ValuationSummary]:
    """Valuations of your listings, oldest first."""
    return await valuations.list_valuations(kernel, actor, page, listing_id=listing_id)


@router.get(
    "/v1/valuations/{valuation_id}",
    operation_id="show_valuation",
    responses=problems(401, 403, 404, 422),
)
async def show_valuation(
    kernel: KernelDep, actor: ActorDep, valuation_id: ValuationId
) -> ValuationView:
    """One valuation with every step of its calculation."""
    return await valuations.show_valuation(kernel, actor, valuation_id)
