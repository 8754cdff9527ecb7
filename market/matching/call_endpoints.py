"""HTTP of call auctions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems, request_id_of
from market.kernel.ids import CallAuctionId, PlanId
from market.kernel.schemas import Page, PageQuery
from market.matching import call_auctions, decisions
from market.matching.commands import ControlAction
from market.matching.control_endpoints import DecideDep
from market.matching.control_schemas import CallAuctionInput, CallAuctionView, ReasonInput
from market.matching.endpoints import EngineDep, response_of
from market.parties.access import OperatorDep

router = APIRouter(prefix="/v1", tags=["matching"], route_class=IdempotentRoute)
_CHANGE = problems(400, 401, 403, 404, 409, 422, 503)


@router.post(
    "/instruments/{plan_id}/call-auctions",
    status_code=201,
    operation_id="schedule_call_auction",
    response_model=CallAuctionView,
    responses=_CHANGE,
)
async def schedule_call_auction(
    request: Request, engine: EngineDep, actor: OperatorDep, plan_id: PlanId, body: CallAuctionInput
) -> Response:
    """Collect orders from one time to another, then trade at one price."""
    return response_of(
        await decisions.schedule_call(
            engine, actor, plan_id, body, request_id=request_id_of(request)
        )
    )


@router.get(
    "/instruments/{plan_id}/call-auctions",
    operation_id="list_call_auctions",
    responses=problems(404, 422),
)
async def list_call_auctions(
    kernel: KernelDep, plan_id: PlanId, page: Annotated[PageQuery, Depends()]
) -> Page[CallAuctionView]:
    """The call auctions of an instrument, newest first (public)."""
    return await call_auctions.list_calls(kernel, plan_id, page)


@router.get(
    "/call-auctions/{call_auction_id}",
    operation_id="show_call_auction",
    responses=problems(404, 422),
)
async def show_call_auction(kernel: KernelDep, call_auction_id: CallAuctionId) -> CallAuctionView:
    """One call auction: indicative price and volume, or what it traded (public)."""
    return await call_auctions.show_call(kernel, call_auction_id)


@router.post(
    "/call-auctions/{call_auction_id}/cancel",
    status_code=200,
    operation_id="cancel_call_auction",
    response_model=CallAuctionView,
    responses=_CHANGE,
)
async def cancel_call_auction(
    decide: DecideDep, call_auction_id: CallAuctionId, body: ReasonInput
) -> Response:
    """Call off an auction that has not begun."""
    return await decide(ControlAction.CANCEL_CALL, call_auction_id, body.reason)
