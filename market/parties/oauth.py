"""Reading an OAuth2 token request (pure): RFC 6749 §2.3.1, §3.2 and §4.4."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from market.kernel.security import Role
from market.parties.errors import (
    InvalidClient,
    InvalidScope,
    OAuthInvalidRequest,
    UnsupportedGrantType,
)

FORM_TYPE: Final = "application/x-www-form-urlencoded"
FORM_BYTES_MAX: Final = 8_192
FORM_FIELDS_MAX: Final = 20


@dataclass(frozen=True, slots=True, repr=False)
class TokenRequest:
    """What the client sent; ``repr`` is off because it holds the secret."""

    client_id: str
    client_secret: str
    scope: frozenset[str]


def read_token_request(
    content_type: str | None, authorization: str | None, body: bytes
) -> TokenRequest:
    """The client's id, secret and wished scope from form fields or HTTP Basic.

    Raises OAuthInvalidRequest, UnsupportedGrantType (400) and InvalidClient (401) when there is
    no client authentication. Unknown fields are ignored and repeated ones refused (§3.2).
    """
    fields = _form(content_type, body)
    grant_type = fields.get("grant_type")
    if grant_type is None:
        raise OAuthInvalidRequest("grant_type is missing.", param="grant_type")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType(param="grant_type")
    return _client(fields, authorization)


def read_token_question(
    content_type: str | None, authorization: str | None, body: bytes
) -> tuple[TokenRequest, str]:
    """The client, and the ``token`` that it asks about: RFC 7662 §2.1, RFC 7009 §2.1.

    Raises OAuthInvalidRequest (400), InvalidClient (401).
    """
    fields = _form(content_type, body)
    client = _client(fields, authorization)
    if "token" not in fields:
        raise OAuthInvalidRequest("token is missing.", param="token")
    return client, fields["token"]


def _client(fields: dict[str, str], authorization: str | None) -> TokenRequest:
    scope = frozenset(fields.get("scope", "").split())
    if authorization is None:
        if "client_id" not in fields or "client_secret" not in fields:
            raise InvalidClient("Send client_id and client_secret, as form fields or HTTP Basic.")
        return TokenRequest(fields["client_id"], fields["client_secret"], scope)
    client_id, secret = _basic(authorization)
    if "client_secret" in fields:
        raise OAuthInvalidRequest("Use form fields or HTTP Basic, not both.")
    if fields.get("client_id", client_id) != client_id:
        raise OAuthInvalidRequest("client_id differs from HTTP Basic.", param="client_id")
    return TokenRequest(client_id, secret, scope)


def narrow(held: frozenset[Role], scope: frozenset[str]) -> frozenset[Role]:
    """The roles of the token: all that are held, or those of ``scope``. Raises InvalidScope."""
    if not scope:
        return held
    unknown = scope - {role.value for role in held}
    if unknown:
        raise InvalidScope("The credential does not have every role of this scope.", param="scope")
    return frozenset(role for role in held if role.value in scope)


def _form(content_type: str | None, body: bytes) -> dict[str, str]:
    if (content_type or "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise OAuthInvalidRequest(f"The body must be {FORM_TYPE}.", param="Content-Type")
    if len(body) > FORM_BYTES_MAX:
        raise OAuthInvalidRequest(f"The body is longer than {FORM_BYTES_MAX} bytes.")
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=FORM_FIELDS_MAX,
        )
    except ValueError as error:
        raise OAuthInvalidRequest("The body is not a readable form.") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise OAuthInvalidRequest("A field is repeated.", param=name[:64])
        fields[name] = value
    # §3.2: a field without a value is treated as omitted.
    return {name: value for name, value in fields.items() if value}


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClient("The client authenticates by HTTP Basic or by form fields.")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        raise InvalidClient("The HTTP Basic header is not readable.") from error
    client_id, separator, secret = text.partition(":")
    if not separator:
        raise InvalidClient("The HTTP Basic header is not readable.")
    return unquote_plus(client_id), unquote_plus(secret)
