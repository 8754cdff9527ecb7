"""Call auctions over HTTP: golden scenario G9, indicative prices, leftovers, voids, reopenings."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.parties.schemas import Suspension
from market.parties.verification import suspend_party
from tests.market.matching.control_factories import done, instrument, post, set_rules
from tests.market.matching.factories import (
    Scene,
    escrow_total,
    eventually,
    footprint,
    money,
    place,
    placed,
    scalar,
    show_order,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock, now, verified

# Short of the life of an access token.
SPAN = timedelta(minutes=2)


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def collect(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, scene: Scene
) -> dict[str, Any]:
    """Have the instrument collect from now on; the auction."""
    closes_at = (await now(kernel) + SPAN).isoformat()
    path = f"instruments/{scene.plan}/call-auctions"
    call = await done(client, operator, path, closes_at=closes_at)
    await reached(client, call["id"], "collecting")
    return call


async def reached(client: httpx.AsyncClient, call_id: str, status: str) -> dict[str, Any]:
    """The auction once the engine's tick has brought it to ``status``."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        answer = await client.get(f"/v1/call-auctions/{call_id}")
        assert answer.status_code == 200, answer.text
        found.update(answer.json())
        return bool(found["status"] == status)

    await eventually(there)
    return found


async def close(
    client: httpx.AsyncClient, kernel: Kernel, call: dict[str, Any], status: str = "closed"
) -> dict[str, Any]:
    """Let its time come."""
    await move_clock(kernel, SPAN)
    return await reached(client, call["id"], status)


def auction_only(scene: Scene, side: str, lots: int, price_minor: int) -> dict[str, Any]:
    return scene.body(side, lots, price_minor, time_in_force="auction")


