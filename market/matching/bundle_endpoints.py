"""HTTP of bundles."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems, request_id_of
from market.kernel.ids import BundleId, PartyId
from market.kernel.schemas import Page, PageQuery
from market.matching import bundles
from market.matching.bundle_schemas import BundleRequest, BundleSummary, BundleView
from market.matching.endpoints import EngineDep, response_of
from market.matching.schemas import ClientOrderId
from market.parties.access import ActorDep, TraderDep

router = APIRouter(prefix="/v1", tags=["matching"], route_class=IdempotentRoute)


@router.post(
    "/bundles",
    status_code=201,
    operation_id="place_bundle",
    response_model=BundleView,
    responses=problems(400, 401, 402, 403, 404, 409, 422, 429, 503),
)
async def place_bundle(
    request: Request, engine: EngineDep, actor: TraderDep, body: BundleRequest
) -> Response:
    """Trade lots of several plans together, at once and whole, or not at all."""
    reply = await bundles.place_bundle(engine, actor, body, request_id=request_id_of(request))
    return response_of(reply.answer)


@router.get("/bundles", operation_id="list_bundles", responses=problems(401, 404, 422))
async def list_bundles(
    kernel: KernelDep,
    actor: ActorDep,
    page: Annotated[PageQuery, Depends()],
    party_id: PartyId | None = None,
    client_order_id: ClientOrderId | None = None,
) -> Page[BundleSummary]:
    """Own bundles, newest first; operators and regulators may name a party."""
    return await bundles.list_bundles(
        kernel, actor, page, party_id=party_id, client_order_id=client_order_id
    )


@router.get("/bundles/{bundle_id}", operation_id="show_bundle", responses=problems(401, 404, 422))
async def show_bundle(kernel: KernelDep, actor: ActorDep, bundle_id: BundleId) -> BundleView:
    """One bundle with its legs."""
    return await bundles.show_bundle(kernel, actor, bundle_id)
