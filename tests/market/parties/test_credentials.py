import asyncio
import uuid

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse, show
from market.kernel.security import Role
from market.parties.credentials import LIVE_CREDENTIALS_MAX
from tests.market.parties.factories import Member, make_party
from tests.market.parties.state import events_of, unchanged


async def log_in(client: httpx.AsyncClient, credential: dict[str, str]) -> httpx.Response:
    return await client.post(
        "/oauth2/token",
        data={
            "grant_type": "client_credentials",
            "client_id": credential["client_id"],
            "client_secret": credential["client_secret"],
        },
    )


async def create(client: httpx.AsyncClient, member: Member, label: str = "job") -> dict[str, str]:
    made = await client.post("/v1/credentials", json={"label": label}, headers=member.headers())
    assert made.status_code == 201
    credential: dict[str, str] = made.json()
    return credential


async def test_rotation_old_and_new_live_together_then_the_old_ends(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER)
    fresh = await create(client, member)
    token = (await log_in(client, fresh)).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/v1/credentials", headers=member.headers())).status_code == 200

    ended = await client.delete(f"/v1/credentials/{member.client_id}", headers=bearer)
    assert (ended.status_code, ended.content) == (204, b"")
    # The old token is refused at once, the new one goes on.
    refused = await client.get("/v1/credentials", headers=member.headers())
    assert (refused.status_code, refused.json()["code"]) == (401, "credential_revoked")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="market", error="invalid_token"'
    assert (await client.get("/v1/credentials", headers=bearer)).status_code == 200
    old = await log_in(
        client, {"client_id": member.client_id, "client_secret": member.client_secret}
    )
    assert (old.status_code, old.json()["code"]) == (401, "invalid_client")
    assert await events_of(kernel, parse("crd", member.client_id)) == [
        (
            "credential.created",
            {
                "credential_id": member.client_id,
                "party_id": member.id,
                "roles": ["seller"],
                "created_by": member.id,
            },
        ),
        ("credential.revoked", {"credential_id": member.client_id, "party_id": member.id}),
    ]
    # Repeating it changes nothing, not even the time.
    async with unchanged(kernel):
        again = await client.delete(f"/v1/credentials/{member.client_id}", headers=bearer)
    assert again.status_code == 204


