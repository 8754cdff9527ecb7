"""Who asks for a delivery: the token that a request carries, and the address it came from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from market.parties.errors import TokenMissing

delivery_bearer = HTTPBearer(
    scheme_name="delivery",
    bearerFormat="JWT",
    description="A delivery token from POST /v1/grants/{id}/tokens.",
    auto_error=False,
)
# For an endpoint that reads its token by :func:`token_of`.
SECURITY: dict[str, Any] = {"security": [{delivery_bearer.scheme_name: []}]}


# async: a plain function would take a turn of the thread pool at every request.
async def _token(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(delivery_bearer)],
) -> str:
    if bearer is None:
        raise TokenMissing
    return bearer.credentials


TokenDep = Annotated[str, Depends(_token)]


def token_of(http: Request) -> str:
    """The bearer token, as ``TokenDep`` finds it. Raises TokenMissing (401).

    Without dependencies: to resolve three of them cost a small page a tenth of its time.
    """
    scheme, _, token = http.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenMissing
    return token


def peer_of(http: Request) -> str | None:
    """The address at the other end of the socket."""
    return None if http.client is None else http.client.host
