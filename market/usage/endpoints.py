"""HTTP of automatic top-ups."""

from typing import Annotated

from fastapi import APIRouter, Depends

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AgreementId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, BuyerDep
from market.usage import top_ups
from market.usage.schemas import AutoTopUpInput, AutoTopUpView, TopUpOrderView

router = APIRouter(route_class=IdempotentRoute, tags=["usage"])

PageDep = Annotated[PageQuery, Depends()]


@router.put(
    "/v1/agreements/{agreement_id}/auto-top-up",
    operation_id="set_auto_top_up",
    responses=problems(401, 403, 404, 409, 422),
)
async def set_auto_top_up(
    kernel: KernelDep, actor: BuyerDep, agreement_id: AgreementId, body: AutoTopUpInput
) -> AutoTopUpView:
    """Order more of the plan by itself when the quota runs low (buyer); replaces the old rule."""
    return await top_ups.set_rule(kernel, actor, agreement_id, body)


@router.get(
    "/v1/agreements/{agreement_id}/auto-top-up",
    operation_id="show_auto_top_up",
    responses=problems(401, 404, 422),
)
async def show_auto_top_up(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId
) -> AutoTopUpView:
    """The rule of an agreement, for its buyer and overseers."""
    return await top_ups.get_rule(kernel, actor, agreement_id)


@router.get(
    "/v1/agreements/{agreement_id}/auto-top-up/orders",
    operation_id="list_auto_top_up_orders",
    responses=problems(401, 404, 422),
)
async def list_auto_top_up_orders(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[TopUpOrderView]:
    """Orders placed because this agreement ran low, newest first."""
    return await top_ups.list_orders(kernel, actor, agreement_id, page=page)
