"""HTTP of requests that concern many orders."""

from fastapi import APIRouter, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems, request_id_of
from market.matching import order_batches, orders
from market.matching.batch_schemas import (
    CancelAllInput,
    MassCancelView,
    OrderBatch,
    OrderBatchResult,
)
from market.matching.endpoints import EngineDep, response_of
from market.parties.access import ActorDep, TraderDep

router = APIRouter(prefix="/v1", tags=["matching"], route_class=IdempotentRoute)


@router.post(
    "/orders/batch",
    operation_id="submit_order_batch",
    response_model=OrderBatchResult,
    responses=problems(400, 401, 403, 409, 413, 422, 503),
)
async def submit_order_batch(
    request: Request, kernel: KernelDep, engine: EngineDep, actor: TraderDep, body: OrderBatch
) -> Response:
    """Up to 1,000 orders, cancels and amendments; each succeeds or is refused by itself."""
    answer = await order_batches.submit_batch(
        kernel, engine, actor, body, request_id=request_id_of(request)
    )
    return response_of(answer)


@router.post(
    "/orders/cancel-all",
    operation_id="cancel_all_orders",
    response_model=MassCancelView,
    responses=problems(400, 401, 403, 409, 422, 429, 503),
)
async def cancel_all_orders(
    request: Request, engine: EngineDep, actor: ActorDep, body: CancelAllInput
) -> Response:
    """Cancel own open orders, up to 10,000 at once; operators may name a party, with a reason."""
    reply = await orders.cancel_all(engine, actor, body, request_id=request_id_of(request))
    return response_of(reply.answer)
