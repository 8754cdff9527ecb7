"""Signed tokens and documents: one algorithm, fixed keys, typed; forgeries are refused."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from market.kernel.clock import Clock
from market.kernel.ids import new_id
from market.kernel.security import (
    Actor,
    InvalidToken,
    Keyring,
    Role,
    RoleRequired,
    canonical_json,
    verify_with_jwks,
)

CLOCK = Clock()


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=True)


def access(ring: Keyring, **claims: object) -> str:
    return ring.sign("at+jwt", {"sub": "p", "aud": "api", **claims}, ttl_s=60)


def test_round_trip(ring: Keyring) -> None:
    claims = ring.verify("at+jwt", access(ring), audience="api")
    assert (claims["sub"], claims["iss"], claims["exp"] - claims["iat"]) == ("p", "iss", 60)
    assert len(claims["jti"]) == 32


def test_key_file_is_private_and_kept(tmp_path: Path) -> None:
    first = Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=True)
    again = Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=True)
    assert first.jwks() == again.jwks()
    assert (tmp_path / "0001.pem").stat().st_mode & 0o777 == 0o600


def test_rotation_signs_with_the_last_and_verifies_all(tmp_path: Path, ring: Keyring) -> None:
    old = access(ring)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "0002.pem").write_bytes(pem)
    both = Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=False)
    assert both.verify("at+jwt", old, audience="api")["sub"] == "p"
    new = access(both)
    assert jwt.get_unverified_header(new)["kid"] == both.jwks()["keys"][1]["kid"]
    with pytest.raises(InvalidToken):
        ring.verify("at+jwt", new, audience="api")


def test_empty_or_foreign_key_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=False)
    pem = generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "rsa.pem").write_bytes(pem)
    with pytest.raises(ValueError, match=r"rsa\.pem"):
        Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=False)


def forge(header: dict[str, object], claims: dict[str, object], key: bytes = b"") -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    signed = f"{part(header)}.{part(claims)}"
    mac = hmac.new(key, signed.encode(), hashlib.sha256).digest() if key else b""
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_forgeries(ring: Keyring, tmp_path: Path) -> None:
    good = access(ring)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    public = base64.urlsafe_b64decode(ring.jwks()["keys"][0]["x"] + "=")
    stranger = Keyring.load(tmp_path / "other", issuer="iss", clock=CLOCK, create=True)
    forged = [
        forge({**header, "alg": "none"}, claims),
        forge({**header, "alg": "HS256"}, claims, public),
        forge({**header, "kid": "../../etc/passwd"}, claims, public),
        access(stranger),
        good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
        good.replace(".", "..", 1),
        "",
        "a.b",
        "x" * 9_000,
    ]
    for token in forged:
        with pytest.raises(InvalidToken) as raised:
            ring.verify("at+jwt", token, audience="api")
        assert raised.value.headers["WWW-Authenticate"].startswith("Bearer")


def test_key_bearing_headers_are_refused(tmp_path: Path) -> None:
    ring = Keyring.load(tmp_path, issuer="iss", clock=CLOCK, create=True)
    key = serialization.load_pem_private_key((tmp_path / "0001.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    kid = ring.jwks()["keys"][0]["kid"]
    now = CLOCK.timestamp_s()
    claims = {"iss": "iss", "sub": "p", "aud": "api", "iat": now, "exp": now + 9, "jti": "j"}
    for name in ("jku", "jwk", "x5u"):
        headers = {"typ": "at+jwt", "kid": kid, name: "https://evil.test/keys"}
        token = jwt.encode(claims, key, algorithm="EdDSA", headers=headers)
        with pytest.raises(InvalidToken, match="key or a critical"):
            ring.verify("at+jwt", token, audience="api")
    for missing in ("exp", "iat", "jti", "sub", "aud"):
        less = {name: value for name, value in claims.items() if name != missing}
        token = jwt.encode(less, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": kid})
        with pytest.raises(InvalidToken, match=f"lacks {missing}"):
            ring.verify("at+jwt", token, audience="api")
    for change, words in (
        ({"exp": now}, "expired"),
        ({"iat": now + 60}, "future"),
        ({"exp": 1.5}, "whole seconds"),
        ({"iss": "other"}, "issuer"),
        ({"aud": "other"}, "audience"),
    ):
        token = jwt.encode(
            {**claims, **change}, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": kid}
        )
        with pytest.raises(InvalidToken, match=words):
            ring.verify("at+jwt", token, audience="api")


def test_wrong_type_is_refused(ring: Keyring) -> None:
    delivery = ring.sign("delivery+jwt", {"sub": "p", "aud": "api"}, ttl_s=60)
    with pytest.raises(InvalidToken, match="another type"):
        ring.verify("at+jwt", delivery, audience="api")


def test_documents_verify_offline(ring: Keyring) -> None:
    document = ring.sign("certificate+jws", {"certificate": "crt_1"})
    assert verify_with_jwks("certificate+jws", document, ring.jwks())["certificate"] == "crt_1"
    with pytest.raises(InvalidToken):
        verify_with_jwks("certificate+jws", document, {"keys": []})
    with pytest.raises(InvalidToken):
        verify_with_jwks("ruling+jws", document, ring.jwks())


def test_actor_roles() -> None:
    actor = Actor(new_id(), new_id(), frozenset({Role.BUYER}), "t")
    actor.require(Role.BUYER, Role.SELLER)
    with pytest.raises(RoleRequired, match="operator or arbiter"):
        actor.require(Role.OPERATOR, Role.ARBITER)


def test_canonical_json() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == b'{"a":[1,2],"b":1}'
