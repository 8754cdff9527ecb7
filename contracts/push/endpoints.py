"""HTTP of pushes and their targets."""

from typing import Annotated

from fastapi import APIRouter, Depends

from contracts.push import pushes, targets
from contracts.push.models import PushStatus
from contracts.push.schemas import (
    NewPushTarget,
    PushInput,
    PushPartView,
    PushTargetInput,
    PushTargetView,
    PushVerification,
    PushView,
)
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import GrantId, PushId, PushTargetId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])

PageDep = Annotated[PageQuery, Depends()]


@router.post("/v1/push-targets", status_code=201, responses=problems(400, 401, 403, 409, 422, 503))
async def register_push_target(
    kernel: KernelDep, actor: ActorDep, body: PushTargetInput
) -> NewPushTarget:
    """Register a webhook or a bucket of yours; a webhook's signing secret is shown once."""
    return await targets.register(kernel, actor, body)


@router.get("/v1/push-targets", responses=problems(401, 422))
async def list_push_targets(
    kernel: KernelDep, actor: ActorDep, page: PageDep
) -> Page[PushTargetView]:
    """Your targets, newest first."""
    return await targets.list_targets(kernel, actor, page=page)


@router.get("/v1/push-targets/{target_id}", responses=problems(401, 404, 422))
async def show_push_target(
    kernel: KernelDep, actor: ActorDep, target_id: PushTargetId
) -> PushTargetView:
    """One of your targets."""
    return await targets.show_target(kernel, actor, target_id)


@router.post(
    "/v1/push-targets/{target_id}/verify",
    responses=problems(400, 401, 403, 404, 409, 422, 429, 503),
)
async def verify_push_target(
    kernel: KernelDep, actor: ActorDep, target_id: PushTargetId
) -> PushVerification:
    """Send a signed ping; with a 2xx answer the target may be pushed to. Free, 30 a minute."""
    return await targets.verify(kernel, actor, target_id)


@router.post(
    "/v1/push-targets/{target_id}/retire", responses=problems(400, 401, 403, 404, 409, 422)
)
async def retire_push_target(
    kernel: KernelDep, actor: ActorDep, target_id: PushTargetId
) -> PushTargetView:
    """End a target for good; its secret is deleted, its pushes are canceled."""
    return await targets.retire(kernel, actor, target_id)


@router.post(
    "/v1/grants/{grant_id}/pushes",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 410, 413, 422, 429, 503),
)
async def start_push(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, body: PushInput
) -> PushView:
    """Have rows of a grant sent to a target, part by part, each charged like a page of rows."""
    return await pushes.order(kernel, actor, grant_id, body)


@router.get("/v1/pushes", responses=problems(401, 422))
async def list_pushes(
    kernel: KernelDep, actor: ActorDep, page: PageDep, status: PushStatus | None = None
) -> Page[PushView]:
    """Your pushes, newest first."""
    return await pushes.list_pushes(kernel, actor, status=status, page=page)


@router.get("/v1/pushes/{push_id}", responses=problems(401, 404, 422))
async def show_push(kernel: KernelDep, actor: ActorDep, push_id: PushId) -> PushView:
    """How far a push is."""
    return await pushes.show_push(kernel, actor, push_id)


@router.get("/v1/pushes/{push_id}/parts", responses=problems(401, 404, 422))
async def list_push_parts(
    kernel: KernelDep, actor: ActorDep, push_id: PushId, page: PageDep
) -> Page[PushPartView]:
    """The parts that arrived, with digests and receipts."""
    return await pushes.list_parts(kernel, actor, push_id, page=page)


@router.post("/v1/pushes/{push_id}/cancel", responses=problems(400, 401, 403, 404, 409, 422))
async def cancel_push(kernel: KernelDep, actor: ActorDep, push_id: PushId) -> PushView:
    """End a push that is not completed."""
    return await pushes.cancel(kernel, actor, push_id)


@router.post("/v1/pushes/{push_id}/retry", responses=problems(400, 401, 403, 404, 409, 422))
async def retry_push(kernel: KernelDep, actor: ActorDep, push_id: PushId) -> PushView:
    """Go on with an exhausted, refused or dead push, from the part that did not arrive."""
    return await pushes.retry(kernel, actor, push_id)
