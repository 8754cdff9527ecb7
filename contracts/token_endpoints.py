"""HTTP of RFC 7662 introspection and RFC 7009 revocation of delivery tokens."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contracts.token_questions import Introspection, introspect, revoke_presented
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.security import Actor, Role
from market.parties import oauth, tokens as logins
from market.parties.throttle import address_of

router = APIRouter(route_class=IdempotentRoute, tags=["oauth2"])

_FORM: Final[dict[str, Any]] = {
    "x-idempotent": False,
    "requestBody": {
        "required": True,
        "content": {
            oauth.FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["token"],
                    # RFC 6749 §3.2: fields are not repeated, so none is a list.
                    "additionalProperties": {"type": "string"},
                    "properties": {
                        "token": {"type": "string", "format": "password", "minLength": 1},
                        "token_type_hint": {"type": "string"},
                        "client_id": {"type": "string"},
                        "client_secret": {"type": "string", "format": "password"},
                    },
                }
            }
        },
    },
}
_REFUSALS = problems(400, 401, 413, 429, 503)


async def _asked(kernel: KernelDep, request: Request) -> tuple[Actor, str]:
    client, token = oauth.read_token_question(
        request.headers.get("content-type"),
        request.headers.get("authorization"),
        await request.body(),
    )
    credential = await logins.authenticate(kernel, client, address=address_of(request))
    roles = frozenset(Role(role) for role in credential.roles)
    return Actor(credential.party_id, credential.id, roles, ""), token


@router.post("/oauth2/introspect", openapi_extra=_FORM, responses=_REFUSALS)
async def introspect_token(
    kernel: KernelDep, request: Request, response: Response
) -> Introspection:
    """Whether a delivery token can be used now (RFC 7662), for its grant's buyer and seller.

    The client authenticates as at /oauth2/token. Other parties' tokens are `active: false`.
    """
    actor, token = await _asked(kernel, request)
    response.headers["Cache-Control"] = "no-store"
    return await introspect(kernel, actor.party_id, token)


@router.post("/oauth2/revoke", openapi_extra=_FORM, responses=_REFUSALS)
async def revoke_presented_token(kernel: KernelDep, request: Request) -> None:
    """End a delivery token of yours at once (RFC 7009); 200 for unknown and foreign ones too.

    The client authenticates as at /oauth2/token.
    """
    actor, token = await _asked(kernel, request)
    await revoke_presented(kernel, actor, token)
