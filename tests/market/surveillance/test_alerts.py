"""Planted abuse is found with its evidence; honest trading is not; operators decide once."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from market.surveillance.jobs import examine_trades
from tests.listings.factories import make_listing
from tests.market.matching.factories import (
    Scene,
    cancel,
    open_scene,
    placed,
    scalar,
    together,
)
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, move_clock

PATH = "/v1/surveillance/alerts"
RICH = 100_000_000


@pytest.fixture(scope="module")
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


@pytest.fixture
async def scene(kernel: Kernel) -> Scene:
    """A plan of its own; what earlier tests traded has been examined and is out of the window."""
    await move_clock(kernel, timedelta(days=2))
    await examine(kernel)
    made = await open_scene(kernel)
    return _fresh(made, kernel)


def _fresh(scene: Scene, kernel: Kernel) -> Scene:
    return Scene(kernel, scene.seller.with_fresh_token(kernel), scene.listing_id, scene.plan_id)


async def examine(kernel: Kernel) -> None:
    """Let the time pass after which trades are examined, and examine all of them."""
    await move_clock(kernel, timedelta(seconds=61))
    while await examine_trades(kernel):
        pass
    seen = await scalar(kernel, "SELECT trade_seq FROM surveillance.progress")
    assert seen == await scalar(kernel, "SELECT coalesce(max(seq), 0) FROM matching.trade")


async def alerts_of(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, **query: str
) -> list[dict[str, Any]]:
    answer = await client.get(
        PATH, params=query, headers=operator.with_fresh_token(kernel).headers()
    )
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def trade(
    client: httpx.AsyncClient, scene: Scene, buyer: Member, price: int, lots: int = 1
) -> dict[str, Any]:
    """The seller offers, the buyer takes it; the buyer's order."""
    await placed(client, scene.seller, scene.body("sell", lots, price))
    order = await placed(client, buyer, scene.body("buy", lots, price))
    assert order["status"] == "filled"
    return order


async def both_ways(kernel: Kernel) -> Scene:
    """A plan whose seller is a buyer, too, with money."""
    member = await make_party(kernel, Role.SELLER, Role.BUYER)
    await fund(kernel, member.party_id, RICH)
    listing = await make_listing(kernel, member)
    plan = await make_plan(
        kernel, member, listing.listing_id, kind="metered", price_minor=1_000, lot_units=100
    )
    return Scene(kernel, member, listing.listing_id, plan.id)


async def test_honest_trading_raises_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    chance = random.Random(7)
    buyers = [await scene.buyer(RICH) for _ in range(5)]
    other = await open_scene(kernel)
    for number in range(60):
        market = scene if number % 3 else other
        await trade(
            client, market, buyers[number % 5], chance.randint(950, 1_050), chance.randint(1, 4)
        )
        if number % 4 == 0:
            bid = await placed(client, buyers[0], market.body("buy", 2, 900))
            await cancel(client, buyers[0], bid["id"])
    await examine(kernel)
    mine = {show("pty", buyer.party_id) for buyer in buyers} | {scene.seller.id, other.seller.id}
    found = await alerts_of(client, kernel, operator)
    assert [alert for alert in found if mine & set(alert["parties"])] == []


async def test_two_who_buy_from_each_other(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    first, second = await both_ways(kernel), await both_ways(kernel)
    orders = []
    for price in (1_000, 1_010):
        orders.append(await trade(client, first, second.seller, price))
        orders.append(await trade(client, second, first.seller, price - 5))
    await examine(kernel)
    found = await alerts_of(client, kernel, operator, rule="circular_trading")
    (alert,) = [item for item in found if first.seller.id in item["parties"]]
    assert set(alert["parties"]) == {first.seller.id, second.seller.id}
    assert set(alert["trades"]) == {order["trades"][0]["trade_id"] for order in orders}
    figures = alert["figures"]
    assert {figures["there_minor"], figures["back_minor"]} == {2_010, 2_000}
    assert (figures["trades_there"], figures["trades_back"]) == (2, 2)


async def test_affiliates_who_were_not_declared_in_time(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(RICH)
    order = await trade(client, scene, buyer, 1_000)
    await declare(kernel, buyer, scene.seller)
    await examine(kernel)
    found = await alerts_of(client, kernel, operator, party_id=buyer.id)
    assert [(alert["rule"], alert["status"]) for alert in found] == [("affiliated_trade", "open")]
    assert found[0]["trades"] == [order["trades"][0]["trade_id"]]
    assert set(found[0]["parties"]) == {buyer.id, scene.seller.id}
    assert found[0]["plan_id"] == scene.plan


async def declare(kernel: Kernel, *members: Member) -> None:
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2)",
            new_id(),
            [member.party_id for member in members],
        )