async def test_lists_never_show_secrets(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    made = [await create(client, member, f"job {n}") for n in range(4)]
    await client.delete(f"/v1/credentials/{made[0]['id']}", headers=member.headers())
    everything = await client.get("/v1/credentials", headers=member.headers())
    assert [item["label"] for item in everything.json()["items"]] == [
        "first",
        "job 0",
        "job 1",
        "job 2",
        "job 3",
    ]
    assert set(everything.json()["items"][0]) == {
        "id",
        "party_id",
        "label",
        "roles",
        "created_at",
        "revoked_at",
    }
    assert "mkt_" not in everything.text
    assert "argon2" not in everything.text
    live = await client.get("/v1/credentials?live=true", headers=member.headers())
    assert [item["label"] for item in live.json()["items"]] == ["first", "job 1", "job 2", "job 3"]
    dead = await client.get("/v1/credentials?live=false", headers=member.headers())
    assert [item["id"] for item in dead.json()["items"]] == [made[0]["id"]]


async def test_pages(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    for n in range(4):
        await create(client, member, f"job {n}")
    found: list[str] = []
    after = ""
    for _ in range(3):
        page = (
            await client.get(f"/v1/credentials?limit=2{after}", headers=member.headers())
        ).json()
        found += [item["label"] for item in page["items"]]
        after = f"&after={page['next_after']}"
    assert found == ["first", "job 0", "job 1", "job 2", "job 3"]
    assert page["has_more"] is False
    for cursor in ("x", "WyJub3QgYSB1dWlkIl0", ""):
        bad = await client.get(f"/v1/credentials?after={cursor}", headers=member.headers())
        assert bad.status_code == 422
        assert bad.json()["code"] in ("cursor_invalid", "validation_failed")


async def test_foreign_credentials_are_unknown(client: httpx.AsyncClient, kernel: Kernel) -> None:
    mine, theirs = await make_party(kernel, Role.BUYER), await make_party(kernel, Role.BUYER)
    operator = await make_party(kernel, Role.OPERATOR)
    async with unchanged(kernel):
        for actor in (mine, operator):
            answers = [
                await client.delete(f"/v1/credentials/{id_}", headers=actor.headers())
                for id_ in (theirs.client_id, show("crd", new_id()))
            ]
            bodies = [{**a.json(), "request_id": ""} for a in answers]
            assert [a.status_code for a in answers] == [404, 404]
            assert bodies[0] == bodies[1]
            assert bodies[0]["code"] == "credential_not_found"
    listed = await client.get("/v1/credentials", headers=operator.headers())
    assert [item["party_id"] for item in listed.json()["items"]] == [operator.id]


async def test_the_last_one_stays_also_when_both_are_revoked_at_once(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER)
    async with unchanged(kernel):
        refused = await client.delete(
            f"/v1/credentials/{member.client_id}", headers=member.headers()
        )
    assert (refused.status_code, refused.json()["code"]) == (409, "last_credential")
    fresh = await create(client, member)
    bearer = {"Authorization": f"Bearer {(await log_in(client, fresh)).json()['access_token']}"}
    answers = await asyncio.gather(
        client.delete(f"/v1/credentials/{member.client_id}", headers=bearer),
        client.delete(f"/v1/credentials/{fresh['id']}", headers=member.headers()),
    )
    statuses = sorted(answer.status_code for answer in answers)
    # The loser is refused for the last credential, or because its own token just ended.
    assert statuses in ([204, 401], [204, 409])
    async with kernel.unit_of_work() as uow:
        live = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM parties.credential WHERE party_id = $1 AND revoked_at IS NULL",
            member.party_id,
        )
    assert live == 1


async def test_the_number_of_live_ones_is_bounded_also_in_parallel(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER)
    answers = await asyncio.gather(
        *(
            client.post("/v1/credentials", json={"label": "job"}, headers=member.headers())
            for _ in range(LIVE_CREDENTIALS_MAX + 3)
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == LIVE_CREDENTIALS_MAX - 1
    assert statuses.count(409) == 4
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "too_many_credentials"


async def test_a_replayed_creation_shows_the_same_secret_once_more(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER)
    headers = member.headers()
    first = await client.post("/v1/credentials", json={"label": "job"}, headers=headers)
    async with unchanged(kernel):
        again = await client.post("/v1/credentials", json={"label": "job"}, headers=headers)
    assert again.content == first.content
    assert (await log_in(client, again.json())).status_code == 200


async def test_a_narrow_credential_gives_narrow_tokens(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER, Role.BUYER)
    made = await client.post(
        "/v1/credentials", json={"label": "buy only", "roles": ["buyer"]}, headers=member.headers()
    )
    assert made.json()["roles"] == ["buyer"]
    assert (await log_in(client, made.json())).json()["scope"] == "buyer"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"label": ""},
        {"label": "x" * 201},
        {"label": "job", "roles": []},
        {"label": "job", "roles": ["seller", "seller"]},
        {"label": "job", "roles": ["root"]},
        {"label": "job", "client_secret": "mkt_sandbox_mine"},
        {"label": "job", "party_id": "pty_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"},
    ],
)
async def test_bad_credentials_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, body: dict[str, object]
) -> None:
    member = await make_party(kernel, Role.SELLER)
    async with unchanged(kernel):
        refused = await client.post("/v1/credentials", json=body, headers=member.headers())
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_roles_cannot_be_gained_by_a_credential(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.SELLER)
    for roles in (["operator"], ["buyer"], ["seller", "buyer"]):
        async with unchanged(kernel):
            refused = await client.post(
                "/v1/credentials", json={"label": "job", "roles": roles}, headers=member.headers()
            )
        assert (refused.status_code, refused.json()["code"]) == (403, "roles_not_held")


async def test_credentials_need_a_token(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    key = {"Idempotency-Key": uuid.uuid4().hex}
    async with unchanged(kernel):
        answers = [
            await client.get("/v1/credentials"),
            await client.post("/v1/credentials", json={"label": "job"}, headers=key),
            await client.delete(f"/v1/credentials/{member.client_id}"),
        ]
    assert [a.status_code for a in answers] == [401, 401, 401]
