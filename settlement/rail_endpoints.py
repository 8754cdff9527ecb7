"""HTTP of rails: refunds, payout accounts, saved cards, webhooks, the sandbox's 3-D Secure step."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import TopUpId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, OperatorDep, SellerDep, TraderDep
from settlement import payout_accounts, refunds, top_ups, webhooks
from settlement.rail_models import WebhookState
from settlement.rail_schemas import (
    Authentication,
    PayoutAccounts,
    PayoutAccountView,
    RefundBody,
    RefundView,
    SavedCards,
    WebhookEventView,
    WebhookReceipt,
)
from settlement.schemas import TopUpView

router = APIRouter(route_class=IdempotentRoute, tags=["settlement"])

PageDep = Annotated[PageQuery, Depends()]
_RAW_BODY = {
    "x-idempotent": False,
    "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
}


@router.post(
    "/v1/top-ups/{top_up_id}/refunds",
    status_code=201,
    responses=problems(400, 401, 402, 404, 409, 422),
)
async def create_refund(
    kernel: KernelDep, actor: ActorDep, top_up_id: TopUpId, body: RefundBody
) -> RefundView:
    """Send part of a top-up back to its card."""
    return await refunds.create_refund(kernel, actor, top_up_id, body)


@router.get("/v1/top-ups/{top_up_id}/refunds", responses=problems(401, 404, 422))
async def list_refunds(
    kernel: KernelDep, actor: ActorDep, top_up_id: TopUpId, page: PageDep
) -> Page[RefundView]:
    """Refunds of a top-up, newest first."""
    return await refunds.list_refunds(kernel, actor, top_up_id, page)


@router.post(
    "/v1/payout-accounts", status_code=201, responses=problems(400, 401, 403, 409, 422, 503)
)
async def open_payout_account(kernel: KernelDep, actor: SellerDep) -> PayoutAccountView:
    """Open your account at the payment provider, or a new page to complete it."""
    return await payout_accounts.open_payout_account(kernel, actor)


@router.get("/v1/payout-accounts", responses=problems(401, 403))
async def list_payout_accounts(kernel: KernelDep, actor: SellerDep) -> PayoutAccounts:
    """Your accounts at the payment provider, and what it still asks for."""
    return await payout_accounts.list_payout_accounts(kernel, actor)


@router.get("/v1/saved-cards", responses=problems(401, 403, 503))
async def list_saved_cards(kernel: KernelDep, actor: TraderDep) -> SavedCards:
    """Cards that you allowed to be charged again (Stripe only)."""
    return await payout_accounts.list_saved_cards(kernel, actor)


@router.delete("/v1/saved-cards/{card_id}", status_code=204, responses=problems(401, 403, 404, 503))
async def forget_card(kernel: KernelDep, actor: TraderDep, card_id: str) -> Response:
    """Forget a saved card."""
    await payout_accounts.forget_card(kernel, actor, card_id)
    return Response(status_code=204)


@router.post(
    "/v1/sandbox/top-ups/{top_up_id}/authentication",
    status_code=201,
    responses=problems(400, 401, 404, 409, 422),
)
async def authenticate_top_up(
    kernel: KernelDep, actor: TraderDep, top_up_id: TopUpId, body: Authentication
) -> TopUpView:
    """Answer the 3-D Secure challenge of tok_3ds as its payer. Sandbox only."""
    return await top_ups.authenticate(kernel, actor, top_up_id, body)


@router.post(
    "/v1/webhooks/stripe/{source}", responses=problems(400, 413, 422, 503), openapi_extra=_RAW_BODY
)
async def receive_stripe_webhook(
    kernel: KernelDep,
    request: Request,
    source: webhooks.Source,
    stripe_signature: Annotated[str | None, Header(max_length=2_000)] = None,
) -> WebhookReceipt:
    """For Stripe: events of the platform account or of connected accounts, signed."""
    return await webhooks.receive(kernel, source, await request.body(), stripe_signature)


@router.get("/v1/webhook-events", responses=problems(401, 403, 422))
async def list_webhook_events(
    kernel: KernelDep, actor: OperatorDep, page: PageDep, state: WebhookState | None = None
) -> Page[WebhookEventView]:
    """Received webhooks, newest first; `state=dead` and `quarantined` need a look."""
    return await webhooks.list_events(kernel, actor, page, state=state)


@router.post(
    "/v1/webhook-events/{webhook_event_id}/replay",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def replay_webhook_event(
    kernel: KernelDep, actor: OperatorDep, webhook_event_id: UUID
) -> WebhookEventView:
    """Have a received webhook worked on again."""
    return await webhooks.replay(kernel, actor, webhook_event_id)