async def test_g9_trades_at_10450(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    """CoinTossX Test1; the market offer of 2,500 is an auction-only one at a price of 1."""
    call = await collect(client, kernel, operator, scene)
    buyers = [await scene.buyer(110_000_000) for _ in range(3)]
    escrow = await escrow_total(kernel)
    bids = [
        await placed(client, buyer, scene.body("buy", lots, price))
        for buyer, lots, price in zip(
            buyers, (10_000, 5_600, 200), (10_550, 10_450, 10_400), strict=True
        )
    ]
    asks = [
        await placed(client, scene.seller, scene.body("sell", lots, price))
        for lots, price in ((6_900, 10_300), (1_000, 10_450), (200, 10_600))
    ]
    asks.append(await placed(client, scene.seller, auction_only(scene, "sell", 2_500, 1)))
    assert {order["status"] for order in (*bids, *asks)} == {"open"}
    seen = (await instrument(client, scene))["call_auction"]
    expected = {"price_minor": 10_450, "volume_lots": 10_400, "surplus_lots": 5_200}
    assert {name: seen[name] for name in expected} == expected
    closed = await close(client, kernel, call)
    assert {name: closed[name] for name in expected} == expected
    trades = (await client.get(f"/v1/trades?plan_id={scene.plan}")).json()["items"]
    assert [trade["price_minor"] for trade in trades] == [10_450] * 4
    assert [trade["lots"] for trade in reversed(trades)] == [2_500, 6_900, 600, 400]
    # Of each pair the later order is the taker; every offer came after every bid.
    assert {trade["taker_side"] for trade in trades} == {"sell"}
    bought = [
        await show_order(client, buyer, bid["id"]) for buyer, bid in zip(buyers, bids, strict=True)
    ]
    assert [order["remaining_lots"] for order in bought] == [0, 5_200, 200]
    sold = [await show_order(client, scene.seller, ask["id"]) for ask in asks]
    assert [order["remaining_lots"] for order in sold] == [0, 0, 200, 0]
    # The first bid held 10,550 a lot and paid 10,450: the improvement is free again.
    assert await money(kernel, buyers[0].party_id) == (110_000_000 - 10_000 * 10_450, 0)
    assert await money(kernel, buyers[1].party_id) == (
        110_000_000 - 400 * 10_450,
        5_200 * 10_450,
    )
    assert await escrow_total(kernel) - escrow == 10_400 * 10_450
    agreements = "SELECT count(*) FROM contracts.agreement WHERE plan_id = $1"
    assert await scalar(kernel, agreements, scene.plan_id) == 4
    view = await instrument(client, scene)
    assert (view["phase"], view["call_auction"], view["reference_minor"]) == (
        "continuous",
        None,
        10_450,
    )
    # The rest trades continuously.
    again = await placed(client, scene.seller, scene.body("sell", 1, 10_450))
    assert again["status"] == "filled"
    await verified(kernel)


async def test_a_posted_price_serves_all_demand(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    ask = await placed(client, scene.seller, scene.body("sell", None, 900))
    call = await collect(client, kernel, operator, scene)
    buyers = [await scene.buyer(100_000) for _ in range(3)]
    for buyer, price in zip(buyers, (1_200, 900, 899), strict=True):
        await placed(client, buyer, scene.body("buy", 7, price))
    seen = (await instrument(client, scene))["call_auction"]
    assert (seen["price_minor"], seen["volume_lots"], seen["surplus_lots"]) == (900, 14, None)
    closed = await close(client, kernel, call)
    assert (closed["price_minor"], closed["volume_lots"], closed["surplus_lots"]) == (900, 14, None)
    assert [await money(kernel, buyer.party_id) for buyer in buyers] == [
        (100_000 - 6_300, 0),
        (100_000 - 6_300, 0),
        (100_000, 7 * 899),
    ]
    seen = await show_order(client, scene.seller, ask["id"])
    assert (seen["status"], seen["filled_lots"], seen["remaining_lots"]) == (
        "partially_filled",
        14,
        None,
    )
    await verified(kernel)


async def test_what_an_auction_leaves_of_its_own_orders_is_cancelled(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(10_000)
    early = await place(client, buyer, auction_only(scene, "buy", 1, 900))
    assert early.status_code == 409
    call = await collect(client, kernel, operator, scene)
    partly = await placed(client, buyer, auction_only(scene, "buy", 5, 900))
    idle = await placed(client, buyer, auction_only(scene, "buy", 1, 100))
    sale = await placed(client, scene.seller, scene.body("sell", 2, 800))
    for body in (
        scene.body("buy", 1, 900, time_in_force="ioc"),
        scene.body("buy", 1, 900, time_in_force="fok"),
        scene.body("buy", 1, 900, post_only=True),
    ):
        assert (await place(client, buyer, body)).status_code == 409
    closed = await close(client, kernel, call)
    # Demand is left at every price from 800 to 900, which pulls it up.
    assert (closed["price_minor"], closed["volume_lots"], closed["surplus_lots"]) == (900, 2, 3)
    ended = [await show_order(client, buyer, order["id"]) for order in (partly, idle)]
    assert [(order["status"], order["reason"], order["filled_lots"]) for order in ended] == [
        ("cancelled", "auction_ended", 2),
        ("cancelled", "auction_ended", 0),
    ]
    assert (await show_order(client, scene.seller, sale["id"]))["status"] == "filled"
    assert await money(kernel, buyer.party_id) == (10_000 - 1_800, 0)
    await verified(kernel)


async def test_nothing_that_crosses_ends_an_auction_without_a_price(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    call = await collect(client, kernel, operator, scene)
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 1, 900))
    await placed(client, scene.seller, scene.body("sell", 1, 901))
    closed = await close(client, kernel, call)
    assert (closed["price_minor"], closed["volume_lots"], closed["surplus_lots"]) == (None,) * 3
    assert (await show_order(client, buyer, bid["id"]))["status"] == "open"


async def test_a_halt_can_end_through_an_auction(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(10_000)
    await placed(client, buyer, scene.body("buy", 2, 900))
    path = f"instruments/{scene.plan}"
    await done(client, operator, f"{path}/halt", "odd prices")
    view = await done(client, operator, f"{path}/resume", "looked into", auction_s=120)
    call = view["call_auction"]
    assert (view["phase"], view["halt"], call["status"], call["reopening"]) == (
        "call",
        None,
        "collecting",
        True,
    )
    sale = await placed(client, scene.seller, scene.body("sell", 2, 880))
    assert sale["status"] == "open"
    # Halted again: nothing enters, nothing closes, and it reopens as it was.
    await done(client, operator, f"{path}/halt", "still odd")
    refused = await place(client, scene.seller, scene.body("sell", 1, 880))
    assert refused.json()["code"] == "instrument_halted"
    await move_clock(kernel, SPAN)
    assert (await instrument(client, scene))["phase"] == "halted"
    await done(client, operator, f"{path}/resume")
    closed = await reached(client, call["id"], "closed")
    assert (closed["volume_lots"], closed["surplus_lots"]) == (2, 0)
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT type FROM kernel.outbox WHERE object_id = $1 AND type LIKE 'call_auction.%'"
            " ORDER BY txid, seq",
            scene.plan_id,
        )
    assert [row["type"].partition(".")[2] for row in rows] == ["opened", "indicative", "closed"]
    await verified(kernel)


async def test_an_auction_outside_of_the_band_is_void_and_halts(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    await placed(client, scene.seller, scene.body("sell", 3, 500))
    await set_rules(client, operator, scene, band_ppm=100_000, reference_minor=500)
    call = await collect(client, kernel, operator, scene)
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 3, 550))
    gone = await placed(client, buyer, auction_only(scene, "buy", 1, 500))
    await set_rules(client, operator, scene, band_ppm=100_000, reference_minor=1_000)
    held = await money(kernel, buyer.party_id)
    assert held == (10_000, 3 * 550 + 500)
    await close(client, kernel, call, "void")
    view = await instrument(client, scene)
    assert view["phase"] == "halted"
    assert "outside of the price band" in view["halt"]["reason"]
    assert (await show_order(client, buyer, bid["id"]))["status"] == "open"
    assert (await show_order(client, buyer, gone["id"]))["reason"] == "auction_ended"
    path = f"instruments/{scene.plan}/resume"
    refused = await post(client, operator, path)
    assert (refused.status_code, refused.json()["code"]) == (409, "book_crossed")
    await set_rules(client, operator, scene)
    view = await done(client, operator, path, auction_s=60)
    closed = await close(client, kernel, view["call_auction"])
    assert closed["volume_lots"] == 3
    await verified(kernel)


async def test_parties_and_listings_are_looked_at_when_it_closes(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    lapsed, sound = await scene.buyer(10_000), await scene.buyer(10_000)
    call = await collect(client, kernel, operator, scene)
    first = await placed(client, lapsed, scene.body("buy", 1, 950))
    await placed(client, sound, scene.body("buy", 1, 900))
    await placed(client, scene.seller, scene.body("sell", 1, 900))
    await suspend_party(kernel, operator.actor, lapsed.party_id, Suspension(reason="a test"))
    closed = await close(client, kernel, call)
    assert (closed["price_minor"], closed["volume_lots"]) == (900, 1)
    seen = await show_order(client, operator, first["id"])
    assert (seen["status"], seen["reason"]) == ("cancelled", "party_not_verified")
    assert await money(kernel, lapsed.party_id) == (10_000, 0)
    assert await money(kernel, sound.party_id) == (9_100, 0)
    again = await collect(client, kernel, operator, scene)
    await suspend_party(kernel, operator.actor, scene.seller.party_id, Suspension(reason="a test"))
    void = await close(client, kernel, again, "void")
    assert void["volume_lots"] is None
    assert "seller" in (await instrument(client, scene))["halt"]["reason"]
    await verified(kernel)


async def test_an_auction_is_scheduled_and_called_off(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    base = await now(kernel)
    path = f"instruments/{scene.plan}/call-auctions"

    def times(opens: timedelta | None, closes: timedelta) -> dict[str, Any]:
        opens_at = None if opens is None else (base + opens).isoformat()
        return {"opens_at": opens_at, "closes_at": (base + closes).isoformat()}

    before = await footprint(kernel)
    for opens, closes in (
        (None, timedelta(days=2)),
        (SPAN, SPAN),
        (2 * SPAN, SPAN),
        (None, -SPAN),
        (timedelta(days=400), timedelta(days=400) + SPAN),
    ):
        refused = await post(client, operator, path, **times(opens, closes))
        assert (refused.status_code, refused.json()["code"]) == (422, "call_times_invalid")
    last = {"opens_at": "9999-12-31T23:59:58Z", "closes_at": "9999-12-31T23:59:59Z"}
    assert (await post(client, operator, path, **last)).json()["param"] == "opens_at"
    assert await footprint(kernel) == before
    call = await done(client, operator, path, **times(SPAN, 2 * SPAN))
    assert (call["status"], call["reopening"]) == ("scheduled", False)
    assert datetime.fromisoformat(call["opens_at"]) == base + SPAN
    assert (await instrument(client, scene))["phase"] == "continuous"
    second = await post(client, operator, path, **times(SPAN, 2 * SPAN))
    assert (second.status_code, second.json()["code"]) == (409, "call_auction_pending")
    cancel_path = f"call-auctions/{call['id']}/cancel"
    assert (await done(client, operator, cancel_path))["status"] == "cancelled"
    again = await post(client, operator, cancel_path)
    assert (again.status_code, again.json()["code"]) == (409, "call_auction_started")
    unknown = await post(client, operator, f"call-auctions/{show('cal', scene.plan_id)}/cancel")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "call_auction_not_found")
    other = await done(client, operator, path, **times(SPAN, 2 * SPAN))
    await move_clock(kernel, SPAN)
    await reached(client, other["id"], "collecting")
    assert (await instrument(client, scene))["phase"] == "call"
    started = await post(client, operator, f"call-auctions/{other['id']}/cancel")
    assert started.json()["code"] == "call_auction_started"
    await move_clock(kernel, SPAN)
    await reached(client, other["id"], "closed")
    listed = (await client.get(f"/v1/{path}")).json()
    assert [item["id"] for item in listed["items"]] == [other["id"], call["id"]]
    forbidden = await post(client, scene.seller, path, **times(None, SPAN))
    assert forbidden.status_code == 403