async def test_large_bids_that_vanish_once_the_accomplice_has_sold(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    accomplice, victim = await scene.buyer(RICH), await scene.buyer(RICH)
    bids, fills = [], []
    for _ in range(3):
        bid = await placed(client, accomplice, scene.body("buy", 30, 990))
        fills.append(await trade(client, scene, victim, 1_000, 2))
        assert (await cancel(client, accomplice, bid["id"])).status_code == 200
        bids.append(bid["id"])
    # Of another size, another price, or kept: no pressure.
    small = await placed(client, accomplice, scene.body("buy", 1, 990))
    await cancel(client, accomplice, small["id"])
    await declare(kernel, accomplice, scene.seller)
    await examine(kernel)
    found = await alerts_of(client, kernel, operator, rule="cancelled_pressure")
    (alert,) = [item for item in found if item["plan_id"] == scene.plan]
    assert alert["parties"] == [scene.seller.id]
    assert sorted(alert["orders"]) == sorted(bids)
    assert set(alert["trades"]) == {order["trades"][0]["trade_id"] for order in fills}
    assert alert["figures"] == {"side": "buy", "entered": 4, "cancelled": 3}


async def test_a_price_out_of_the_band(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer, other = await scene.buyer(RICH), await scene.buyer(RICH)
    for price in (1_000, 990, 1_010, 1_000, 1_000):
        await trade(client, scene, buyer, price)
    jumped = await trade(client, scene, other, 1_301)
    await examine(kernel)
    (alert,) = await alerts_of(client, kernel, operator, party_id=other.id)
    assert alert["rule"] == "price_jump"
    assert alert["figures"] == {"price_minor": 1_301, "median_minor": 1_000, "earlier_trades": 5}
    assert alert["trades"] == [jumped["trades"][0]["trade_id"]]


async def test_a_price_far_from_the_valuation(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    body = {
        "listing_id": show("lst", scene.listing_id),
        "currency": "CNY",
        "basis": {"unit": "row", "lot_units": 200, "lots_expected": 10},
        "income": {
            "method": "direct",
            "discount_rate": {"ppm": 100_000, "low_ppm": 80_000, "high_ppm": 120_000},
            "terms": [{"revenue": {"amount_minor": 22_000}}],
        },
    }
    made = await client.post("/v1/valuations", json=body, headers=scene.seller.headers())
    assert made.status_code == 201, made.text
    # For a lot of 200 rows; the plan's have 100.
    low, high = (made.json()["suggestion"][name] // 2 for name in ("low_minor", "high_minor"))
    buyer, other = await scene.buyer(RICH), await scene.buyer(RICH)
    for price in (low, high, high * 3 // 2):
        await trade(client, scene, buyer, price)
    await examine(kernel)
    assert await alerts_of(client, kernel, operator, party_id=buyer.id) == []
    dear = await trade(client, scene, other, high * 3 // 2 + 1)
    await examine(kernel)
    (alert,) = await alerts_of(client, kernel, operator, party_id=other.id)
    assert alert["rule"] == "price_off_valuation"
    assert alert["figures"]["high_minor"] == high
    assert alert["trades"] == [dear["trades"][0]["trade_id"]]


async def test_one_buyer_of_nearly_everything(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyers = [await scene.buyer(RICH) for _ in range(3)]
    for number in range(20):
        await trade(client, scene, buyers[number % 3], 1_000, 8 if number % 3 == 0 else 1)
    await examine(kernel)
    found = await alerts_of(client, kernel, operator, party_id=buyers[0].id)
    scopes = {alert["figures"]["scope"]: alert for alert in found}
    alert = scopes[f"plan:{scene.plan_id}"]
    assert {item["rule"] for item in found} == {"concentration"}
    assert alert["figures"]["amount_minor"] == 7 * 8_000
    assert alert["figures"]["total_minor"] == 7 * 8_000 + 13 * 1_000
    assert (alert["figures"]["trades"], alert["figures"]["parties"]) == (20, 3)
    assert len(alert["trades"]) == 7
    for buyer in buyers[1:]:
        assert await alerts_of(client, kernel, operator, party_id=buyer.id) == []


async def test_one_alert_per_window_and_one_decision(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(RICH)
    await trade(client, scene, buyer, 1_000)
    await declare(kernel, buyer, scene.seller)
    await examine(kernel)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE surveillance.progress SET trade_seq = trade_seq - 1"
        )
    await together(*(examine_trades(kernel) for _ in range(3)))
    (alert,) = await alerts_of(client, kernel, operator, party_id=buyer.id, status="open")
    staff = operator.with_fresh_token(kernel)
    path = f"{PATH}/{alert['id']}"
    assert (await client.get(path, headers=staff.headers())).json() == alert
    body = {"decision": "dismiss", "reason": "Declared on paper before."}
    for member, status, code in (
        (scene.seller.with_fresh_token(kernel), 403, "role_required"),
        (await make_party(kernel, Role.REGULATOR), 403, "role_required"),
    ):
        refused = await client.post(f"{path}/decisions", json=body, headers=member.headers())
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    decided = await client.post(f"{path}/decisions", json=body, headers=staff.headers())
    assert decided.status_code == 201, decided.text
    assert (decided.json()["status"], decided.json()["reason"]) == ("dismissed", body["reason"])
    assert decided.json()["decided_by"] == operator.id
    again = await client.post(
        f"{path}/decisions", json={**body, "decision": "confirm"}, headers=staff.headers()
    )
    assert (again.status_code, again.json()["code"]) == (409, "surveillance_alert_decided")
    missing = await client.get(f"{PATH}/{show('sva', new_id())}", headers=staff.headers())
    assert (missing.status_code, missing.json()["code"]) == (404, "surveillance_alert_not_found")
    number = UUID(alert["id"].removeprefix("sva_"))
    audited = await scalar(
        kernel, "SELECT reason FROM settlement.operator_action WHERE subject_id = $1", number
    )
    assert audited == body["reason"]
    events = await scalar(
        kernel,
        "SELECT array_agg(type ORDER BY seq) FROM kernel.outbox WHERE object_id = $1",
        number,
    )
    assert events == ["surveillance.alert_raised", "surveillance.alert_decided"]
    with pytest.raises(asyncpg.RestrictViolationError):
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(
                "UPDATE surveillance.alert SET reason = 'x' WHERE id = $1", number
            )
