"""Refusals of market.parties. ``code`` is stable API."""

from collections.abc import Mapping
from typing import Any, ClassVar

from market.kernel.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooMany,
    Unauthorized,
    Unavailable,
)

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="market"'}
_REVOKED_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="market", error="invalid_token"'}


class PartyNotFound(NotFound):
    code = "party_not_found"
    title = "No such party"


class CredentialNotFound(NotFound):
    code = "credential_not_found"
    title = "No such credential"


class TokenMissing(Unauthorized):
    """No bearer token in the Authorization header."""

    code = "token_missing"
    title = "An access token is required"
    default_hint = "Get one from POST /oauth2/token and send it as Authorization: Bearer."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers=_CHALLENGE)


class CredentialRevoked(Unauthorized):
    """The credential behind a token is gone, or its party no longer has the token's roles."""

    code = "credential_revoked"
    title = "The credential of this token is no longer valid"
    default_hint = "Log in again with a live credential."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers=_REVOKED_CHALLENGE)


class PartySuspended(Forbidden):
    code = "party_suspended"
    title = "This organization is suspended"
    default_hint = "Contact the operator of the exchange."


class TradingBlocked(Forbidden):
    """The operators' kill switch (`market.parties.trading`)."""

    code = "trading_blocked"
    title = "An operator has stopped this organization's trading"
    default_hint = "Contact the operator of the exchange."


class PartyNotVerified(Forbidden):
    code = "party_not_verified"
    title = "This organization is not verified yet"
    default_hint = "An operator has to verify your identity before you can trade."


class IdentityLocked(Conflict):
    """A verified organization cannot rename itself: the verification was of the old name."""

    code = "identity_locked"
    title = "Verified identity data can only be changed by an operator"


class IdentityTaken(Conflict):
    """The tax number belongs to another verified or suspended party."""

    code = "identity_taken"
    title = "Another organization was verified under this tax number"
    default_hint = "One organization has one party; give it a further credential instead."


class AlreadyVerified(Conflict):
    code = "party_already_verified"
    title = "This organization is verified already"


class AlreadySuspended(Conflict):
    code = "party_already_suspended"
    title = "This organization is suspended already"


class SelfReview(Conflict):
    """Nobody decides about their own organization."""

    code = "self_review"
    title = "An operator cannot decide about its own organization"


class OperatorExists(Conflict):
    code = "operator_exists"
    title = "The exchange has an operator already"
    default_hint = "Let that operator create others by POST /v1/staff."


class RulesOutdated(Invalid):
    code = "rules_version_outdated"
    title = "Accept the current version of the rules"
    default_hint = "Read GET /v1/rules and send its version."


class RolesNotHeld(Forbidden):
    """A narrow credential must not make a broad one."""

    code = "roles_not_held"
    title = "You cannot hand on roles that you do not have"


class TooManyCredentials(Conflict):
    code = "too_many_credentials"
    title = "Too many live credentials"
    default_hint = "Revoke one before you create another."


class LastCredential(Conflict):
    """Revoking it would lock the organization out of its own account."""

    code = "last_credential"
    title = "The last live credential cannot be revoked"
    default_hint = "Create its successor first, then revoke this one with the new token."


class HashingBusy(Unavailable):
    """The bounded queue of password hashes is full."""

    code = "login_busy"
    title = "Too many log-ins at this moment"


class OAuthInvalidRequest(BadRequest):
    """RFC 6749 §5.2 ``invalid_request``."""

    code = "invalid_request"
    title = "The token request is malformed"
    oauth_error: ClassVar[str] = "invalid_request"

    def __init__(self, detail: str = "", **kwargs: Any) -> None:
        super().__init__(
            detail, error=self.oauth_error, error_description=detail or self.title, **kwargs
        )


class UnsupportedGrantType(OAuthInvalidRequest):
    code = "unsupported_grant_type"
    title = "Only the client_credentials grant is supported"
    oauth_error = "unsupported_grant_type"


class InvalidScope(OAuthInvalidRequest):
    code = "invalid_scope"
    title = "The credential does not have this scope"
    oauth_error = "invalid_scope"


class InvalidClient(Unauthorized):
    """One text for an unknown client, a wrong secret and a revoked credential alike."""

    code = "invalid_client"
    title = "Client authentication failed"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            detail,
            headers={"WWW-Authenticate": 'Basic realm="market", charset="UTF-8"'},
            error="invalid_client",
            error_description=detail or self.title,
        )


class WrongEnvironment(InvalidClient):
    """Told from the secret's own prefix, so it reveals nothing the caller does not know."""

    code = "wrong_environment"
    title = "This secret belongs to another environment"
    default_hint = "Use a sandbox key in the sandbox and a live key in production."


class ClientSuspended(InvalidClient):
    """Said only to those who proved that they hold the secret."""

    code = "party_suspended"
    title = "This organization is suspended"
    default_hint = "Contact the operator of the exchange."


class TooManyLogins(TooMany):
    code = "too_many_logins"
    title = "Too many failed log-ins"
    default_hint = "Wait for Retry-After seconds."

    def __init__(self, detail: str = "", *, headers: Mapping[str, str]) -> None:
        super().__init__(
            detail,
            headers=headers,
            error="temporarily_unavailable",
            error_description=detail or self.title,
        )


class LoginUnavailable(Unavailable):
    """Failed log-ins cannot be counted, so nobody may guess: closed (operations.md fault 13)."""

    code = "login_unavailable"
    title = "Log-ins are closed for a moment"
    default_hint = "Repeat after Retry-After seconds; access tokens in use stay valid."

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            detail,
            retry_after_s=5,
            error="temporarily_unavailable",
            error_description=detail or self.title,
        )
