"""HTTP of agreements, grants, delivery tokens, delivery, receipts and traces."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from contracts import acceptance, grants, receipts, resale_trace, tokens, trace
from contracts.agreement_states import AgreementStatus
from contracts.copies import disclosure
from contracts.delivery.bearer import SECURITY, peer_of, token_of
from contracts.delivery.coding import codings_of
from contracts.delivery.formats import MEDIA_TYPES, Format
from contracts.delivery.once import DELIVERY_ID_PATTERN
from contracts.delivery.requests import RowsRequest
from contracts.delivery.rows import rows_service
from contracts.schemas import (
    AgreementView,
    GrantView,
    MintedToken,
    ReceiptView,
    RotationBody,
    RowCount,
    RowsPage,
    TerminationBody,
    TokenBody,
    TokenDetail,
    TokenView,
    TraceView,
    UsageView,
)
from contracts.token_limits import WayOut
from contracts.versions.granted import NUMBER_MAX
from listings.row_filter import FILTER_MAX_CHARS
from market.kernel.http import IdempotentRoute, KernelDep, kernel_of, problems
from market.kernel.ids import AgreementId, GrantId, ReceiptId, TokenId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])
resale_trace.install()

PageDep = Annotated[PageQuery, Depends()]


@router.get("/v1/agreements", responses=problems(401, 422))
async def list_agreements(
    kernel: KernelDep, actor: ActorDep, page: PageDep, status: AgreementStatus | None = None
) -> Page[AgreementView]:
    """Your agreements as buyer or seller, newest first; overseers see all."""
    return await acceptance.list_agreements(kernel, actor, page=page, status=status)


@router.get("/v1/agreements/{agreement_id}", responses=problems(401, 404, 422))
async def show_agreement(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId
) -> AgreementView:
    """One agreement: signed terms, state, money."""
    return await acceptance.show_agreement(kernel, actor, agreement_id)


@router.post(
    "/v1/agreements/{agreement_id}/accept", responses=problems(400, 401, 403, 404, 409, 422)
)
async def accept_agreement(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId
) -> AgreementView:
    """Accept what was delivered (buyer): the rest of the escrow is released."""
    return await acceptance.accept(kernel, actor, agreement_id)


@router.post(
    "/v1/agreements/{agreement_id}/terminate", responses=problems(400, 401, 403, 404, 409, 422)
)
async def terminate_agreement(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, body: TerminationBody
) -> AgreementView:
    """End an agreement early (operator): access ends now, unused units are refunded."""
    return await acceptance.terminate(kernel, actor, agreement_id, body)


@router.get("/v1/agreements/{agreement_id}/trace", responses=problems(401, 404, 422))
async def trace_agreement(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId
) -> TraceView:
    """The whole trade as one signed hash chain, for both parties and overseers."""
    return await trace.trace(kernel, actor, agreement_id)


@router.get("/v1/agreements/{agreement_id}/receipts", responses=problems(401, 404, 422))
async def list_receipts(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[ReceiptView]:
    """An agreement's receipts in chain order."""
    await grants.settle_buffered(kernel)
    return await receipts.list_receipts(kernel, actor, agreement_id, page=page)


@router.get("/v1/receipts/{receipt_id}", responses=problems(401, 404, 422))
async def show_receipt(kernel: KernelDep, actor: ActorDep, receipt_id: ReceiptId) -> ReceiptView:
    """One receipt, for both parties and overseers."""
    await grants.settle_buffered(kernel)
    return await receipts.get_receipt(kernel, actor, receipt_id)


@router.get("/v1/grants", responses=problems(401, 422))
async def list_grants(kernel: KernelDep, actor: ActorDep, page: PageDep) -> Page[GrantView]:
    """Your grants as buyer or seller, newest first; overseers see all."""
    return await grants.list_grants(kernel, actor, page=page)


@router.get("/v1/grants/{grant_id}", responses=problems(401, 404, 422))
async def show_grant(kernel: KernelDep, actor: ActorDep, grant_id: GrantId) -> GrantView:
    """One grant with its meter: used and remaining units."""
    return await grants.get_grant(kernel, actor, grant_id)


@router.get("/v1/grants/{grant_id}/usage", responses=problems(401, 404, 422))
async def list_usage(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, page: PageDep
) -> Page[UsageView]:
    """Usage records of a grant, newest first."""
    return await grants.list_usage(kernel, actor, grant_id, page=page)


