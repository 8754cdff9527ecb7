import asyncio
import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import Role
from market.parties.keys import KeyEnvironment, secret_environment
from market.parties.registration import bootstrap_operator
from market.parties.rules import current_rules
from tests.market.parties.factories import make_party
from tests.market.parties.state import events_of, unchanged

BODY: dict[str, Any] = {
    "name": "Weather Bureau 气象局",
    "kind": "public_body",
    "jurisdiction": "CN",
    "roles": ["seller"],
    "rules_version": "2026-11-01",
    "tax_number": "91110000MA0000001X",
    "contact": {"name": "Li Lei", "email": "li@bureau.example", "phone": "+861012345678"},
}


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


async def test_an_organization_registers_and_logs_in(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    made = await client.post("/v1/parties", json=BODY, headers=keyed())
    assert made.status_code == 201
    party, credential = made.json()["party"], made.json()["credential"]
    assert made.headers["Location"] == f"/v1/parties/{party['id']}"
    assert party["status"] == "pending"
    assert party["roles"] == ["seller"]
    assert party["contact"] == BODY["contact"]
    assert party["tax_number"] == "91110000MA0000001X"
    assert party["verified_at"] is None
    assert credential["client_id"] == credential["id"]
    assert credential["roles"] == ["seller"]
    assert secret_environment(credential["client_secret"]) is KeyEnvironment.SANDBOX

    token = await client.post(
        "/oauth2/token",
        data={
            "grant_type": "client_credentials",
            "client_id": credential["client_id"],
            "client_secret": credential["client_secret"],
        },
    )
    bearer = {"Authorization": f"Bearer {token.json()['access_token']}"}
    shown = await client.get(made.headers["Location"], headers=bearer)
    assert shown.json() == party

    party_id, credential_id = parse("pty", party["id"]), parse("crd", credential["id"])
    assert await events_of(kernel, party_id) == [
        (
            "party.registered",
            {
                "party_id": party["id"],
                "name": "Weather Bureau 气象局",
                "kind": "public_body",
                "jurisdiction": "CN",
                "roles": ["seller"],
                "status": "pending",
            },
        )
    ]
    assert await events_of(kernel, credential_id) == [
        (
            "credential.created",
            {
                "credential_id": credential["id"],
                "party_id": party["id"],
                "roles": ["seller"],
                "created_by": party["id"],
            },
        )
    ]


@pytest.mark.usefixtures("full_strength")
async def test_the_secret_is_stored_nowhere_in_the_clear(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    made = (await client.post("/v1/parties", json=BODY, headers=keyed())).json()
    secret = made["credential"]["client_secret"]
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        stored = await connection.fetchval(
            "SELECT secret_hash FROM parties.credential WHERE id = $1",
            parse("crd", made["credential"]["id"]),
        )
        answers = await connection.fetch("SELECT body FROM kernel.idempotent_answer")
        events = await connection.fetch("SELECT data::text FROM kernel.outbox")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    everything = [stored.encode(), *(row[0] for row in answers), *(r[0].encode() for r in events)]
    assert not [text for text in everything if secret.encode() in text]


@pytest.mark.parametrize(
    "change",
    [
        {"roles": ["operator"]},
        {"roles": ["seller", "regulator"]},
        {"roles": ["arbiter"]},
        {"roles": []},
        {"roles": ["seller", "seller"]},
        {"roles": "seller"},
        {"status": "verified"},
        {"id": "pty_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"},
        {"affiliate_group": str(uuid.uuid4())},
        {"balance": 1},
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 201},
        {"name": "nul\x00byte"},
        {"name": 7},
        {"kind": "bank"},
        {"jurisdiction": "ZZ"},
        {"jurisdiction": "cn"},
        {"tax_number": "no spaces please"},
        {"contact": {"email": "nobody"}},
        {"contact": {"phone": "110"}},
        {"contact": {"admin": True}},
        {"rules_version": "2020-01-01"},
        {"rules_version": None},
    ],
)
async def test_bad_sign_ups_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, change: dict[str, Any]
) -> None:
    async with unchanged(kernel):
        refused = await client.post("/v1/parties", json={**BODY, **change}, headers=keyed())
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    expected = (
        "rules_version_outdated"
        if change.get("rules_version") == "2020-01-01"
        else "validation_failed"
    )
    assert refused.json()["code"] == expected


@pytest.mark.parametrize("missing", ["name", "kind", "jurisdiction", "roles", "rules_version"])
async def test_required_fields(client: httpx.AsyncClient, kernel: Kernel, missing: str) -> None:
    body = {name: value for name, value in BODY.items() if name != missing}
    async with unchanged(kernel):
        refused = await client.post("/v1/parties", json=body, headers=keyed())
    assert refused.status_code == 422
    assert refused.json()["param"] == missing


async def test_a_key_is_required(client: httpx.AsyncClient, kernel: Kernel) -> None:
    async with unchanged(kernel):
        refused = await client.post("/v1/parties", json=BODY)
    assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_required")


