"""A token's own quota as its holder and its grant's parties see it."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, make_trade, settled
from tests.contracts.test_token_keys import rotate
from tests.contracts.test_token_limits import BULK, COUNT, ROWS, SHARES, mint
from tests.contracts.test_token_questions import ask


async def take(
    client: httpx.AsyncClient, token: str, limit: int, delivery_id: str | None = None
) -> httpx.Response:
    headers = (
        bearer(token) if delivery_id is None else bearer(token, **{"Delivery-Id": delivery_id})
    )
    return await client.get(ROWS, params={"limit": limit}, headers=headers)


def refusal(answer: httpx.Response) -> tuple[int, str, int]:
    problem = answer.json()
    return answer.status_code, problem["code"], problem["remaining"]


async def show(client: httpx.AsyncClient, trade: Trade, token_id: str) -> dict[str, Any]:
    answer = await client.get(f"/v1/tokens/{token_id}", headers=trade.seller.headers())
    found: dict[str, Any] = answer.json()
    return found


async def test_a_token_takes_its_quota_and_no_more(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    minted = await mint(client, trade, quota=5, form="key")
    assert (minted["quota"], minted["quota_remaining"]) == (5, 5)
    own = minted["token"]
    first = await take(client, own, 3, "first-three")
    assert (first.status_code, first.headers["Meter-Remaining"]) == (200, "2")
    assert refusal(await take(client, own, 3)) == (402, "token_quota_exhausted", 2)
    last = await take(client, own, 2, "the-last-two")
    assert (last.status_code, last.headers["Meter-Remaining"]) == (200, "0")
    assert refusal(await take(client, own, 1)) == (402, "token_quota_exhausted", 0)
    for key, page in (("the-last-two", last), ("first-three", first)):
        again = await take(client, own, len(page.json()["items"]), key)
        assert (again.status_code, again.headers["Meter-Charged"]) == (200, "0")
        assert again.content == page.content
    assert (await client.get(COUNT, headers=bearer(own))).status_code == 200
    assert await settled(kernel, trade) == before + 5
    assert (await take(client, token, 1)).status_code == 200
    found = await ask(client, trade.buyer, own)
    assert (found["active"], found["quota"], found["quota_remaining"]) == (True, 5, 0)
    detail = await show(client, trade, minted["id"])
    assert (detail["quota"], detail["quota_remaining"]) == (5, 0)
    listed = await client.get(
        f"/v1/grants/{trade.grant}/tokens", headers=trade.buyer.headers(), params={"limit": 100}
    )
    quotas = {each["id"]: each["quota_remaining"] for each in listed.json()["items"]}
    assert quotas[minted["id"]] == 0
    assert None in quotas.values()


async def test_of_sixteen_requests_for_the_last_unit_one_is_served(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    own = (await mint(client, trade, quota=1))["token"]
    before = await settled(kernel, trade)
    answers = await asyncio.gather(*(take(client, own, 1) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] + 15 * [402]
    assert await settled(kernel, trade) == before + 1


async def test_a_quota_is_part_of_what_the_grant_can_still_give(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=20)
    first = (await mint(client, small, quota=20))["token"]
    assert (await take(client, first, 15)).status_code == 200
    path, headers = f"/v1/grants/{small.grant}/tokens", small.buyer.headers
    answer = await client.post(path, json={"label": "more", "quota": 6}, headers=headers())
    assert refusal(answer) == (422, "token_quota_too_large", 5)
    for wrong in (0, -1, 1.5, "3", True, 10**15 + 1):
        answer = await client.post(path, json={"label": "more", "quota": wrong}, headers=headers())
        assert answer.status_code == 422, wrong
    second = (await mint(client, small, quota=5))["token"]
    assert (await take(client, first, 4)).status_code == 200
    # Quotas of several tokens may add up to more than the grant has: it bounds them all.
    assert refusal(await take(client, second, 2)) == (402, "quota_exhausted", 1)
    assert (await take(client, second, 1)).headers["Meter-Remaining"] == "0"


async def test_rotation_hands_on_what_is_left(client: httpx.AsyncClient, trade: Trade) -> None:
    old = await mint(client, trade, quota=5)
    assert (await take(client, old["token"], 2)).status_code == 200
    new = (await rotate(client, trade, old["id"], 600)).json()
    assert (await show(client, trade, new["id"]))["quota_remaining"] == 3
    assert new["quota"] == 5
    assert (await take(client, old["token"], 2)).headers["Meter-Remaining"] == "1"
    assert refusal(await take(client, new["token"], 2)) == (402, "token_quota_exhausted", 1)
    last = (await rotate(client, trade, new["id"], 0)).json()
    assert (await take(client, last["token"], 1)).status_code == 200
    for spent in (old, last):
        assert refusal(await take(client, spent["token"], 1)) == (402, "token_quota_exhausted", 0)


async def test_sharing_and_bulk_obey_the_quota(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    own = (await mint(client, trade, quota=10))["token"]
    before = await settled(kernel, trade)
    assert (await client.get(BULK, headers=bearer(own))).status_code == 402
    tables = await client.get(f"{SHARES}/{trade.grant}/all-tables", headers=bearer(own))
    name = tables.json()["items"][0]["name"]
    query = f"{SHARES}/{trade.grant}/schemas/data/tables/{name}/query"
    refused = await client.post(query, json={"limitHint": 11}, headers=bearer(own))
    assert refusal(refused) == (402, "token_quota_exhausted", 10)
    assert await settled(kernel, trade) == before
    made = await client.post(query, json={"limitHint": 10}, headers=bearer(own))
    assert made.status_code == 200
    url = httpx.URL(_file(made)["url"])
    assert (await client.get(url.raw_path.decode())).status_code == 200
    assert await settled(kernel, trade) == before + 10
    assert (await client.get(url.raw_path.decode())).status_code == 200
    refused = await client.post(query, json={"limitHint": 1}, headers=bearer(own))
    assert refusal(refused) == (402, "token_quota_exhausted", 0)
    assert await settled(kernel, trade) == before + 10


def _file(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.text.splitlines()[-1])["file"]
    return found


@pytest.mark.parametrize("kind", ["buyer_safe", "seller_safe"])
async def test_a_quota_of_calls(client: httpx.AsyncClient, kernel: Kernel, kind: str) -> None:
    trade = await make_trade(kernel, unit="call", lot_units=10, meter_side=kind)
    own = (await mint(client, trade, quota=2))["token"]
    codes = [(await take(client, own, 50)).status_code for _ in range(3)]
    assert codes == [200, 200, 402]
    assert await settled(kernel, trade) == 2
