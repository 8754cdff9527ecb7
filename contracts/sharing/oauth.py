"""Delta Sharing by OAuth client credentials: a delivery key is exchanged for short-lived tokens.

The client is a delivery token of the form ``key``: its id is the client id, the key the secret.
What it is exchanged for is the same token for a quarter of an hour, so its limits, quota,
rotation and revocation hold at every use, as for the key itself.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from contracts.models import DeliveryToken, Grant
from contracts.token_keys import key_sha256
from contracts.token_limits import WayOut
from contracts.tokens import find_key, sign_access
from market.kernel.context import Kernel
from market.kernel.ids import parse, show
from market.kernel.schemas import Schema
from market.kernel.security import InvalidToken
from market.parties.directory import get_party
from market.parties.errors import ClientSuspended, InvalidClient, InvalidScope
from market.parties.models import PartyStatus
from market.parties.oauth import TokenRequest
from market.parties.throttle import limit_logins

# The official client asks again when less than ten minutes are left.
ACCESS_TTL_S = 900


class DeliveryAccess(Schema):
    """RFC 6749 §5.1: a delivery token that ends soon."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme name, not a secret
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(description="Its operations, separated by spaces.")


async def exchange(kernel: Kernel, request: TokenRequest, *, address: str) -> DeliveryAccess:
    """A token of ``ACCESS_TTL_S`` seconds, or of what the client has left.

    Raises InvalidClient (401), alike for an unknown client, a wrong secret, and a token that was
    revoked, replaced or has expired; ClientSuspended (401), InvalidScope (400), TooManyLogins
    (429), LoginUnavailable (503).
    """
    try:
        client_id: UUID | None = parse("tok", request.client_id)
    except ValueError:
        client_id = None
    await limit_logins(kernel, client_id, address=address)
    try:
        digest = key_sha256(request.client_secret)
    except InvalidToken as error:
        raise InvalidClient from error
    async with kernel.unit_of_work() as uow:
        row = await find_key(uow, digest)
        if row is None or row.id != client_id or row.revoked_at is not None:
            raise InvalidClient
        end = min(row.expires_at, row.ends_at or row.expires_at)
        ttl_s = min(ACCESS_TTL_S, int((end - uow.now).total_seconds()))
        if ttl_s < 1:
            raise InvalidClient
        grant = await uow.session.get_one(Grant, row.grant_id)
        party = await get_party(uow, row.party_id)
    if party.status is PartyStatus.SUSPENDED:
        raise ClientSuspended
    token = sign_access(kernel, row, grant, ttl_s=ttl_s)
    return DeliveryAccess(access_token=token, expires_in=ttl_s, scope=_scope(row, request.scope))


def _scope(row: DeliveryToken, asked: frozenset[str]) -> str:
    """All that the token may do; asking for less changes nothing. Raises InvalidScope (400)."""
    held: list[str] = row.limits.get("operations") or [each.value for each in WayOut]
    if not asked <= set(held):
        raise InvalidScope("The token is not for every operation of this scope.", param="scope")
    return " ".join(held)


class OAuthProfile(Schema):
    """A profile file of version 2, as clients of Delta Sharing read it."""

    shareCredentialsVersion: int = Field(examples=[2])  # noqa: N815 - the protocol's names
    type: Literal["oauth_client_credentials"]
    endpoint: str
    tokenEndpoint: str  # noqa: N815
    clientId: str  # noqa: N815
    clientSecret: str = Field(json_schema_extra={"format": "password"})  # noqa: N815


def profile(
    base_url: str, *, endpoint: str, token_path: str, token_id: UUID, key: str
) -> OAuthProfile:
    """The profile of a delivery key, whose text only its holder has."""
    return OAuthProfile(
        shareCredentialsVersion=2,
        type="oauth_client_credentials",
        endpoint=f"{base_url}{endpoint}",
        tokenEndpoint=f"{base_url}{token_path}",
        clientId=show("tok", token_id),
        clientSecret=key,
    )
