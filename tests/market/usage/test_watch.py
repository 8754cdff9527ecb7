"""Unusual use: what is seen, once a day, and what is held where somebody wants that."""

from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from contracts import agreements, grants
from contracts.agreement_states import AgreementStatus
from contracts.metering import meter_of
from market.kernel.context import Kernel
from market.kernel.security import Role
from market.operations.sandbox import AdvanceClock, advance_clock
from market.usage.watch import WatchLimits
from market.usage.watch_job import examine_usage
from tests.contracts.factories import Trade, bearer, grant_of, make_agreement, make_trade, mint
from tests.listings.factories import any_operator
from tests.market.matching.factories import scalar, together
from tests.market.parties.factories import Member, make_party

LIMITS = WatchLimits(spike_units=100, spike_factor=5, address_deliveries=3)
HELD = "SELECT count(*) FROM kernel.outbox WHERE type = 'usage.held' AND object_id = $1"


@dataclass(frozen=True)
class Reading:
    """Reads of one trade's buyer, from an address."""

    app: FastAPI
    kernel: Kernel
    trade: Trade
    token: str

    async def get(self, *, address: str = "192.0.2.1", **params: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://market.test") as client:
            return await client.get("/v1/delivery/rows", params=params, headers=bearer(self.token))

    async def page(self, **params: Any) -> str | None:
        answer = await self.get(**params)
        assert answer.status_code == 200, answer.text
        await meter_of(self.kernel).flush()
        after: str | None = answer.headers.get("next-after")
        return after

    async def whole(self, *, limit: int, **params: Any) -> None:
        """All rows of the version, page after page."""
        after = await self.page(limit=limit, **params)
        while after is not None:
            after = await self.page(limit=limit, after=after, **params)


@pytest.fixture(scope="module")
async def shop(kernel: Kernel) -> Trade:
    return await make_trade(kernel, lots=1, lot_units=10_000, rows=200)


async def reading_of(app: FastAPI, kernel: Kernel, shop: Trade) -> Reading:
    buyer = await make_party(kernel, Role.BUYER)
    agreement = await make_agreement(kernel, buyer, shop.seller, shop.plan)
    grant = await grant_of(kernel, agreement.id)
    seller = shop.seller.with_fresh_token(kernel)
    trade = replace(shop, buyer=buyer, seller=seller, agreement=agreement, grant_id=grant.id)
    return Reading(app, kernel, trade, await mint(kernel, trade))


@pytest.fixture
async def reading(app: FastAPI, kernel: Kernel, shop: Trade) -> Reading:
    return await reading_of(app, kernel, shop)


async def alerts(client: httpx.AsyncClient, kernel: Kernel, trade: Trade) -> list[dict[str, Any]]:
    operator = await make_party(kernel, Role.OPERATOR)
    answer = await client.get(
        "/v1/surveillance/alerts",
        params={"party_id": trade.buyer.id},
        headers=operator.headers(),
    )
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def guard(client: httpx.AsyncClient, trade: Trade, member: Member, *words: str) -> int:
    answer = await client.put(
        f"/v1/agreements/{trade.id}/usage-guard",
        json={"hold_on": list(words)},
        headers=member.headers(),
    )
    return answer.status_code


async def test_the_whole_set_page_by_page_is_seen_once(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    await reading.whole(limit=40)
    await together(*(examine_usage(kernel, LIMITS) for _ in range(3)))
    assert await examine_usage(kernel, LIMITS) == 0
    (alert,) = await alerts(client, kernel, reading.trade)
    assert (alert["rule"], alert["status"]) == ("usage_scraping", "open")
    assert alert["parties"] == [reading.trade.buyer.id, reading.trade.seller.id]
    assert alert["figures"] == {
        "agreement_id": reading.trade.id,
        "pages": 5,
        "rows": 200,
        "version_rows": 200,
    }
    # Nobody asked for a hold.
    assert (await reading.get(limit=1)).status_code == 200


async def test_parts_and_other_queries_are_no_scraping(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    after = await reading.page(limit=30)
    for _ in range(4):
        after = await reading.page(limit=30, after=after)
    for _ in range(8):
        await reading.page(limit=150, filter="delay > 0")
    await reading.whole(limit=60)
    await examine_usage(kernel, LIMITS)
    assert await alerts(client, kernel, reading.trade) == []


async def test_an_address_never_seen_before(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    for _ in range(3):
        await reading.page(limit=1)
    await examine_usage(kernel, LIMITS)
    assert await alerts(client, kernel, reading.trade) == []
    await reading.page(limit=1, address="2001:db8::7")
    await reading.page(limit=1, address="2001:db8::7")
    await examine_usage(kernel, LIMITS)
    await examine_usage(kernel, LIMITS)
    (alert,) = await alerts(client, kernel, reading.trade)
    assert alert["rule"] == "usage_address"
    assert alert["figures"]["address"] == "2001:db8::7"
    assert alert["figures"]["earlier_deliveries"] == 3


async def test_sudden_volume_against_its_own_history(
    client: httpx.AsyncClient, app: FastAPI, kernel: Kernel, shop: Trade, reading: Reading
) -> None:
    steady = await reading_of(app, kernel, shop)
    await reading.page(limit=20)
    await steady.page(limit=40)
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=7_200))
    fresh = await reading_of(app, kernel, shop)
    for item in (reading, steady, fresh):
        again = replace(item, token=await mint(kernel, item.trade))
        await again.page(limit=60)
        await again.page(limit=60, filter="delay > -1000")
    await examine_usage(kernel, LIMITS)
    (alert,) = await alerts(client, kernel, reading.trade)
    assert alert["rule"] == "usage_spike"
    figures = {name: alert["figures"][name] for name in ("units", "busiest_units", "hours")}
    assert figures == {"units": 120, "busiest_units": 20, "hours": 1}
    assert await alerts(client, kernel, steady.trade) == []
    assert await alerts(client, kernel, fresh.trade) == []


async def test_a_hold_stops_delivery_until_an_operator_releases_it(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    trade = reading.trade
    assert await guard(client, trade, trade.seller, "usage_scraping", "usage_spike") == 200
    await reading.whole(limit=40)
    await together(*(examine_usage(kernel, LIMITS) for _ in range(3)))
    held = await reading.get(limit=1)
    assert (held.status_code, held.json()["code"]) == (403, "grant_suspended")
    assert "usage-holds" in held.json()["hint"]
    assert await scalar(kernel, HELD, trade.agreement.id) == 1
    path = f"/v1/agreements/{trade.id}/usage-holds"
    told = (await client.get(path, headers=trade.buyer.headers())).json()["items"]
    assert [(item["suspicion"], item["released_at"]) for item in told] == [("usage_scraping", None)]
    body = {"reason": "the buyer may read it all"}
    for member in (trade.buyer, trade.seller):
        refused = await client.post(f"{path}/release", json=body, headers=member.headers())
        assert refused.status_code == 403
    operator = await make_party(kernel, Role.OPERATOR)
    released = await client.post(f"{path}/release", json=body, headers=operator.headers())
    assert (released.status_code, released.json()["reason"]) == (201, body["reason"])
    again = await client.post(f"{path}/release", json=body, headers=operator.headers())
    assert (again.status_code, again.json()["code"]) == (404, "usage_hold_not_found")
    await reading.page(limit=1)
    # The day's alert is there already, so the same suspicion does not hold again.
    await examine_usage(kernel, LIMITS)
    await reading.page(limit=1)


async def test_a_hold_and_a_dispute_end_one_after_the_other(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    trade = reading.trade
    operator = await make_party(kernel, Role.OPERATOR)
    assert await guard(client, trade, operator, "usage_scraping") == 200
    await reading.whole(limit=40)
    await examine_usage(kernel, LIMITS)
    async with kernel.unit_of_work() as uow:
        assert not await grants.reinstate(uow, kernel, trade.agreement.id)
    await move(kernel, trade, AgreementStatus.OBJECTED)
    path = f"/v1/agreements/{trade.id}/usage-holds/release"
    answer = await client.post(path, json={"reason": "fine"}, headers=operator.headers())
    assert answer.status_code == 201
    assert (await grant_of(kernel, trade.agreement.id)).status == "suspended"
    await move(kernel, trade, AgreementStatus.ACTIVE)
    async with kernel.unit_of_work() as uow:
        assert await grants.reinstate(uow, kernel, trade.agreement.id)
    await reading.page(limit=1)


async def move(kernel: Kernel, trade: Trade, target: AgreementStatus) -> None:
    async with kernel.unit_of_work() as uow:
        agreement = await agreements.lock_agreement(uow, trade.agreement.id)
        agreements.move(uow, agreement, target, reason="test")


async def test_who_sets_a_guard(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading
) -> None:
    trade = reading.trade
    stranger = await make_party(kernel, Role.SELLER)
    regulator = await make_party(kernel, Role.REGULATOR)
    path = f"/v1/agreements/{trade.id}/usage-guard"
    for member, status in ((trade.buyer, 403), (stranger, 404), (regulator, 403)):
        assert await guard(client, trade, member, "usage_spike") == status
    assert await guard(client, trade, trade.seller, "affiliated_trade") == 422
    shown = (await client.get(path, headers=trade.buyer.headers())).json()
    assert (shown["hold_on"], shown["updated_at"]) == ([], None)
    assert await guard(client, trade, trade.seller, "usage_spike", "usage_address") == 200
    shown = (await client.get(path, headers=trade.buyer.headers())).json()
    assert shown["hold_on"] == ["usage_address", "usage_spike"]
    assert (await client.get(path, headers=stranger.headers())).status_code == 404
