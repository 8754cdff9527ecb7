"""HTTP of the feed of changes, and of the keys that rows are known by."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from contracts.changes import delivery, keys
from contracts.changes.schemas import ChangeCounts, ProductKeyInput, ProductKeyView
from contracts.delivery.bearer import SECURITY, peer_of, token_of
from contracts.delivery.coding import codings_of
from contracts.delivery.once import DELIVERY_ID_PATTERN
from contracts.delivery.requests import RowsRequest
from contracts.endpoints import ROWS_RESPONSE, FilterQuery, VersionQuery
from contracts.versions.granted import NUMBER_MAX
from market.kernel.http import IdempotentRoute, KernelDep, kernel_of, problems
from market.kernel.ids import ProductId
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])

SinceQuery = Annotated[
    int, Query(ge=1, le=NUMBER_MAX, description="The version that you have, by its number.")
]
_HEADERS = {
    "Since-Version": "The number of the version that the changes begin with.",
    "Changes-Key": "Columns that rows are known by, percent-encoded, separated by commas; absent "
    "when rows are compared whole.",
}
_RESPONSE: dict[str, Any] = {
    **ROWS_RESPONSE,
    "description": "A page of changes in the accepted format.",
    "headers": {
        **ROWS_RESPONSE["headers"],
        **{
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        },
    },
}


@router.get(
    "/v1/delivery/changes",
    response_class=Response,
    responses={200: _RESPONSE, **problems(401, 402, 403, 404, 406, 409, 410, 413, 422, 429, 503)},
    openapi_extra=SECURITY,
)
async def deliver_changes(
    http: Request,
    since: SinceQuery,
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
    version: VersionQuery = None,
) -> Response:
    """A page of what changed between two versions, metered like rows.

    `_change` is insert, update or delete; the other columns are the row's own.
    """
    request = RowsRequest(
        token=token_of(http),
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
    )
    return await delivery.deliver(kernel_of(http), request, since=since)


@router.get(
    "/v1/delivery/changes/count",
    responses=problems(401, 403, 404, 409, 410, 413, 422, 429, 503),
    openapi_extra=SECURITY,
)
async def count_changes(
    http: Request, since: SinceQuery, version: VersionQuery = None
) -> ChangeCounts:
    """How many rows came, changed and went; free."""
    request = RowsRequest(token=token_of(http), address=peer_of(http), version=version)
    return await delivery.count(kernel_of(http), request, since=since)


@router.get("/v1/products/{product_id}/key", responses=problems(401, 404, 422))
async def show_product_key(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId
) -> ProductKeyView:
    """The columns that a product's rows are known by (its owner, overseers)."""
    return await keys.show_key(kernel, actor, product_id)


@router.put("/v1/products/{product_id}/key", responses=problems(401, 404, 422))
async def set_product_key(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId, body: ProductKeyInput
) -> ProductKeyView:
    """Declare them (its owner): the feed of changes then tells updates from new rows."""
    return await keys.set_key(kernel, actor, product_id, body)
