"""HTTP of Delta Sharing's OAuth profile: the token endpoint and the file."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contracts.delivery.bearer import TokenDep
from contracts.sharing.endpoints import PREFIX, TableDep, base_url
from contracts.sharing.errors import SharingRequestInvalid
from contracts.sharing.oauth import DeliveryAccess, OAuthProfile, exchange, profile
from contracts.sharing.routes import SharingRoute
from contracts.token_keys import KEY_PREFIX
from market.kernel.http import KernelDep, problems
from market.parties import oauth
from market.parties.throttle import address_of

router = APIRouter(route_class=SharingRoute, tags=["delta-sharing"])
TOKEN_PATH: Final = f"{PREFIX}/oauth/token"

_FORM: Final[dict[str, Any]] = {
    "x-idempotent": False,
    "requestBody": {
        "required": True,
        "content": {
            oauth.FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    # RFC 6749 §3.2: fields are not repeated, so none is a list.
                    "additionalProperties": {"type": "string"},
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["client_credentials"]},
                        "client_id": {"type": "string", "examples": ["tok_0190f3a1b2c37d4e…"]},
                        "client_secret": {"type": "string", "format": "password"},
                        "scope": {
                            "type": "string",
                            "description": "Some of the token's operations, space-separated.",
                        },
                    },
                }
            }
        },
    },
}


@router.post(TOKEN_PATH, openapi_extra=_FORM, responses=problems(400, 401, 413, 429, 503))
async def create_sharing_access_token(
    kernel: KernelDep, request: Request, response: Response
) -> DeliveryAccess:
    """Exchange a delivery key for a token of 15 minutes (RFC 6749 client_credentials).

    The client id is the id of the delivery token, the secret its key `dem_…`; form fields or
    HTTP Basic. Errors carry RFC 6749's `error` and `error_description`.
    """
    wish = oauth.read_token_request(
        request.headers.get("content-type"),
        request.headers.get("authorization"),
        await request.body(),
    )
    access = await exchange(kernel, wish, address=address_of(request))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return access


@router.get(f"{PREFIX}/profile/oauth", responses=problems(400, 401, 403, 404, 410, 429, 503))
async def download_sharing_oauth_profile(
    http: Request, kernel: KernelDep, table: TableDep, key: TokenDep, response: Response
) -> OAuthProfile:
    """The profile file (version 2, OAuth client credentials) of the delivery key that asks."""
    if not key.startswith(KEY_PREFIX):
        raise SharingRequestInvalid(
            "Only a key has this profile.", hint='Mint the token with "form": "key".'
        )
    response.headers["Content-Disposition"] = f'attachment; filename="{table.name}.share"'
    response.headers["Cache-Control"] = "no-store"
    return profile(
        base_url(http, kernel),
        endpoint=PREFIX,
        token_path=TOKEN_PATH,
        token_id=table.claims.token_id,
        key=key,
    )
