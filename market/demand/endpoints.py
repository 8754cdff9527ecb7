"""HTTP of requests for data, their matches, quotes and alerts."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from listings.vocabulary import Category
from market.demand import alerts, awards, matches, quotes, requests
from market.demand.models import QuoteStatus, RequestStatus
from market.demand.schemas import (
    AcceptInput,
    AlertView,
    MatchPage,
    ProposalInput,
    QuoteInput,
    RequestInput,
    RequestPatch,
    RequestQuoteView,
    RequestView,
)
from market.kernel.http import (
    TEXT_HEADER,
    IdempotentRoute,
    IfMatch,
    KernelDep,
    created,
    etag,
    problems,
)
from market.kernel.ids import AlertId, QuoteId, RequestId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, BuyerDep, SellerDep, TraderDep

router = APIRouter(route_class=IdempotentRoute, tags=["demand"])

PageDep = Annotated[PageQuery, Depends()]
_ETAG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The request", "headers": {"ETag": TEXT_HEADER}}
}
_WRITE = problems(400, 401, 403, 404, 409, 422)


@router.post(
    "/v1/requests",
    operation_id="create_request",
    status_code=201,
    responses={
        **created("The request", "request_id", "show_request", "list_matches", "close_request"),
        **_WRITE,
    },
)
async def create_request(kernel: KernelDep, actor: BuyerDep, body: RequestInput) -> RequestView:
    """Say what data you look for; open at once, or as a draft."""
    return await requests.create_request(kernel, actor, body)


@router.get("/v1/requests", operation_id="list_requests", responses=problems(401, 422))
async def list_requests(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    mine: bool = False,
    status: RequestStatus | None = None,
    category: Category | None = None,
) -> Page[RequestView]:
    """Requests that you may see, newest first; with ``mine`` only your own."""
    return await requests.list_requests(
        kernel, actor, page, mine=mine, status=status, category=category
    )


@router.get(
    "/v1/requests/{request_id}",
    operation_id="show_request",
    responses={**_ETAG, **problems(401, 404, 422)},
)
async def show_request(
    kernel: KernelDep, actor: ActorDep, request_id: RequestId, response: Response
) -> RequestView:
    """One request."""
    view = await requests.show_request(kernel, actor, request_id)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.patch(
    "/v1/requests/{request_id}",
    operation_id="change_request",
    responses={**_ETAG, **problems(401, 403, 404, 409, 412, 422, 428)},
)
async def change_request(
    kernel: KernelDep,
    actor: BuyerDep,
    request_id: RequestId,
    body: RequestPatch,
    revision: IfMatch,
    response: Response,
) -> RequestView:
    """Change your draft or open request."""
    view = await requests.change_request(kernel, actor, request_id, body, revision=revision)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.post("/v1/requests/{request_id}/open", operation_id="open_request", responses=_WRITE)
async def open_request(kernel: KernelDep, actor: BuyerDep, request_id: RequestId) -> RequestView:
    """Show your draft to the sellers."""
    return await requests.open_request(kernel, actor, request_id)


@router.post("/v1/requests/{request_id}/close", operation_id="close_request", responses=_WRITE)
async def close_request(kernel: KernelDep, actor: ActorDep, request_id: RequestId) -> RequestView:
    """End a request without a deal (its buyer, or an operator); open quotes lapse."""
    return await requests.close_request(kernel, actor, request_id)


@router.get(
    "/v1/requests/{request_id}/matches",
    operation_id="list_matches",
    responses=problems(401, 404, 422),
)
async def list_matches(
    kernel: KernelDep,
    actor: ActorDep,
    request_id: RequestId,
    page: PageDep,
    near_misses: Annotated[
        bool, Query(description="Instead: listings that fail exactly one constraint.")
    ] = False,
) -> MatchPage:
    """Listings on the market that meet your request, best first, with reasons."""
    return await matches.list_matches(kernel, actor, request_id, page, near_misses=near_misses)


@router.post(
    "/v1/requests/{request_id}/quotes",
    operation_id="make_quote",
    status_code=201,
    responses={
        **created(
            "The quote",
            "request_quote_id",
            "show_quote",
            "counter_quote",
            "accept_quote",
            "decline_quote",
        ),
        **_WRITE,
    },
)
async def make_quote(
    kernel: KernelDep, actor: SellerDep, request_id: RequestId, body: QuoteInput
) -> RequestQuoteView:
    """Offer one of your plans at a price that only this buyer sees."""
    return await quotes.make_quote(kernel, actor, request_id, body)


@router.get(
    "/v1/requests/{request_id}/quotes",
    operation_id="list_request_quotes",
    responses=problems(401, 404, 422),
)
async def list_request_quotes(
    kernel: KernelDep,
    actor: ActorDep,
    request_id: RequestId,
    page: PageDep,
    status: QuoteStatus | None = None,
) -> Page[RequestQuoteView]:
    """Quotes on a request, newest first: the buyer sees all, a seller its own."""
    return await quotes.list_quotes(kernel, actor, page, request_id=request_id, status=status)


@router.get("/v1/quotes", operation_id="list_quotes", responses=problems(401, 422))
async def list_quotes(
    kernel: KernelDep, actor: ActorDep, page: PageDep, status: QuoteStatus | None = None
) -> Page[RequestQuoteView]:
    """Quotes that you made or received, newest first."""
    return await quotes.list_quotes(kernel, actor, page, status=status)


@router.get(
    "/v1/quotes/{request_quote_id}", operation_id="show_quote", responses=problems(401, 404, 422)
)
async def show_quote(
    kernel: KernelDep, actor: ActorDep, request_quote_id: QuoteId
) -> RequestQuoteView:
    """One quote with all its rounds."""
    return await quotes.show_quote(kernel, actor, request_quote_id)


@router.post(
    "/v1/quotes/{request_quote_id}/counter", operation_id="counter_quote", responses=_WRITE
)
async def counter_quote(
    kernel: KernelDep, actor: TraderDep, request_quote_id: QuoteId, body: ProposalInput
) -> RequestQuoteView:
    """Propose other terms; they bind you until ``valid_until``."""
    return await quotes.counter(kernel, actor, request_quote_id, body)


@router.post(
    "/v1/quotes/{request_quote_id}/accept",
    operation_id="accept_quote",
    responses=problems(400, 401, 402, 403, 404, 409, 422),
)
async def accept_quote(
    kernel: KernelDep, actor: TraderDep, request_quote_id: QuoteId, body: AcceptInput
) -> RequestQuoteView:
    """Accept the other side's proposal: the buyer's money goes to escrow, access begins."""
    return await awards.accept_quote(kernel, actor, request_quote_id, body)


@router.post(
    "/v1/quotes/{request_quote_id}/decline", operation_id="decline_quote", responses=_WRITE
)
async def decline_quote(
    kernel: KernelDep, actor: BuyerDep, request_quote_id: QuoteId
) -> RequestQuoteView:
    """Turn a quote down for good (the buyer)."""
    return await quotes.end_quote(kernel, actor, request_quote_id, QuoteStatus.DECLINED)


@router.post(
    "/v1/quotes/{request_quote_id}/withdraw", operation_id="withdraw_quote", responses=_WRITE
)
async def withdraw_quote(
    kernel: KernelDep, actor: SellerDep, request_quote_id: QuoteId
) -> RequestQuoteView:
    """Take a quote back (its seller)."""
    return await quotes.end_quote(kernel, actor, request_quote_id, QuoteStatus.WITHDRAWN)


@router.get("/v1/alerts", operation_id="list_alerts", responses=problems(401, 422))
async def list_alerts(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    request_id: RequestId | None = None,
    unread: bool = False,
) -> Page[AlertView]:
    """What your standing requests found, newest first."""
    return await alerts.list_alerts(kernel, actor, page, request_id=request_id, unread=unread)


@router.post(
    "/v1/alerts/{alert_id}/read",
    operation_id="read_alert",
    responses=problems(400, 401, 404, 409, 422),
)
async def read_alert(kernel: KernelDep, actor: ActorDep, alert_id: AlertId) -> AlertView:
    """Mark an alert as read."""
    return await alerts.read_alert(kernel, actor, alert_id)
