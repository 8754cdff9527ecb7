"""Who makes this request: bearer access token → Actor, and role gates for routes.

A token alone proves nothing for long: each request asks the database whether the credential
behind it still lives and its party may still act, so revocation and suspension hold at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, OAuth2

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.http import KernelDep
from market.kernel.ids import parse
from market.kernel.logging import get_logger
from market.kernel.security import Actor, InvalidToken, Role, RoleRequired
from market.parties.errors import CredentialRevoked, PartySuspended, TokenMissing
from market.parties.models import PartyStatus
from market.parties.sql import read_standing

ACCESS_TOKEN_TYP: Final = "at+jwt"  # noqa: S105 - RFC 9068 media type, not a secret
TOKEN_URL: Final = "/oauth2/token"  # noqa: S105 - an address, not a secret

_log = get_logger(__name__)

_bearer = HTTPBearer(
    scheme_name="bearer",
    bearerFormat="JWT",
    description="An access token from POST /oauth2/token.",
    auto_error=False,
)
_oauth2 = OAuth2(
    scheme_name="oauth2",
    flows={
        "clientCredentials": {
            "tokenUrl": TOKEN_URL,
            "scopes": {role.value: f"Act as {role.value}." for role in Role},
        }
    },
    auto_error=False,
)


async def authenticate(kernel: Kernel, token: str) -> Actor:
    """The actor behind an access token.

    Raises InvalidToken or CredentialRevoked (401), PartySuspended (403), DatabaseUnavailable
    (503). Effect: binds the request's Idempotency-Key to the party.
    """
    claims = kernel.keys.verify(ACCESS_TOKEN_TYP, token, audience=kernel.settings.audience)
    return await actor_of(kernel, claims)


async def actor_of(kernel: Kernel, claims: Mapping[str, Any]) -> Actor:
    """The actor behind verified claims (of a token or a console session), if it still stands.

    Raises and effect as :func:`authenticate`.
    """
    try:
        party_id = parse("pty", str(claims["sub"]))
        credential_id = parse("crd", str(claims["client_id"]))
        claimed = frozenset(Role(role) for role in claims["roles"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidToken("The token's claims are not ours.") from error
    standing = await read_standing(kernel.db, credential_id, party_id=party_id)
    if standing is None or standing.revoked:
        raise CredentialRevoked
    if standing.status == PartyStatus.SUSPENDED:
        raise PartySuspended
    roles = frozenset(role for role in claimed if role.value in standing.roles)
    if not roles:
        raise CredentialRevoked
    idempotency.bind_scope(party_id)
    return Actor(
        party_id=party_id, credential_id=credential_id, roles=roles, token_id=str(claims["jti"])
    )


async def _actor(
    kernel: KernelDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _declared: Annotated[str | None, Depends(_oauth2)],
) -> Actor:
    if bearer is None or not bearer.credentials:
        raise TokenMissing
    return await authenticate(kernel, bearer.credentials)


async def _optional_actor(kernel: KernelDep, request: Request) -> Actor | None:
    # Read from the request, not by a security scheme: OpenAPI would call the route protected.
    authorization = request.headers.get("authorization")
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenMissing
    return await authenticate(kernel, token.strip())


ActorDep = Annotated[Actor, Depends(_actor)]
# For public routes that show more to those who log in; a bad token is refused, not ignored.
OptionalActorDep = Annotated[Actor | None, Depends(_optional_actor)]


def role_gate(*roles: Role) -> Callable[[Actor], Awaitable[Actor]]:
    """A dependency that refuses (403 ``role_required``) actors with none of ``roles``."""

    async def gate(actor: ActorDep) -> Actor:
        try:
            actor.require(*roles)
        except RoleRequired:
            _log.warning("role_refused", party_id=str(actor.party_id), wanted=sorted(roles))
            raise
        return actor

    return gate


SellerDep = Annotated[Actor, Depends(role_gate(Role.SELLER))]
BuyerDep = Annotated[Actor, Depends(role_gate(Role.BUYER))]
TraderDep = Annotated[Actor, Depends(role_gate(Role.SELLER, Role.BUYER))]
OperatorDep = Annotated[Actor, Depends(role_gate(Role.OPERATOR))]
ArbiterDep = Annotated[Actor, Depends(role_gate(Role.ARBITER))]
# Those who may look at everybody: operators decide, regulators only read.
OversightDep = Annotated[Actor, Depends(role_gate(Role.OPERATOR, Role.REGULATOR))]


def may_oversee(actor: Actor, party_id: UUID) -> bool:
    """Whether ``actor`` may read the private data of ``party_id``."""
    return actor.party_id == party_id or actor.has(Role.OPERATOR, Role.REGULATOR)