@router.post(
    "/v1/grants/{grant_id}/tokens",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def mint_token(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, body: TokenBody
) -> MintedToken:
    """A delivery token (buyer); shown this once. All tokens of a grant share its quota."""
    return await tokens.mint(kernel, actor, grant_id, body)


@router.get("/v1/grants/{grant_id}/tokens", responses=problems(401, 404, 422))
async def list_tokens(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, page: PageDep
) -> Page[TokenView]:
    """A grant's delivery tokens without their secrets, newest first."""
    return await tokens.list_tokens(kernel, actor, grant_id, page=page)


@router.get("/v1/tokens/{token_id}", responses=problems(401, 404, 422))
async def show_token(kernel: KernelDep, actor: ActorDep, token_id: TokenId) -> TokenDetail:
    """A delivery token without its secret, and what its grant has left."""
    return await tokens.get_token(kernel, actor, token_id)


@router.post(
    "/v1/tokens/{token_id}/rotate",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def rotate_token(
    kernel: KernelDep, actor: ActorDep, token_id: TokenId, body: RotationBody
) -> MintedToken:
    """A new secret with the token's own limits (its buyer); the old one ends after the overlap."""
    return await tokens.rotate(kernel, actor, token_id, body.overlap_s)


@router.delete("/v1/tokens/{token_id}", status_code=204, responses=problems(401, 404, 422))
async def revoke_token(kernel: KernelDep, actor: ActorDep, token_id: TokenId) -> None:
    """Revoke a delivery token at once (its buyer); the other tokens of the grant live on."""
    await tokens.revoke(kernel, actor, token_id)


FilterQuery = Annotated[
    str | None,
    Query(
        alias="filter",
        max_length=FILTER_MAX_CHARS,
        description="Conditions with and/or/not, =, !=, <, <=, >, >=, in, like, is null. Dates and "
        "times are ISO 8601 strings in the years 1 to 9999 (1678 to 2261 for a column that keeps "
        "nanoseconds).",
        examples=["carrier = 'UA' and dep_delay > 15"],
    ),
]
GrantQuery = Annotated[
    GrantId | None, Query(description="If given, must be the token's own grant.")
]

VersionQuery = Annotated[
    int | None,
    Query(
        ge=1,
        le=NUMBER_MAX,
        description="A version by its number; without, the one that the agreement says.",
    ),
]

_HEADERS = {
    "Data-Version": "The number of the version that was read.",
    "Delivery-Id": "Repeat it to fetch the same page again, free for 24 hours.",
    disclosure.HEADER: disclosure.DESCRIPTION,
    "Meter-Charged": "Units charged for this page.",
    "Meter-Remaining": "Units left after it; absent without a bound.",
    "Receipt-Id": "The signed receipt of this delivery.",
    "Content-Encoding": "zstd or gzip; absent without a coding.",
    "Next-After": "The cursor of the next page; absent on the last.",
}
ROWS_RESPONSE: dict[str, Any] = {
    "description": "A page of rows in the accepted format.",
    "model": RowsPage,
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for format_, media_type in MEDIA_TYPES.items()
        if format_ is not Format.JSON
    },
    "headers": {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    },
}


@router.get(
    "/v1/delivery/rows",
    response_class=Response,
    responses={
        200: ROWS_RESPONSE,
        **problems(401, 402, 403, 404, 406, 409, 410, 413, 422, 429, 503),
    },
    openapi_extra=SECURITY,
)
async def deliver_rows(
    http: Request,
    select: Annotated[
        str | None, Query(max_length=8_000, description="Columns, separated by commas.")
    ] = None,
    order: Annotated[
        str | None, Query(max_length=1_000, description="Up to 3 columns, `-` for descending.")
    ] = None,
    after: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
    accept: Annotated[str | SkipJsonSchema[None], Header()] = None,
    delivery_id: Annotated[
        str | SkipJsonSchema[None],
        # Enforced with a code of its own, after the token.
        Header(alias="Delivery-Id", json_schema_extra={"pattern": DELIVERY_ID_PATTERN}),
    ] = None,
    filter_: FilterQuery = None,
    grant_id: GrantQuery = None,
    version: VersionQuery = None,
) -> Response:
    """A page of rows, metered: exactly the rows sent are charged, refusals are free.

    JSON, NDJSON, CSV, Parquet or an Arrow stream by `Accept`. In CSV, text that a spreadsheet would
    run as a formula gets a leading apostrophe; the other formats carry every value unchanged.
    Pages of 1 KiB and more are sent in zstd or gzip by `Accept-Encoding`, Parquet as it is.
    """
    request = RowsRequest(
        token=token_of(http),
        grant_id=grant_id,
        filter=filter_,
        select=select,
        order=order,
        after=after,
        limit=limit,
        accept=accept,
        accept_encoding=codings_of(http),
        delivery_id=delivery_id,
        address=peer_of(http),
        version=version,
        operation=WayOut.ROWS,
    )
    return await rows_service(kernel_of(http)).deliver(request)


@router.get(
    "/v1/delivery/rows/count",
    responses=problems(401, 402, 403, 404, 410, 413, 422, 429, 503),
    openapi_extra=SECURITY,
)
async def count_rows(
    http: Request,
    filter_: FilterQuery = None,
    grant_id: GrantQuery = None,
    version: VersionQuery = None,
) -> RowCount:
    """How many rows a filter selects; free."""
    request = RowsRequest(
        token=token_of(http),
        grant_id=grant_id,
        filter=filter_,
        address=peer_of(http),
        version=version,
    )
    return await rows_service(kernel_of(http)).count(request)
