"""HTTP of the proxy: a seller's upstreams, a buyer's calls, the evidence between them."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic.json_schema import SkipJsonSchema

from contracts.delivery.bearer import TokenDep, peer_of
from contracts.delivery.once import DELIVERY_ID_PATTERN
from contracts.proxy import trials, upstreams, violations
from contracts.proxy.delivery import ProxyRequest, proxy_service
from contracts.proxy.schemas import (
    CallBody,
    MediaType,
    OperationList,
    OperationName,
    SecretBody,
    TrialBody,
    TrialView,
    UpstreamInput,
    UpstreamView,
    ViolationView,
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
from market.kernel.ids import AgreementId, ProductId, UpstreamId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["proxy"])

PageDep = Annotated[PageQuery, Depends()]
_TAGGED: dict[str, Any] = {"headers": {"ETag": TEXT_HEADER}, "description": "The upstream."}


@router.post(
    "/v1/products/{product_id}/upstreams",
    status_code=201,
    responses={
        **created("The upstream.", "upstream_id", "show_upstream", "try_upstream"),
        **problems(400, 401, 403, 404, 409, 422),
    },
)
async def register_upstream(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId, body: UpstreamInput
) -> UpstreamView:
    """Put an API of yours behind your product; nothing is dialed before a call."""
    return await upstreams.register(kernel, actor, product_id, body)


@router.get("/v1/upstreams", responses=problems(401, 422))
async def list_upstreams(kernel: KernelDep, actor: ActorDep, page: PageDep) -> Page[UpstreamView]:
    """Your upstreams, newest first; overseers see all."""
    return await upstreams.list_upstreams(kernel, actor, page=page)


@router.get("/v1/upstreams/{upstream_id}", responses={200: _TAGGED, **problems(401, 404, 422)})
async def show_upstream(
    kernel: KernelDep, actor: ActorDep, upstream_id: UpstreamId, response: Response
) -> UpstreamView:
    """One upstream, without its secret."""
    view = await upstreams.show_upstream(kernel, actor, upstream_id)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.put(
    "/v1/upstreams/{upstream_id}",
    responses={200: _TAGGED, **problems(401, 403, 404, 409, 412, 422, 428)},
)
async def replace_upstream(
    kernel: KernelDep,
    actor: ActorDep,
    upstream_id: UpstreamId,
    body: UpstreamInput,
    revision: IfMatch,
    response: Response,
) -> UpstreamView:
    """Replace address and operations; a secret given for another host or place is dropped."""
    view = await upstreams.replace(kernel, actor, upstream_id, body, revision=revision)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.put("/v1/upstreams/{upstream_id}/secret", responses=problems(401, 403, 404, 409, 422, 503))
async def set_upstream_secret(
    kernel: KernelDep, actor: ActorDep, upstream_id: UpstreamId, body: SecretBody
) -> UpstreamView:
    """Set or rotate the secret. It is sealed at once and can never be read again."""
    value = body.value.get_secret_value()
    return await upstreams.set_secret(kernel, actor, upstream_id, value)


@router.post("/v1/upstreams/{upstream_id}/retire", responses=problems(400, 401, 403, 404, 409, 422))
async def retire_upstream(
    kernel: KernelDep, actor: ActorDep, upstream_id: UpstreamId
) -> UpstreamView:
    """End an upstream for good; its secret is deleted."""
    return await upstreams.retire(kernel, actor, upstream_id)


@router.post(
    "/v1/upstreams/{upstream_id}/test-calls",
    responses=problems(400, 401, 403, 404, 409, 422, 429, 503),
)
async def try_upstream(
    kernel: KernelDep, actor: ActorDep, upstream_id: UpstreamId, body: TrialBody
) -> TrialView:
    """Call an operation and see how it went, not what it answered; up to 60 a minute."""
    return await trials.run(kernel, actor, upstream_id, body)


@router.get("/v1/agreements/{agreement_id}/proxy-violations", responses=problems(401, 404, 422))
async def list_proxy_violations(
    kernel: KernelDep, actor: ActorDep, agreement_id: AgreementId, page: PageDep
) -> Page[ViolationView]:
    """Answers that broke their description, newest first, for both parties and overseers."""
    return await violations.list_violations(kernel, actor, agreement_id, page=page)


_HEADERS = {
    "Delivery-Id": "Repeat your own to get the same answer again, free for 24 hours.",
    "Meter-Charged": "Units charged for this call.",
    "Meter-Remaining": "Units left after it; absent without a bound.",
    "Receipt-Id": "The signed receipt of this delivery.",
}
_BINARY = {"type": "string", "format": "binary"}
_ANSWER: dict[str, Any] = {
    "description": "The upstream's answer, in the operation's media type.",
    "content": {
        media_type: {"schema": {} if media_type.endswith("/json") else _BINARY}
        for media_type in get_args(MediaType)
    },
    "headers": {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    },
}


@router.get("/v1/delivery/proxy", responses=problems(401, 403, 404, 410, 422, 429, 503))
async def list_operations(kernel: KernelDep, http: Request, token: TokenDep) -> OperationList:
    """The calls that a grant may make, with the schemas of parameters and answers; free."""
    return await proxy_service(kernel).operations(token, address=peer_of(http))


@router.post(
    "/v1/delivery/proxy/{operation}",
    response_class=Response,
    responses={
        200: _ANSWER,
        **problems(400, 401, 402, 403, 404, 409, 410, 422, 429, 502, 503, 504),
    },
    openapi_extra={"x-idempotent": False},
)
async def call_operation(
    kernel: KernelDep,
    http: Request,
    token: TokenDep,
    operation: Annotated[OperationName, Path()],
    body: CallBody,
    delivery_id: Annotated[
        str | SkipJsonSchema[None],
        # Enforced with a code of its own, after the token.
        Header(alias="Delivery-Id", json_schema_extra={"pattern": DELIVERY_ID_PATTERN}),
    ] = None,
) -> Response:
    """Call the seller's API through the exchange: charged when the whole answer is sent.

    A failure of the upstream is a 502, 503 or 504 with a stable code, and free.
    """
    return await proxy_service(kernel).deliver(
        ProxyRequest(
            token=token,
            operation=operation,
            parameters=body.parameters,
            delivery_id=delivery_id,
            address=peer_of(http),
        )
    )
