"""HTTP of holds because of unusual use."""

from typing import Annotated

from fastapi import APIRouter, Depends

from contracts import usage_holds
from contracts.usage_hold_schemas import (
    UsageGuardInput,
    UsageGuardView,
    UsageHoldView,
    UsageReleaseInput,
)
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AgreementId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, OperatorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])

PageDep = Annotated[PageQuery, Depends()]


@router.get("/v1/agreements/{agreement_id}/usage-guard", responses=problems(401, 404, 422))
async def show_usage_guard(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId
) -> UsageGuardView:
    """On which suspicions an agreement's access is held by itself."""
    return await usage_holds.get_guard(kernel, actor, agreement_id)


@router.put("/v1/agreements/{agreement_id}/usage-guard", responses=problems(401, 403, 404, 422))
async def set_usage_guard(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, body: UsageGuardInput
) -> UsageGuardView:
    """Set it (seller of the agreement, operator); the buyer is told."""
    return await usage_holds.set_guard(kernel, actor, agreement_id, body)


@router.get("/v1/agreements/{agreement_id}/usage-holds", responses=problems(401, 404, 422))
async def list_usage_holds(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[UsageHoldView]:
    """When and why access was held, newest first."""
    return await usage_holds.list_holds(kernel, actor, agreement_id, page=page)


@router.post(
    "/v1/agreements/{agreement_id}/usage-holds/release",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def release_usage_hold(
    kernel: KernelDep, actor: OperatorDep, agreement_id: AgreementId, body: UsageReleaseInput
) -> UsageHoldView:
    """Give access back (operator), with the reason in the audit log."""
    return await usage_holds.release(kernel, actor, agreement_id, body)
