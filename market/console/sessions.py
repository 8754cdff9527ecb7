"""Console sessions: a signed cookie that names a credential, and CSRF tokens bound to it.

A session is asked about at every request, as an access token is: revoking the credential or
suspending the party ends it at once. It is no access token (its ``typ`` and audience differ), so
a stolen cookie opens no API. Signing out puts the session's id on a list in the cache; if the
cache loses the list, a copied cookie would live again, for SESSION_TTL_S at most.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import Request, Response
from redis.exceptions import RedisError

from market.console.errors import CsrfRefused, SignInNeeded
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.logging import get_logger
from market.kernel.security import Actor, InvalidToken, sha256_hex
from market.kernel.settings import Settings
from market.parties.access import actor_of
from market.parties.errors import CredentialRevoked, PartySuspended

SESSION_TYP: Final = "console+jwt"
# A working day: long enough to write a ruling, bounded whatever the browser does.
SESSION_TTL_S: Final = 8 * 3_600
# From opening the sign-in page to sending it.
SEED_TTL_S: Final = 3_600
CSRF_FIELD: Final = "csrf_token"

# A visitor without a session: no roles, owner of nothing.
VISITOR: Final = Actor(
    party_id=UUID(int=0), credential_id=UUID(int=0), roles=frozenset(), token_id=""
)

_log = get_logger("market.console")


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, and the token that this session's forms must carry."""

    actor: Actor
    name: str
    csrf: str


def secure(settings: Settings) -> bool:
    """Whether browsers reach us by https only."""
    return (settings.public_url or "").startswith("https://")


def _name(settings: Settings, name: str) -> str:
    # With the prefix, browsers refuse it from a subdomain or over http (RFC 6265bis §4.1.3).
    return f"__Host-{name}" if secure(settings) else name


def session_cookie(settings: Settings) -> str:
    """The name of the session cookie."""
    return _name(settings, "market_session")


def seed_cookie(settings: Settings) -> str:
    """The name of the cookie that binds the sign-in form to its browser."""
    return _name(settings, "market_sign_in")


def audience(settings: Settings) -> str:
    """The ``aud`` of sessions: not that of the API."""
    return f"{settings.audience}:console"


def csrf_of(secret: str) -> str:
    """The CSRF token of a cookie's value; nobody without the cookie can compute it."""
    return sha256_hex(b"console-csrf\x00" + secret.encode())


def start(kernel: Kernel, response: Response, actor: Actor, *, name: str) -> None:
    """Sign the actor in: sets the session cookie, drops the sign-in one.

    ``name`` is what pages call the organization until the session ends.
    """
    settings = kernel.settings
    token = kernel.keys.sign(
        SESSION_TYP,
        {
            "sub": show("pty", actor.party_id),
            "aud": audience(settings),
            "client_id": show("crd", actor.credential_id),
            "roles": sorted(role.value for role in actor.roles),
            "name": name,
        },
        ttl_s=SESSION_TTL_S,
    )
    set_cookie(settings, response, session_cookie(settings), token, max_age_s=SESSION_TTL_S)
    drop_cookie(settings, response, seed_cookie(settings))


async def find(kernel: Kernel, request: Request) -> Session | None:
    """The session of a request; None without a cookie.

    Raises SignInNeeded for one that has ended, DatabaseUnavailable (503).
    """
    token = request.cookies.get(session_cookie(kernel.settings))
    if not token:
        return None
    try:
        claims = kernel.keys.verify(SESSION_TYP, token, audience=audience(kernel.settings))
        if await _signed_out(kernel, claims):
            raise SignInNeeded(ended=True)
        actor = await actor_of(kernel, claims)
    except (InvalidToken, CredentialRevoked, PartySuspended) as error:
        raise SignInNeeded(ended=True) from error
    return Session(actor, str(claims["name"]), csrf_of(token))


async def end(kernel: Kernel, request: Request, response: Response) -> None:
    """Sign out: drops the cookie and refuses copies of it from now on."""
    token = request.cookies.get(session_cookie(kernel.settings), "")
    drop_cookie(kernel.settings, response, session_cookie(kernel.settings))
    try:
        claims = kernel.keys.verify(SESSION_TYP, token, audience=audience(kernel.settings))
        await kernel.redis.set(_ended_key(claims), b"1", ex=SESSION_TTL_S)
    except InvalidToken:
        return
    except (RedisError, OSError) as error:
        _log.warning("sign_out_not_listed", error=str(error))


async def _signed_out(kernel: Kernel, claims: dict[str, Any]) -> bool:
    try:
        return bool(await kernel.redis.exists(_ended_key(claims)))
    except (RedisError, OSError) as error:
        _log.warning("sign_out_list_away", error=str(error))
        return False


def _ended_key(claims: dict[str, Any]) -> str:
    return f"console:ended:{claims['jti']}"


def check_csrf(cookie: str | None, given: object) -> None:
    """Raises CsrfRefused (403) unless ``given`` is the token of the cookie's value."""
    expected = csrf_of(cookie or secrets.token_hex())
    if not isinstance(given, str) or not hmac.compare_digest(expected.encode(), given.encode()):
        raise CsrfRefused


def set_cookie(
    settings: Settings, response: Response, name: str, value: str, *, max_age_s: int
) -> None:
    """A cookie that no script reads and no other site sends."""
    response.set_cookie(
        name,
        value,
        max_age=max_age_s,
        path="/",
        secure=secure(settings),
        httponly=True,
        samesite="strict",
    )


def drop_cookie(settings: Settings, response: Response, name: str) -> None:
    """Make the browser forget a cookie of ours."""
    response.delete_cookie(
        name, path="/", secure=secure(settings), httponly=True, samesite="strict"
    )
