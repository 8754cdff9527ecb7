"""RFC 7662 introspection and RFC 7009 revocation."""

import asyncio

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.market.parties.factories import Member, make_party


def form(member: Member, token: str) -> dict[str, str]:
    return {"client_id": member.client_id, "client_secret": member.client_secret, "token": token}


async def ask(client: httpx.AsyncClient, member: Member, token: str) -> dict[str, object]:
    answer = await client.post("/oauth2/introspect", data=form(member, token))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, object] = answer.json()
    return found


async def test_foreign_tokens_are_inactive(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    stranger = await make_party(kernel, Role.BUYER)
    for member in (trade.buyer, trade.seller):
        found = await ask(client, member, token)
        assert (found["active"], found["aud"]) == (True, trade.grant)
    for member, asked in ((stranger, token), (trade.buyer, "junk")):
        found = await ask(client, member, asked)
        assert {name: value for name, value in found.items() if value is not None} == {
            "active": False
        }
    wrong = {**form(trade.buyer, token), "client_secret": stranger.client_secret}
    answer = await client.post("/oauth2/introspect", data=wrong)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_revoke_ends_ones_own_token_only(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel)
    token = await mint(kernel, trade)
    rows = "/v1/delivery/rows"
    for member, status in ((trade.seller, 200), (trade.buyer, 410), (trade.buyer, 410)):
        answer = await client.post("/oauth2/revoke", data=form(member, token))
        assert answer.status_code == 200
        read = await client.get(rows, params={"limit": 1}, headers=bearer(token))
        assert read.status_code == status
    assert (await ask(client, trade.buyer, token))["active"] is False


async def test_what_is_not_a_delivery_token_is_inactive_and_revoked_without_effect(
    client: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    header, payload, signature = token.split(".")
    for wrong in (
        trade.buyer.token,  # an access token; here only delivery tokens are known
        f"{header}.{payload}.{signature[::-1]}",
        f"eyJhbGciOiJub25lIiwidHlwIjoiZGVsaXZlcnkrand0In0.{payload}.",
        "\x00",
        "\u00f1.\u00e9.\u00fc",
        "a" * 8_000,
    ):
        assert (await ask(client, trade.buyer, wrong))["active"] is False
        answer = await client.post("/oauth2/revoke", data=form(trade.buyer, wrong))
        assert (answer.status_code, answer.json()) == (200, None)
    own = await client.get("/v1/grants", headers=trade.buyer.headers())
    assert own.status_code == 200
    assert (await ask(client, trade.buyer, token))["active"] is True


async def test_an_expired_token_is_inactive(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    token = await mint(kernel, trade, ttl_s=1)
    for _ in range(30):
        await asyncio.sleep(1.1)
        found = await ask(client, trade.buyer, token)
        if not found["active"]:
            break
    assert [name for name, value in found.items() if value is not None] == ["active"]
    assert found["active"] is False
    answer = await client.post("/oauth2/revoke", data=form(trade.buyer, token))
    assert answer.status_code == 200


async def test_remaining_units_are_readable_before_a_refusal(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lot_units=10)
    token, sibling = await mint(kernel, small), await mint(kernel, small)
    for left in (10, 4, 0):
        found = await ask(client, small.seller, sibling)
        assert (found["active"], found["unit"], found["remaining_units"]) == (True, "row", left)
        if left:
            params = {"limit": 6 if left == 10 else 4}
            read = await client.get("/v1/delivery/rows", params=params, headers=bearer(token))
            assert read.status_code == 200
    read = await client.get("/v1/delivery/rows", params={"limit": 1}, headers=bearer(sibling))
    assert (read.status_code, read.json()["remaining"]) == (402, 0)


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_the_client_authenticates(
    client: httpx.AsyncClient, trade: Trade, token: str, path: str
) -> None:
    member = trade.buyer
    basic = httpx.BasicAuth(member.client_id, member.client_secret)
    assert (await client.post(path, data={"token": "x"}, auth=basic)).status_code == 200
    cases: list[tuple[dict[str, str], dict[str, str], int]] = [
        ({"token": token}, {}, 401),
        ({"token": token}, member.headers(), 401),
        ({"token": token}, bearer(token), 401),
        ({"token": token, "client_id": member.client_id, "client_secret": "no"}, {}, 401),
        ({"client_id": member.client_id, "client_secret": member.client_secret}, {}, 400),
    ]
    for data, headers, status in cases:
        answer = await client.post(path, data=data, headers=headers)
        assert answer.status_code == status, data
    wrong_type = await client.post(path, json=form(member, token))
    assert (wrong_type.status_code, wrong_type.json()["error"]) == (400, "invalid_request")
