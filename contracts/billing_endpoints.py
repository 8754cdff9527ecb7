"""HTTP of split previews, releases and adjustments."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from contracts import adjustments, split_preview
from contracts.billing_models import AdjustmentStatus
from contracts.billing_schemas import AdjustmentInput, AdjustmentView, ReleaseView, SplitPreview
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AgreementId, PlanId
from market.kernel.money import MAX_MINOR
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])

PageDep = Annotated[PageQuery, Depends()]
NumberPath = Annotated[int, Path(ge=1, le=adjustments.PROPOSALS_MAX)]
_ANSWERS = problems(400, 401, 402, 404, 409, 422)


@router.get("/v1/plans/{plan_id}/split", responses=problems(401, 404, 409, 422))
async def preview_split(
    kernel: KernelDep,
    actor: ActorDep,
    plan_id: PlanId,
    lots: Annotated[int, Query(ge=1, le=1_000_000_000)] = 1,
    price_minor: Annotated[int | None, Query(ge=1, le=MAX_MINOR)] = None,
) -> SplitPreview:
    """Who would get what of a price: fee, intermediary, contributors, you (seller)."""
    return await split_preview.preview_split(
        kernel, actor, plan_id, lots=lots, price_minor=price_minor
    )


@router.get("/v1/agreements/{agreement_id}/releases", responses=problems(401, 404, 422))
async def list_releases(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[ReleaseView]:
    """What was paid out of an agreement's escrow to the seller's side, oldest first."""
    return await adjustments.list_releases(kernel, actor, agreement_id, page)


@router.get("/v1/agreements/{agreement_id}/adjustments", responses=problems(401, 404, 422))
async def list_adjustments(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[AdjustmentView]:
    """Proposed partial releases and refunds, oldest first."""
    return await adjustments.list_adjustments(kernel, actor, agreement_id, page)


@router.post(
    "/v1/agreements/{agreement_id}/adjustments",
    status_code=201,
    responses=problems(400, 401, 404, 409, 422),
)
async def propose_adjustment(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, body: AdjustmentInput
) -> AdjustmentView:
    """Propose to release or refund part of the escrow now; the other party answers."""
    return await adjustments.propose(kernel, actor, agreement_id, body)


@router.post("/v1/agreements/{agreement_id}/adjustments/{number}/accept", responses=_ANSWERS)
async def accept_adjustment(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, number: NumberPath
) -> AdjustmentView:
    """Agree to the other party's proposal; the money moves at once."""
    return await adjustments.answer(kernel, actor, agreement_id, number, AdjustmentStatus.ACCEPTED)


@router.post("/v1/agreements/{agreement_id}/adjustments/{number}/decline", responses=_ANSWERS)
async def decline_adjustment(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, number: NumberPath
) -> AdjustmentView:
    """Refuse the other party's proposal."""
    return await adjustments.answer(kernel, actor, agreement_id, number, AdjustmentStatus.DECLINED)


@router.post("/v1/agreements/{agreement_id}/adjustments/{number}/withdraw", responses=_ANSWERS)
async def withdraw_adjustment(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, number: NumberPath
) -> AdjustmentView:
    """Take back your own proposal."""
    return await adjustments.answer(kernel, actor, agreement_id, number, AdjustmentStatus.WITHDRAWN)
