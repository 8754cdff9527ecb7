"""HTTP of orders, trades and books."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems, request_id_of
from market.kernel.idempotency import Answer
from market.kernel.ids import OrderId, PartyId, PlanId
from market.kernel.schemas import Page, PageQuery
from market.matching import market_data, orders
from market.matching.engine import MatchingEngine
from market.matching.models import OrderStatus
from market.matching.paths import ORDER_PATH
from market.matching.schemas import (
    BOOK_LEVELS_DEFAULT,
    BOOK_LEVELS_MAX,
    AmendRequest,
    BookView,
    ClientOrderId,
    OrderRequest,
    OrderView,
    TradeView,
)
from market.parties.access import ActorDep, OptionalActorDep, TraderDep

router = APIRouter(prefix="/v1", tags=["matching"], route_class=IdempotentRoute)


def engine_of(request: Request) -> MatchingEngine:
    """The matching engine of the running app."""
    engine: MatchingEngine = request.app.state.matching_engine
    return engine


EngineDep = Annotated[MatchingEngine, Depends(engine_of)]
PageDep = Annotated[PageQuery, Depends()]


def response_of(answer: Answer) -> Response:
    """The engine's answer, byte for byte."""
    headers = {"content-type": "application/json", **answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers)


@router.post(
    "/orders",
    status_code=201,
    operation_id="place_order",
    response_model=OrderView,
    responses=problems(400, 401, 402, 403, 404, 409, 422, 429, 503),
)
async def place_order(
    request: Request, engine: EngineDep, actor: TraderDep, body: OrderRequest
) -> Response:
    """Buy or sell lots of a plan; the answer tells what was filled and what rests."""
    reply = await orders.place_order(engine, actor, body, request_id=request_id_of(request))
    return response_of(reply.answer)


@router.get("/orders", operation_id="list_orders", responses=problems(401, 404, 422))
async def list_orders(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    plan_id: PlanId | None = None,
    status: OrderStatus | None = None,
    party_id: PartyId | None = None,
    client_order_id: ClientOrderId | None = None,
) -> Page[OrderView]:
    """Own orders, newest first; operators and regulators may name a party."""
    return await orders.list_orders(
        kernel,
        actor,
        page,
        plan_id=plan_id,
        status=status,
        party_id=party_id,
        client_order_id=client_order_id,
    )


@router.get(ORDER_PATH, operation_id="show_order", responses=problems(401, 404, 422))
async def show_order(kernel: KernelDep, actor: ActorDep, order_id: OrderId) -> OrderView:
    """One order with its latest trades."""
    return await orders.show_order(kernel, actor, order_id)


@router.delete(
    ORDER_PATH,
    operation_id="cancel_order",
    response_model=OrderView,
    responses=problems(401, 403, 404, 409, 422, 429, 503),
)
async def cancel_order(
    request: Request, engine: EngineDep, actor: TraderDep, order_id: OrderId
) -> Response:
    """Cancel what is left of an open order and free its hold."""
    return response_of(
        await orders.cancel_order(engine, actor, order_id, request_id=request_id_of(request))
    )


@router.patch(
    ORDER_PATH,
    operation_id="amend_order",
    response_model=OrderView,
    responses=problems(400, 401, 402, 403, 404, 409, 422, 429, 503),
    openapi_extra={"x-idempotent": True},
)
async def amend_order(
    request: Request, engine: EngineDep, actor: TraderDep, order_id: OrderId, body: AmendRequest
) -> Response:
    """Change price, lots or date of an open order. It may trade at once."""
    reply = await orders.amend_order(
        engine, actor, order_id, body, request_id=request_id_of(request)
    )
    return response_of(reply.answer)


@router.get("/instruments/{plan_id}/book", operation_id="show_book", responses=problems(404, 422))
async def show_book(
    kernel: KernelDep,
    plan_id: PlanId,
    levels: Annotated[int, Query(ge=1, le=BOOK_LEVELS_MAX)] = BOOK_LEVELS_DEFAULT,
) -> BookView:
    """The aggregated order book of a plan (public)."""
    return await market_data.show_book(kernel, plan_id, levels_max=levels)


@router.get("/trades", operation_id="list_trades", responses=problems(401, 422))
async def list_trades(
    kernel: KernelDep,
    actor: OptionalActorDep,
    page: PageDep,
    plan_id: PlanId | None = None,
    order_id: OrderId | None = None,
    mine: bool = False,
) -> Page[TradeView]:
    """The public tape, newest first; with ``mine`` or ``order_id`` one's own trades."""
    return await market_data.list_trades(
        kernel, actor, page, plan_id=plan_id, order_id=order_id, mine=mine
    )
