"""Opaque keys and rotation, tried as somebody would who found or kept a secret."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from contracts.metering_scripts import keys_of
from contracts.token_keys import KEY_PATTERN, key_sha256, mint_key
from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import InvalidToken
from tests.contracts.factories import Trade, make_trade
from tests.contracts.test_token_limits import COUNT, MANIFEST, PROFILE, ROWS, SHARES, mint, read
from tests.contracts.test_token_questions import ask, form


async def rotate(
    client: httpx.AsyncClient, trade: Trade, token_id: str, overlap_s: int
) -> httpx.Response:
    return await client.post(
        f"/v1/tokens/{token_id}/rotate",
        json={"overlap_s": overlap_s},
        headers=trade.buyer.headers(),
    )


def test_the_form_of_a_key() -> None:
    key = mint_key()
    assert re.fullmatch(KEY_PATTERN, key)
    assert len(key_sha256(key)) == 64
    assert key != mint_key()
    flipped = key[:10] + ("A" if key[10] != "A" else "B") + key[11:]
    wrong = ["dem_", "dem_" + "x" * 60, key[:-1], key + "0", f"{key}\n", key.lower(), flipped]
    for each in (*wrong, f"{key[:-1]}\u0661", key.replace("dem_", "mkt_")):
        with pytest.raises(InvalidToken):
            key_sha256(each)


async def test_a_key_does_what_a_signed_token_does(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    minted = await mint(client, trade, form="key", fields=["id"])
    key = minted["token"]
    assert minted["form"] == "key"
    status, page = await read(client, key, limit=2)
    assert (status, [list(row) for row in page["items"]]) == (200, [["id"], ["id"]])
    assert await read(client, key, select="delay") == (403, "token_field_refused")
    assert await read(client, key, MANIFEST) == (403, "token_too_narrow")
    whole = (await mint(client, trade, form="key"))["token"]
    assert (await read(client, whole, PROFILE))[1]["bearerToken"] == whole
    found = await ask(client, trade.seller, key)
    assert (found["active"], found["jti"]) == (True, minted["id"])
    async with kernel.unit_of_work() as uow:
        query = text("SELECT t::text FROM contracts.delivery_token t WHERE id = :id")
        row = (await uow.execute(query, {"id": parse("tok", minted["id"])})).scalar_one()
    assert key[4:40] not in row
    assert key_sha256(key) in row


async def test_keys_that_are_not_ours(client: httpx.AsyncClient, trade: Trade) -> None:
    key = (await mint(client, trade, form="key"))["token"]
    for wrong in (mint_key(), key[:-1] + ("0" if key[-1] != "0" else "1"), key_sha256(key), "dem_"):
        assert await read(client, wrong) == (401, "token_invalid")
        assert (await ask(client, trade.buyer, wrong))["active"] is False
        answer = await client.post("/oauth2/revoke", data=form(trade.buyer, wrong))
        assert answer.status_code == 200
    assert (await read(client, key, limit=1))[0] == 200


@pytest.mark.parametrize("kind", ["jwt", "key"])
@pytest.mark.parametrize("used", [False, True])
async def test_a_revoked_token_is_refused_whether_the_meter_knows_its_grant_or_not(
    client: httpx.AsyncClient, kernel: Kernel, kind: str, used: bool
) -> None:
    trade = await make_trade(kernel)
    token = (await mint(client, trade, form=kind))["token"]
    if used:
        assert (await read(client, token, limit=1))[0] == 200
    answer = await client.post("/oauth2/revoke", data=form(trade.buyer, token))
    assert answer.status_code == 200
    for path in (ROWS, COUNT, SHARES, PROFILE):
        assert await read(client, token, path) == (410, "token_revoked"), path


@pytest.mark.parametrize("kind", ["jwt", "key"])
async def test_rotation_keeps_the_limits_and_ends_the_old_secret(
    client: httpx.AsyncClient, kernel: Kernel, kind: str
) -> None:
    trade = await make_trade(kernel)
    limits: dict[str, Any] = {
        "operations": ["rows"],
        "fields": ["id"],
        "row_filter": "id < 50",
        "networks": ["127.0.0.1/32"],
        "rate_per_minute": 500,
    }
    old = await mint(client, trade, form=kind, ttl_s=900, **limits)
    new = (await rotate(client, trade, old["id"], 1)).json()
    assert {name: new[name] for name in limits} == limits
    assert (new["form"], new["label"], new["grant_id"]) == (kind, "limited", old["grant_id"])
    assert new["id"] != old["id"]
    assert new["token"] != old["token"]
    assert await read(client, new["token"], select="delay") == (403, "token_field_refused")
    assert (await read(client, new["token"], limit=1))[0] == 200
    for _ in range(60):
        status, code = await read(client, old["token"], limit=1)
        if status != 200:
            break
        await asyncio.sleep(0.5)
    assert (status, code) == (410, "token_revoked")
    assert (await ask(client, trade.buyer, old["token"]))["active"] is False
    again = await rotate(client, trade, old["id"], 60)
    assert (again.status_code, again.json()["code"]) == (409, "token_ended")
    last = (await rotate(client, trade, new["id"], 0)).json()
    assert await read(client, new["token"], limit=1) == (410, "token_revoked")
    assert (await read(client, last["token"], limit=1))[0] == 200
    assert await read(client, last["token"], COUNT) == (403, "token_operation_refused")


async def test_the_old_secret_works_during_the_overlap(
    client: httpx.AsyncClient, trade: Trade
) -> None:
    old = await mint(client, trade, ttl_s=900)
    answer = await rotate(client, trade, old["id"], 600)
    assert answer.status_code == 201
    for token in (old["token"], answer.json()["token"]):
        assert (await read(client, token, limit=1))[0] == 200
    found = await ask(client, trade.buyer, old["token"])
    assert found["active"] is True
    shown = await client.get(f"/v1/tokens/{old['id']}", headers=trade.buyer.headers())
    assert shown.json()["ends_at"] is not None
    assert shown.json()["revoked_at"] is None


async def test_who_may_rotate_and_how_often(client: httpx.AsyncClient, trade: Trade) -> None:
    old = await mint(client, trade)
    path = f"/v1/tokens/{old['id']}/rotate"
    stranger = await client.post(path, json={}, headers=trade.seller.headers())
    assert (stranger.status_code, stranger.json()["code"]) == (404, "token_not_found")
    widened = await client.post(path, json={"fields": None}, headers=trade.buyer.headers())
    assert widened.status_code == 422
    answers = await asyncio.gather(*(rotate(client, trade, old["id"], 60) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    revoked = await mint(client, trade)
    await client.delete(f"/v1/tokens/{revoked['id']}", headers=trade.buyer.headers())
    refused = await rotate(client, trade, revoked["id"], 0)
    assert (refused.status_code, refused.json()["code"]) == (409, "token_ended")


async def test_postgres_is_asked_again_when_an_overlap_ends(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel)
    old = await mint(client, trade)
    assert (await read(client, old["token"], limit=1))[0] == 200
    assert (await rotate(client, trade, old["id"], 1)).status_code == 201
    status, _ = await read(client, old["token"], limit=1)
    seconds, micros = await kernel.redis.time()
    fresh = int(await kernel.redis.hget(keys_of(trade.grant_id)[0], "fresh") or 0)
    # On a machine that took longer than the overlap, it is over already.
    assert status == 410 or fresh <= seconds * 1_000 + micros // 1_000 + 1_000
