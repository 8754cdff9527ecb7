"""Soft limits: each threshold alerts once, whoever counts and however often."""

from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest

from contracts import jobs
from contracts.metering import meter_of
from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, grant_of, make_agreement, mint
from tests.market.matching.factories import scalar, together
from tests.market.parties.factories import make_party

EVENTS = (
    "SELECT count(*) FROM kernel.outbox WHERE type = 'usage.threshold_reached' AND object_id = $1"
)


async def another(kernel: Kernel, base: Trade) -> Trade:
    """The same deal with a new buyer: 100 rows."""
    buyer = await make_party(kernel, Role.BUYER)
    agreement = await make_agreement(kernel, buyer, base.seller, base.plan)
    grant = await grant_of(kernel, agreement.id)
    return replace(base, buyer=buyer, agreement=agreement, grant_id=grant.id)


async def use(client: httpx.AsyncClient, kernel: Kernel, token: str, rows: int) -> None:
    answer = await client.get("/v1/delivery/rows", params={"limit": rows}, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.headers["meter-charged"] == str(rows)
    await meter_of(kernel).flush()


async def percents(client: httpx.AsyncClient, trade: Trade, **query: Any) -> list[int]:
    query = {"grant_id": trade.grant, **query}
    answer = await client.get("/v1/usage/alerts", params=query, headers=trade.buyer.headers())
    assert answer.status_code == 200, answer.text
    return [item["percent"] for item in answer.json()["items"]]


async def test_each_threshold_alerts_once(
    client: httpx.AsyncClient, kernel: Kernel, base: Trade
) -> None:
    trade = await another(kernel, base)
    token = await mint(kernel, trade)
    for rows in (49, 1, 29, 20, 1):
        await use(client, kernel, token, rows)
        await together(*(jobs.accrue(kernel) for _ in range(3)))
    assert await percents(client, trade) == [100, 80, 50]
    assert await scalar(kernel, EVENTS, trade.grant_id) == 3
    answer = await client.get("/v1/usage/alerts", headers=trade.buyer.headers())
    newest = answer.json()["items"][0]
    assert (newest["used_units"], newest["granted_units"]) == (100, 100)
    assert newest["id"].startswith("usa_")
    spent = await client.get("/v1/delivery/rows", headers=bearer(token))
    assert (spent.status_code, spent.json()["remaining"]) == (402, 0)
    assert "/auto-top-up" in spent.json()["hint"]


async def test_a_threshold_below_use_alerts_when_it_is_set(
    client: httpx.AsyncClient, kernel: Kernel, base: Trade
) -> None:
    trade = await another(kernel, base)
    path = f"/v1/grants/{trade.grant}/usage-thresholds"
    shown = (await client.get(path, headers=trade.seller.headers())).json()
    assert (shown["percents"], shown["updated_at"]) == ([50, 80, 100], None)
    await use(client, kernel, await mint(kernel, trade), 33)
    await jobs.accrue(kernel)
    assert await percents(client, trade) == []
    body = {"percents": [34, 10, 33, 10]}
    answer = await client.put(path, json=body, headers=trade.buyer.headers())
    assert (answer.status_code, answer.json()["percents"]) == (200, [10, 33, 34])
    assert await percents(client, trade) == [33, 10]
    quiet = await client.put(path, json={"percents": []}, headers=trade.buyer.headers())
    assert quiet.status_code == 200
    await use(client, kernel, await mint(kernel, trade), 60)
    await jobs.accrue(kernel)
    assert await percents(client, trade) == [33, 10]
    assert await percents(client, trade, limit=1) == [33]


async def test_only_the_buyer_sets_thresholds(
    client: httpx.AsyncClient, kernel: Kernel, base: Trade
) -> None:
    trade = await another(kernel, base)
    stranger = await make_party(kernel, Role.BUYER)
    path = f"/v1/grants/{trade.grant}/usage-thresholds"
    for member in (trade.seller, stranger):
        answer = await client.put(path, json={"percents": [1]}, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (404, "grant_not_found")
    assert (await client.get(path, headers=stranger.headers())).status_code == 404
    for wrong in ([0], [101], [1.5], list(range(1, 12))):
        answer = await client.put(path, json={"percents": wrong}, headers=trade.buyer.headers())
        assert answer.status_code == 422
    assert (await client.get(path, headers=trade.buyer.headers())).json()["updated_at"] is None


async def test_alerts_are_for_the_buyer(
    client: httpx.AsyncClient, kernel: Kernel, base: Trade
) -> None:
    trade = await another(kernel, base)
    await use(client, kernel, await mint(kernel, trade), 50)
    await jobs.accrue(kernel)
    query = {"grant_id": trade.grant}
    operator = await make_party(kernel, Role.OPERATOR)
    counts = {}
    for name, member in (("buyer", trade.buyer), ("seller", trade.seller), ("op", operator)):
        answer = await client.get("/v1/usage/alerts", params=query, headers=member.headers())
        counts[name] = len(answer.json()["items"])
    assert counts == {"buyer": 1, "seller": 0, "op": 1}


async def test_alerts_do_not_change(client: httpx.AsyncClient, kernel: Kernel, base: Trade) -> None:
    trade = await another(kernel, base)
    await use(client, kernel, await mint(kernel, trade), 50)
    await jobs.accrue(kernel)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await scalar(
            kernel, "DELETE FROM contracts.usage_alert WHERE grant_id = $1", trade.grant_id
        )
