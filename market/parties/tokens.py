"""Log-in: a client's secret for a short access token."""

from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.ids import parse, show
from market.kernel.logging import get_logger
from market.kernel.security import Role
from market.parties.access import ACCESS_TOKEN_TYP
from market.parties.credentials import key_environment
from market.parties.errors import ClientSuspended, InvalidClient, WrongEnvironment
from market.parties.hashing import hasher
from market.parties.keys import MalformedSecret, secret_environment
from market.parties.models import Credential, Party, PartyStatus
from market.parties.oauth import TokenRequest, narrow
from market.parties.schemas import AccessToken
from market.parties.throttle import limit_logins

_log = get_logger(__name__)


async def log_in(kernel: Kernel, request: TokenRequest, *, address: str) -> AccessToken:
    """Check the secret and mint an access token of ``settings.access_token_ttl_s`` seconds.

    Raises InvalidScope (400), and what :func:`authenticate` raises.
    """
    credential = await authenticate(kernel, request, address=address)
    held = frozenset(Role(role) for role in credential.roles)
    return mint_access_token(
        kernel, credential.party_id, credential.id, roles=narrow(held, request.scope)
    )


async def authenticate(kernel: Kernel, request: TokenRequest, *, address: str) -> Credential:
    """The client's credential, its secret checked.

    Raises TooManyLogins (429), LoginUnavailable and HashingBusy (503), WrongEnvironment and
    ClientSuspended (401), and InvalidClient (401) with one text and one cost for an unknown
    client, a wrong secret and a revoked credential.
    """
    credential_id = _credential_id(request.client_id)
    await limit_logins(kernel, credential_id, address=address)
    try:
        environment = secret_environment(request.client_secret)
    except MalformedSecret as error:
        _refused(credential_id, "malformed_secret")
        raise InvalidClient from error
    if environment is not key_environment(kernel.settings):
        _refused(credential_id, "wrong_environment")
        raise WrongEnvironment
    credential, status = await _read(kernel, credential_id)
    stored = credential.secret_hash if credential is not None else None
    matches = await hasher.verify(stored, request.client_secret)
    if credential is None or not matches or credential.revoked_at is not None:
        _refused(credential_id, "wrong_secret")
        raise InvalidClient
    if status is PartyStatus.SUSPENDED:
        _refused(credential_id, "suspended")
        raise ClientSuspended
    return credential


def mint_access_token(
    kernel: Kernel, party_id: UUID, credential_id: UUID, *, roles: frozenset[Role]
) -> AccessToken:
    """An RFC 9068 access token; whoever calls this has authenticated the client."""
    names = sorted(role.value for role in roles)
    ttl_s = kernel.settings.access_token_ttl_s
    token = kernel.keys.sign(
        ACCESS_TOKEN_TYP,
        {
            "sub": show("pty", party_id),
            "aud": kernel.settings.audience,
            "client_id": show("crd", credential_id),
            "roles": names,
            "scope": " ".join(names),
        },
        ttl_s=ttl_s,
    )
    return AccessToken(access_token=token, expires_in=ttl_s, scope=" ".join(names))


def _credential_id(client_id: str) -> UUID | None:
    try:
        return parse("crd", client_id)
    except ValueError:
        return None


async def _read(
    kernel: Kernel, credential_id: UUID | None
) -> tuple[Credential | None, PartyStatus | None]:
    if credential_id is None:
        return None, None
    async with kernel.unit_of_work() as uow:
        credential = await uow.session.get(Credential, credential_id)
        if credential is None:
            return None, None
        party = await uow.session.get_one(Party, credential.party_id)
        return credential, party.status


def _refused(credential_id: UUID | None, reason: str) -> None:
    shown = show("crd", credential_id) if credential_id is not None else "unknown"
    _log.warning("login_refused", credential_id=shown, reason=reason)
