"""Forged, stale and stolen access tokens."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from market.kernel.context import Kernel
from market.kernel.db import Database
from market.kernel.http import install_errors
from market.kernel.ids import new_id, show
from market.kernel.security import Role, public_jwk
from market.parties.access import OptionalActorDep
from tests.market.parties.factories import EVIDENCE, Member, make_party

AUDIENCE = "data-element-market-api"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(unb64(token.split(".")[1]))
    return claims


def header_of(token: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(unb64(token.split(".")[0]))
    return header


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"


def resigned(kernel: Kernel, token: str, *, typ: str = "at+jwt", **changes: Any) -> str:
    """Signed by the exchange itself, with other claims (None removes one)."""
    claims = {**claims_of(token), **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return kernel.keys.sign(typ, kept)


def alg_none(_kernel: Kernel, token: str) -> str:
    return unsigned({**header_of(token), "alg": "none"}, claims_of(token)) + "."


def alg_none_with_signature(_kernel: Kernel, token: str) -> str:
    header = {**header_of(token), "alg": "none"}
    return unsigned(header, claims_of(token)) + "." + token.split(".")[2]


def hs256_with_public_key(kernel: Kernel, token: str) -> str:
    public = unb64(kernel.keys.jwks()["keys"][0]["x"])
    body = unsigned({**header_of(token), "alg": "HS256"}, claims_of(token))
    return f"{body}.{b64(hmac.new(public, body.encode(), hashlib.sha256).digest())}"


def tampered_roles(_kernel: Kernel, token: str) -> str:
    _, _, signature = token.split(".")
    return f"{unsigned(header_of(token), {**claims_of(token), 'roles': ['operator']})}.{signature}"


def own_key(token: str, **header: Any) -> str:
    return jwt.encode(
        claims_of(token),
        Ed25519PrivateKey.generate(),
        algorithm="EdDSA",
        headers={**header_of(token), **header},
    )


def own_key_known_kid(_kernel: Kernel, token: str) -> str:
    return own_key(token)


def own_key_as_jwk(_kernel: Kernel, token: str) -> str:
    key = Ed25519PrivateKey.generate()
    jwk = public_jwk(key.public_key())
    headers = {"typ": "at+jwt", "kid": jwk["kid"], "jwk": jwk}
    return jwt.encode(claims_of(token), key, algorithm="EdDSA", headers=headers)


def own_key_as_jku(_kernel: Kernel, token: str) -> str:
    return own_key(token, jku="http://127.0.0.1:9/jwks.json")


FORGERIES: list[Callable[[Kernel, str], str]] = [
    alg_none,
    alg_none_with_signature,
    hs256_with_public_key,
    tampered_roles,
    own_key_known_kid,
    own_key_as_jwk,
    own_key_as_jku,
    lambda _kernel, token: own_key(token, kid="unknown"),
    lambda _kernel, token: own_key(token, kid="../../etc/passwd"),
    lambda _kernel, token: own_key(token, kid="' OR 1=1 --"),
    lambda _kernel, token: token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
    lambda _kernel, token: token + ".x",
    lambda _kernel, token: token.rsplit(".", 1)[0] + ".",
    lambda _kernel, _token: "not-a-token",
    lambda _kernel, _token: "a.b.c",
    lambda _kernel, _token: "x" * 9_000,
    lambda kernel, token: resigned(kernel, token, typ="JWT"),
    lambda kernel, token: resigned(kernel, token, typ="delivery+jwt"),
    lambda kernel, token: resigned(kernel, token, typ="AT+JWT"),
    lambda kernel, token: resigned(kernel, token, exp=None),
    lambda kernel, token: resigned(kernel, token, aud=None),
    lambda kernel, token: resigned(kernel, token, sub=None),
    lambda kernel, token: resigned(kernel, token, jti=None),
    lambda kernel, token: resigned(kernel, token, client_id=None),
    lambda kernel, token: resigned(kernel, token, roles=None),
    lambda kernel, token: resigned(kernel, token, roles=["root"]),
    lambda kernel, token: resigned(kernel, token, roles=5),
    lambda kernel, token: resigned(kernel, token, aud="another-api"),
    lambda kernel, token: resigned(kernel, token, aud=[AUDIENCE, "another-api"]),
    lambda kernel, token: resigned(kernel, token, iss="another-exchange"),
    lambda kernel, token: resigned(kernel, token, exp=int(time.time()) - 1),
    lambda kernel, token: resigned(kernel, token, exp="9999999999"),
    lambda kernel, token: resigned(kernel, token, iat=int(time.time()) + 3_600),
    lambda kernel, token: resigned(kernel, token, sub="root"),
    lambda kernel, token: resigned(kernel, token, sub=str(uuid.uuid4())),
]


async def ask(client: httpx.AsyncClient, member: Member, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return await client.get(f"/v1/parties/{member.id}", headers=headers)


@pytest.mark.parametrize("forge", FORGERIES)
async def test_forged_tokens_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, forge: Callable[[Kernel, str], str]
) -> None:
    member = await make_party(kernel, Role.BUYER)
    assert (await ask(client, member, member.token)).status_code == 200
    refused = await ask(client, member, forge(kernel, member.token))
    assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Token abc"},
    ],
)
async def test_without_a_token(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    refused = await client.get(f"/v1/parties/{show('pty', new_id())}", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="market"'


async def test_a_token_in_the_address_is_not_read(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.BUYER)
    refused = await client.get(f"/v1/parties/{member.id}?access_token={member.token}")
    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")


async def test_a_token_for_a_credential_of_another_party_is_refused(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    a, b = await make_party(kernel, Role.BUYER), await make_party(kernel, Role.BUYER)
    refused = await ask(client, b, resigned(kernel, a.token, sub=b.id))
    assert (refused.status_code, refused.json()["code"]) == (401, "credential_revoked")


async def test_roles_that_the_credential_lacks_do_not_count(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    refused = await ask(client, buyer, resigned(kernel, buyer.token, roles=["operator"]))
    assert (refused.status_code, refused.json()["code"]) == (401, "credential_revoked")
    mixed = resigned(kernel, buyer.token, roles=["buyer", "operator"])
    listed = await client.get("/v1/parties", headers={"Authorization": f"Bearer {mixed}"})
    assert (listed.status_code, listed.json()["code"]) == (403, "role_required")


async def test_suspension_holds_for_tokens_in_use_and_can_be_lifted(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    operator = await make_party(kernel, Role.OPERATOR)
    assert (await ask(client, buyer, buyer.token)).status_code == 200
    suspended = await client.post(
        f"/v1/parties/{buyer.id}/suspend",
        json={"reason": "wash trades"},
        headers=operator.headers(),
    )
    assert suspended.status_code == 200
    refused = await ask(client, buyer, buyer.token)
    assert (refused.status_code, refused.json()["code"]) == (403, "party_suspended")
    login = await client.post(
        "/oauth2/token",
        data={
            "grant_type": "client_credentials",
            "client_id": buyer.client_id,
            "client_secret": buyer.client_secret,
        },
    )
    assert login.status_code == 401
    assert (login.json()["code"], login.json()["error"]) == ("party_suspended", "invalid_client")
    # Its past stays readable to staff.
    shown = await client.get(f"/v1/parties/{buyer.id}", headers=operator.headers())
    assert shown.json()["status"] == "suspended"

    lifted = await client.post(
        f"/v1/parties/{buyer.id}/verify",
        json={"evidence": [EVIDENCE.model_dump(mode="json")]},
        headers=operator.headers(),
    )
    assert lifted.json()["suspended_at"] is None
    assert (await ask(client, buyer, buyer.token)).status_code == 200


async def test_without_the_database_nobody_passes(
    app: FastAPI, client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.BUYER)
    # Port 9 (discard): nothing listens there.
    away = Database.open(
        "postgresql://nobody@127.0.0.1:9/none",
        kernel.clock,
        pool_size=2,
        pool_timeout_s=5,
        lock_ms=100,
        statement_ms=1_000,
    )
    app.state.kernel = replace(kernel, db=away)
    try:
        refused = await ask(client, member, member.token)
    finally:
        app.state.kernel = kernel
        await away.close()
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert refused.headers["Retry-After"] == "2"


async def test_public_routes_may_know_who_asks_but_never_ignore_a_bad_token(
    kernel: Kernel,
) -> None:
    public = FastAPI()
    public.state.kernel = kernel
    install_errors(public)

    @public.get("/who")
    async def who(actor: OptionalActorDep) -> str:
        return show("pty", actor.party_id) if actor else "anybody"

    member = await make_party(kernel, Role.BUYER)
    transport = httpx.ASGITransport(app=public)
    async with httpx.AsyncClient(transport=transport, base_url="http://market.test") as visitor:
        bearer = {"Authorization": f"Bearer {member.token}"}
        assert (await visitor.get("/who")).json() == "anybody"
        assert (await visitor.get("/who", headers=bearer)).json() == member.id
        for bad in ("Bearer x.y.z", "Bearer", "Bearer ", "Basic YTpi", ""):
            refused = await visitor.get("/who", headers={"Authorization": bad})
            assert refused.status_code == 401


async def test_keys_of_two_parties_never_meet(client: httpx.AsyncClient, kernel: Kernel) -> None:
    a, b = await make_party(kernel, Role.BUYER), await make_party(kernel, Role.BUYER)
    key = uuid.uuid4().hex
    body = {"label": "job"}
    first = await client.post("/v1/credentials", json=body, headers=a.headers(key))
    second = await client.post("/v1/credentials", json=body, headers=b.headers(key))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["party_id"] == a.id
    assert second.json()["party_id"] == b.id


async def test_the_openapi_document_declares_how_to_log_in(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["oauth2"]["flows"]["clientCredentials"]["tokenUrl"] == "/oauth2/token"
    for path, method in (("/v1/parties", "get"), ("/v1/staff", "post"), ("/v1/credentials", "get")):
        assert document["paths"][path][method]["security"] == [{"bearer": []}, {"oauth2": []}]
    for path, method in (("/v1/parties", "post"), ("/oauth2/token", "post"), ("/v1/rules", "get")):
        assert "security" not in document["paths"][path][method]
