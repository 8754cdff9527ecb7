"""Signing keys (Ed25519), typed tokens, roles and the actor of a request.

Every token and signed document is a compact JWS with ``alg`` EdDSA, a ``typ`` of its own and a
``kid`` from a fixed map. Nothing in a header is ever fetched or trusted (operations.md §2,
rows 9 to 13).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from market.kernel.clock import Clock
from market.kernel.errors import Forbidden, Unauthorized
from market.kernel.ids import new_id

ALGORITHM = "EdDSA"
# Longer than any token we mint; decoding work is bounded before a signature is checked.
TOKEN_MAX_CHARS = 8_192
_FORBIDDEN_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})


class InvalidToken(Unauthorized):
    code = "token_invalid"
    title = "The token is not valid"
    default_hint = "Request a new token from /oauth2/token."

    def __init__(self, detail: str = "", **kwargs: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


class RoleRequired(Forbidden):
    code = "role_required"
    title = "Your organization lacks the role for this"


class Role(StrEnum):
    """What an organization may do. Regulators read only."""

    SELLER = "seller"
    BUYER = "buyer"
    OPERATOR = "operator"
    ARBITER = "arbiter"
    REGULATOR = "regulator"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request: an organization, through one of its credentials."""

    party_id: UUID
    credential_id: UUID
    roles: frozenset[Role]
    token_id: str

    def has(self, *roles: Role) -> bool:
        """Whether the actor has at least one of ``roles``."""
        return any(role in self.roles for role in roles)

    def require(self, *roles: Role) -> None:
        """Raises RoleRequired (403) unless the actor has at least one of ``roles``."""
        if not self.has(*roles):
            wanted = " or ".join(roles)
            raise RoleRequired(f"This needs the role {wanted}.")


def sha256_hex(data: bytes) -> str:
    """Lowercase hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8: the bytes that digests and chains are taken over."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def public_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """RFC 8037 JWK; ``kid`` is the RFC 7638 thumbprint."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    members = {"crv": "Ed25519", "kty": "OKP", "x": _b64(raw)}
    thumbprint = _b64(hashlib.sha256(canonical_json(members)).digest())
    return {**members, "kid": thumbprint, "use": "sig", "alg": ALGORITHM}


class Keyring:
    """The private keys of this exchange. The last one signs, all of them verify (rotation)."""

    def __init__(self, keys: Sequence[Ed25519PrivateKey], *, issuer: str, clock: Clock) -> None:
        if not keys:
            raise ValueError("the keyring needs at least one Ed25519 key")
        self.issuer = issuer
        self._clock = clock
        self._jwks = [public_jwk(key.public_key()) for key in keys]
        self._public = {
            jwk["kid"]: key.public_key() for jwk, key in zip(self._jwks, keys, strict=True)
        }
        self._signer = keys[-1]
        self._kid = self._jwks[-1]["kid"]
        self._headers: dict[str, str] = {}

    @classmethod
    def load(cls, folder: Path, *, issuer: str, clock: Clock, create: bool) -> Keyring:
        """Read ``*.pem`` in name order; with ``create``, make a first key in an empty folder.

        Raises ValueError when there is no key, or a file holds something else.
        """
        if create and not any(folder.glob("*.pem")):
            _create_key(folder / "0001.pem")
        keys: list[Ed25519PrivateKey] = []
        for path in sorted(folder.glob("*.pem")):
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError(f"{path.name} is not an Ed25519 private key")
            keys.append(key)
        return cls(keys, issuer=issuer, clock=clock)

    def jwks(self) -> dict[str, Any]:
        """The public keys, as served at ``/.well-known/jwks.json``."""
        return {"keys": self._jwks}

    def sign(self, typ: str, payload: Mapping[str, object], *, ttl_s: int | None = None) -> str:
        """A compact JWS. Adds ``iss`` and ``iat``, and with ``ttl_s`` also ``exp`` and ``jti``.

        ``payload`` may hold ready JSON as ``orjson.Fragment``.
        """
        issued_at = self._clock.timestamp_s()
        claims: dict[str, object] = {"iss": self.issuer, "iat": issued_at, **payload}
        if ttl_s is not None:
            claims["exp"] = issued_at + ttl_s
            claims.setdefault("jti", new_id().hex)
        # By hand: PyJWT's general way took three times as long as the signature, and every
        # trade waits for one.
        header = self._headers.get(typ)
        if header is None:
            members = {"alg": ALGORITHM, "kid": self._kid, "typ": typ}
            header = self._headers[typ] = _b64(canonical_json(members))
        signed = f"{header}.{_b64(orjson.dumps(claims))}"
        return f"{signed}.{_b64(self._signer.sign(signed.encode()))}"

    def verify(self, typ: str, token: str, *, audience: str | None = None) -> dict[str, Any]:
        """The claims of one of our own signed documents or, with ``audience``, access tokens.

        With ``audience``, ``exp``, ``iat``, ``jti``, ``sub`` and ``aud`` are required and checked
        against the injected clock. Raises InvalidToken.
        """
        claims = _decode(typ, token, self._public)
        if claims.get("iss") != self.issuer:
            raise InvalidToken("The token has another issuer.")
        if audience is not None:
            _check_times(claims, audience, self._clock.timestamp_s())
        return claims


def verify_with_jwks(typ: str, token: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Offline check of a signed document against a published JWKS. Raises InvalidToken."""
    keys: dict[str, Ed25519PublicKey] = {}
    for jwk in list(jwks.get("keys", []))[:64]:
        if (jwk.get("kty"), jwk.get("crv")) == ("OKP", "Ed25519") and isinstance(jwk.get("x"), str):
            raw = base64.urlsafe_b64decode(jwk["x"] + "=" * (-len(jwk["x"]) % 4))
            key = Ed25519PublicKey.from_public_bytes(raw)
            keys[public_jwk(key)["kid"]] = key
    return _decode(typ, token, keys)


def _decode(typ: str, token: str, keys: Mapping[str, Ed25519PublicKey]) -> dict[str, Any]:
    if len(token) > TOKEN_MAX_CHARS and typ.startswith(("at", "delivery")):
        raise InvalidToken("The token is too long.")
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") != ALGORITHM or header.get("typ") != typ:
            raise InvalidToken("The token has another type.")
        if _FORBIDDEN_HEADERS & header.keys():
            raise InvalidToken("The token carries a key or a critical header of its own.")
        key = keys.get(str(header.get("kid")))
        if key is None:
            raise InvalidToken("The token was signed by an unknown key.")
        options: Any = {
            "verify_aud": False,
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        }
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=[ALGORITHM], options=options)
    except jwt.PyJWTError as error:
        raise InvalidToken("The token could not be verified.") from error
    return claims


def _check_times(claims: Mapping[str, Any], audience: str, now_s: int) -> None:
    # PyJWT reads the system clock; the sandbox clock can be moved, so the times are checked here.
    missing = [name for name in ("exp", "iat", "jti", "sub", "aud") if name not in claims]
    if missing:
        raise InvalidToken(f"The token lacks {', '.join(missing)}.")
    if not isinstance(claims["exp"], int) or not isinstance(claims["iat"], int):
        raise InvalidToken("The token's times are not whole seconds.")
    if claims["aud"] != audience:
        raise InvalidToken("The token is for another audience.")
    if claims["exp"] <= now_s:
        raise InvalidToken("The token has expired.")
    # Two processes may read the clock a moment apart; more than that is a forgery or a broken host.
    if claims["iat"] > now_s + 5:
        raise InvalidToken("The token comes from the future.")


def _create_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Written aside and linked: two processes at first start agree on one key.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