async def test_the_same_key_repeats_the_answer_with_its_secret(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    headers = keyed()
    first = await client.post("/v1/parties", json=BODY, headers=headers)
    async with unchanged(kernel):
        again = await client.post("/v1/parties", json=BODY, headers=headers)
    assert again.status_code == 201
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    async with unchanged(kernel):
        other = await client.post("/v1/parties", json={**BODY, "name": "B"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_parallel_repeats_make_one_party(client: httpx.AsyncClient, kernel: Kernel) -> None:
    name = f"Once {uuid.uuid4().hex}"
    headers = keyed()
    answers = await asyncio.gather(
        *(
            client.post("/v1/parties", json={**BODY, "name": name}, headers=headers)
            for _ in range(12)
        )
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = [answer for answer in answers if answer.status_code == 201]
    assert made
    assert len({answer.content for answer in made}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_key_in_use"
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        parties = await connection.fetchval(
            "SELECT count(*) FROM parties.party WHERE name = $1", name
        )
        credentials = await connection.fetchval(
            "SELECT count(*) FROM parties.credential c JOIN parties.party p ON p.id = c.party_id"
            " WHERE p.name = $1",
            name,
        )
    assert (parties, credentials) == (1, 1)


async def test_a_stranger_with_the_same_key_does_not_get_the_secret(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    headers = keyed("sign-up-0001")
    first = await client.post("/v1/parties", json=BODY, headers=headers)
    transport = httpx.ASGITransport(app=app, client=("198.51.100.7", 4000))
    async with httpx.AsyncClient(transport=transport, base_url="http://market.test") as stranger:
        second = await stranger.post("/v1/parties", json=BODY, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["party"]["id"] != second.json()["party"]["id"]
    assert first.json()["credential"]["client_secret"] not in second.text


async def test_the_rules_are_public(client: httpx.AsyncClient) -> None:
    shown = await client.get("/v1/rules")
    assert shown.status_code == 200
    assert shown.json()["version"] == current_rules().version == BODY["rules_version"]
    assert [clause["number"] for clause in shown.json()["clauses"]] == list("123456")
    assert all(clause["en"] and clause["zh"] for clause in shown.json()["clauses"])


async def test_accepted_rules_are_on_record(client: httpx.AsyncClient, kernel: Kernel) -> None:
    made = (await client.post("/v1/parties", json=BODY, headers=keyed())).json()
    async with kernel.unit_of_work() as uow:
        accepted = await (await uow.raw()).fetchval(
            "SELECT rules_version FROM parties.rules_acceptance WHERE party_id = $1",
            parse("pty", made["party"]["id"]),
        )
    assert accepted == "2026-11-01"


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ARBITER, Role.REGULATOR])
async def test_an_operator_appoints_staff(
    client: httpx.AsyncClient, kernel: Kernel, role: Role
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    body = {"name": "Staff", "kind": "association", "jurisdiction": "CN", "role": role.value}
    made = await client.post("/v1/staff", json=body, headers=operator.headers())
    assert made.status_code == 201
    assert made.json()["party"]["roles"] == [role.value]
    assert made.json()["party"]["status"] == "verified"
    party_id = parse("pty", made.json()["party"]["id"])
    types = [name for name, _ in await events_of(kernel, party_id)]
    assert types == ["party.registered", "party.verified"]
    decisions = await client.get(
        f"/v1/parties/{made.json()['party']['id']}/decisions", headers=operator.headers()
    )
    assert [
        (item["kind"], item["decided_by"], item["evidence"][0]["reference"])
        for item in decisions.json()["items"]
    ] == [("verify", operator.id, f"appointed by {operator.id}")]


@pytest.mark.parametrize("role", [Role.SELLER, Role.BUYER, Role.ARBITER, Role.REGULATOR])
async def test_only_operators_appoint_staff(
    client: httpx.AsyncClient, kernel: Kernel, role: Role
) -> None:
    member = await make_party(kernel, role)
    body = {"name": "Mole", "kind": "company", "jurisdiction": "CN", "role": "operator"}
    async with unchanged(kernel):
        refused = await client.post("/v1/staff", json=body, headers=member.headers())
    assert (refused.status_code, refused.json()["code"]) == (403, "role_required")


@pytest.mark.parametrize("role", ["seller", "buyer", "root", ["operator"], None])
async def test_staff_has_one_staff_role(
    client: httpx.AsyncClient, kernel: Kernel, role: object
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    body = {"name": "Staff", "kind": "company", "jurisdiction": "CN", "role": role}
    async with unchanged(kernel):
        refused = await client.post("/v1/staff", json=body, headers=operator.headers())
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_sign_ups_of_one_address_are_limited(app: FastAPI, kernel: Kernel) -> None:
    address = f"192.0.2.{uuid.uuid4().int % 254 + 1}"
    limit = kernel.settings.signup_limit_per_hour
    for _ in range(limit):
        window = await kernel.limits.hit("sign_up", address, limit=limit, per_hour=True)
    assert window.remaining == 0
    transport = httpx.ASGITransport(app=app, client=(address, 4000))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://market.test") as crowd,
        unchanged(kernel),
    ):
        refused = await crowd.post("/v1/parties", json=BODY, headers=keyed())
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "RateLimit" in refused.headers


async def test_the_command_line_makes_the_first_operator_only(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    await make_party(kernel, Role.OPERATOR)
    async with unchanged(kernel):
        with pytest.raises(Exception, match="operator already") as refused:
            await bootstrap_operator(kernel, "Second")
    assert getattr(refused.value, "code", None) == "operator_exists"
    client_id, secret = await bootstrap_operator(kernel, "Recovered", recover=True)
    token = await client.post(
        "/oauth2/token",
        data={
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret,
        },
    )
    assert token.json()["scope"] == "operator"
