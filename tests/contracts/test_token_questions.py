"""RFC 7662 introspection and RFC 7009 revocation."""

import httpx

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
