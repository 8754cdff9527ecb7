"""Who may read rows: tokens, revocation, policies, rate limits, strangers."""

import httpx
import orjson
import pytest

from contracts import grants as grant_service
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, make_trade, mint, settled
from tests.market.parties.factories import make_party

ROWS = "/v1/delivery/rows"


async def test_wrong_tokens(client: httpx.AsyncClient, trade: Trade, token: str) -> None:
    header, payload, signature = token.split(".")
    for wrong in (
        trade.buyer.token,
        "junk",
        f"{header}.{payload}.{signature[::-1]}",
        f"eyJhbGciOiJub25lIiwidHlwIjoiZGVsaXZlcnkrand0In0.{payload}.",
        "a" * 10_000,
    ):
        answer = await client.get(ROWS, headers=bearer(wrong))
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert (await client.get(ROWS)).status_code == 401
    for path in ("/v1/grants", f"/v1/agreements/{trade.id}"):
        assert (await client.get(path, headers=bearer(token))).status_code == 401


async def test_a_token_for_one_grant_never_reads_another(
    client: httpx.AsyncClient, kernel: Kernel, token: str
) -> None:
    other = await make_trade(kernel)
    answer = await client.get(ROWS, params={"grant_id": other.grant}, headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (403, "token_other_grant")
    assert await settled(kernel, other) == 0


async def test_a_revoked_token_is_gone_at_once_and_its_siblings_live(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    minted = await client.post(
        f"/v1/grants/{trade.grant}/tokens",
        json={"label": "notebook", "ttl_s": 600},
        headers=trade.buyer.headers(),
    )
    assert minted.status_code == 201
    doomed = minted.json()["token"]
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(doomed))).status_code == 200
    before = await settled(kernel, trade)
    path = f"/v1/tokens/{minted.json()['id']}"
    seller = await client.delete(path, headers=trade.seller.headers())
    assert (seller.status_code, seller.json()["code"]) == (404, "token_not_found")
    assert (await client.get(ROWS, params={"limit": 0}, headers=bearer(doomed))).status_code == 422
    for _ in range(2):
        assert (await client.delete(path, headers=trade.buyer.headers())).status_code == 204
    refused = await client.get(ROWS, params={"limit": 1}, headers=bearer(doomed))
    assert (refused.status_code, refused.json()["code"]) == (410, "token_revoked")
    assert await settled(kernel, trade) == before
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code == 200


async def test_suspend_reinstate_revoke_hold_from_their_commit(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code == 200
    steps = [
        (grant_service.suspend, 403, "grant_suspended"),
        (grant_service.reinstate, 200, None),
        (grant_service.revoke, 410, "grant_revoked"),
        (grant_service.reinstate, 410, "grant_revoked"),
    ]
    charged = 1
    for change, status, code in steps:
        async with kernel.unit_of_work() as uow:
            await change(uow, kernel, small.agreement.id)
        answer = await client.get(ROWS, params={"limit": 1}, headers=bearer(token))
        assert answer.status_code == status, answer.text
        if code is None:
            charged += 1
        else:
            assert answer.json()["code"] == code
        assert await settled(kernel, small) == charged


async def test_a_rolled_back_revocation_changes_nothing(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code == 200

    async def revoke_and_fail() -> None:
        async with kernel.unit_of_work() as uow:
            await grant_service.revoke(uow, kernel, small.agreement.id)
            raise LookupError

    with pytest.raises(LookupError):
        await revoke_and_fail()
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code == 200


async def test_policy_refuses_by_clause(client: httpx.AsyncClient, kernel: Kernel) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        await connection.execute(
            "UPDATE parties.party SET jurisdiction = 'US' WHERE id = $1", small.buyer.party_id
        )
    answer = await client.get(ROWS, headers=bearer(token))
    assert (answer.status_code, answer.json()["clause"]) == (403, "territory")
    wrong_purpose = await client.post(
        f"/v1/grants/{small.grant}/tokens",
        json={"label": "x", "purpose": "model_training"},
        headers=small.buyer.headers(),
    )
    assert (wrong_purpose.status_code, wrong_purpose.json()["clause"]) == (403, "purpose")
    assert await settled(kernel, small) == 0


async def test_rate_limit_is_429_and_free(
    client: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    allowed = kernel.settings.delivery_rate_per_minute
    monkeypatch.setitem(kernel.settings.__dict__, "delivery_rate_per_minute", 2)
    codes = [
        (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code
        for _ in range(3)
    ]
    refused = await client.get(ROWS, params={"limit": 1}, headers=bearer(token))
    monkeypatch.setitem(kernel.settings.__dict__, "delivery_rate_per_minute", allowed)
    assert codes == [200, 200, 429]
    assert int(refused.headers["retry-after"]) >= 1
    assert "r=0" in refused.headers["ratelimit"]
    assert await settled(kernel, small) == 2


async def test_strangers_see_nothing(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    stranger = await make_party(kernel, Role.BUYER, Role.SELLER)
    token_body = {"label": "x"}
    for path in (
        f"/v1/agreements/{trade.id}",
        f"/v1/agreements/{trade.id}/trace",
        f"/v1/agreements/{trade.id}/receipts",
        f"/v1/grants/{trade.grant}",
        f"/v1/grants/{trade.grant}/usage",
        f"/v1/grants/{trade.grant}/tokens",
    ):
        assert (await client.get(path, headers=stranger.headers())).status_code == 404, path
    minted = await client.post(
        f"/v1/grants/{trade.grant}/tokens", json=token_body, headers=stranger.headers()
    )
    assert minted.status_code == 404
    by_seller = await client.post(
        f"/v1/grants/{trade.grant}/tokens", json=token_body, headers=trade.seller.headers()
    )
    assert by_seller.status_code == 404
    for path in ("/v1/agreements", "/v1/grants"):
        listed = await client.get(path, headers=stranger.headers())
        assert listed.json() == {"items": [], "has_more": False, "next_after": None}


async def test_token_bodies_are_checked(client: httpx.AsyncClient, trade: Trade) -> None:
    for body in (
        {},
        {"label": ""},
        {"label": "x", "ttl_s": 0},
        {"label": "x", "ttl_s": 1.5},
        {"label": "x", "ttl_s": 10**9},
        {"label": "x", "ttl_s": True},
        {"label": "x", "purpose": "'; DROP"},
        {"label": "x", "grant_id": show("grt", trade.grant_id)},
    ):
        answer = await client.post(
            f"/v1/grants/{trade.grant}/tokens",
            content=orjson.dumps(body),
            headers={**trade.buyer.headers(), "Content-Type": "application/json"},
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), body
