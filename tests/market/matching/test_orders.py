"""Orders over HTTP: what they do to books, money, agreements, and who may see what."""

from uuid import UUID

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.market.matching.factories import (
    Scene,
    cancel,
    escrow_total,
    footprint,
    money,
    one_row,
    open_scene,
    place,
    placed,
    scalar,
    show_order,
)
from tests.market.parties.factories import make_party
from tests.settlement.factories import verified


async def test_a_posted_price_sells_again_and_again(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    escrow_before = await escrow_total(kernel)
    ask = await placed(client, scene.seller, scene.body("sell", None, 1_000))
    assert (ask["status"], ask["remaining_lots"], ask["lots"]) == ("open", None, None)
    buyer = await scene.buyer(10_000)
    order = await placed(client, buyer, scene.body("buy", 3, 1_200))
    assert order["status"] == "filled"
    assert (order["filled_lots"], order["remaining_lots"]) == (3, 0)
    assert (order["filled_amount_minor"], order["average_price_minor"]) == (3_000, 1_000)
    (trade,) = order["trades"]
    assert (trade["lots"], trade["price_minor"]) == (3, 1_000)
    # The hold was 3,600: the improvement is free again, the rest is in escrow.
    assert await money(kernel, buyer.party_id) == (7_000, 0)
    assert await escrow_total(kernel) - escrow_before == 3_000
    again = await placed(client, buyer, scene.body("buy", 7, 1_000))
    assert again["status"] == "filled"
    assert await money(kernel, buyer.party_id) == (0, 0)
    seen = await show_order(client, scene.seller, ask["id"])
    assert (seen["status"], seen["filled_lots"]) == ("partially_filled", 10)
    assert [trade["lots"] for trade in seen["trades"]] == [3, 7]
    await verified(kernel)


async def test_a_trade_forms_agreement_grant_and_events(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 500))
    buyer = await scene.buyer(1_000)
    order = await placed(client, buyer, scene.body("buy", 2, 500))
    agreement_id = UUID(order["trades"][0]["agreement_id"].removeprefix("agr_"))
    trade_id = UUID(order["trades"][0]["trade_id"].removeprefix("trd_"))
    agreement = await one_row(
        kernel, "SELECT * FROM contracts.agreement WHERE id = $1", agreement_id
    )
    grant = await one_row(
        kernel, "SELECT * FROM contracts.access_grant WHERE agreement_id = $1", agreement_id
    )
    observed = await one_row(
        kernel,
        "SELECT price_minor, lots FROM pricing.observation WHERE plan_id = $1",
        scene.plan_id,
    )
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        events = await connection.fetch(
            "SELECT type, parties FROM kernel.outbox WHERE object_id = ANY($1) ORDER BY seq",
            [UUID(order["id"].removeprefix("ord_")), trade_id],
        )
    assert agreement["trade_id"] == trade_id
    assert agreement["total_minor"] == 1_000
    assert (agreement["buyer_id"], agreement["seller_id"]) == (
        buyer.party_id,
        scene.seller.party_id,
    )
    assert grant["granted_units"] == 200
    assert grant["status"] == "active"
    assert observed == {"price_minor": 500, "lots": 2}
    assert sorted(row["type"] for row in events) == [
        "order.accepted",
        "order.filled",
        "trade.executed",
    ]
    for row in events:
        both = row["type"] == "trade.executed"
        expected = {buyer.party_id, scene.seller.party_id} if both else {buyer.party_id}
        assert set(row["parties"]) == expected


async def test_partial_fills_shrink_the_hold_to_what_still_rests(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 10, 900))
    assert (bid["status"], bid["trades"]) == ("open", [])
    assert await money(kernel, buyer.party_id) == (10_000, 9_000)
    sell = await placed(client, scene.seller, scene.body("sell", 4, 800))
    assert (sell["status"], sell["average_price_minor"]) == ("filled", 900)
    assert await money(kernel, buyer.party_id) == (6_400, 5_400)
    seen = await show_order(client, buyer, bid["id"])
    assert (seen["status"], seen["filled_lots"], seen["remaining_lots"]) == (
        "partially_filled",
        4,
        6,
    )
    rest = await placed(client, scene.seller, scene.body("sell", 8, 900))
    assert (rest["status"], rest["remaining_lots"]) == ("partially_filled", 2)
    assert await money(kernel, buyer.party_id) == (1_000, 0)
    assert (await show_order(client, buyer, bid["id"]))["status"] == "filled"
    await verified(kernel)


async def test_a_taker_may_fill_at_several_prices_and_rest(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    for lots, price in ((2, 700), (3, 800)):
        await placed(client, scene.seller, scene.body("sell", lots, price))
    buyer = await scene.buyer(10_000)
    order = await placed(client, buyer, scene.body("buy", 8, 1_000))
    assert (order["status"], order["filled_lots"], order["remaining_lots"]) == (
        "partially_filled",
        5,
        3,
    )
    assert order["filled_amount_minor"] == 2 * 700 + 3 * 800
    assert order["average_price_minor"] == 760
    # 3,800 paid, 3 lots at 1,000 still held.
    assert await money(kernel, buyer.party_id) == (6_200, 3_000)
    answer = await cancel(client, buyer, order["id"])
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["reason"], body["filled_lots"]) == ("cancelled", "requested", 5)
    assert len(body["trades"]) == 2
    assert await money(kernel, buyer.party_id) == (6_200, 0)


async def test_a_market_order_stops_at_its_protection_price(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    for lots, price in ((2, 700), (5, 900)):
        await placed(client, scene.seller, scene.body("sell", lots, price))
    buyer = await scene.buyer(5_000)
    order = await placed(
        client,
        buyer,
        {
            "plan_id": scene.plan,
            "side": "buy",
            "type": "market",
            "lots": 6,
            "protection_price_minor": 800,
        },
    )
    assert (order["status"], order["reason"]) == ("cancelled", "ioc_remainder")
    assert (order["time_in_force"], order["filled_lots"]) == ("ioc", 2)
    assert await money(kernel, buyer.party_id) == (3_600, 0)


async def test_fok_and_post_only_leave_no_money_behind(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", 3, 700))
    buyer = await scene.buyer(10_000)
    killed = await placed(client, buyer, scene.body("buy", 4, 700, time_in_force="fok"))
    assert (killed["status"], killed["reason"]) == ("cancelled", "fok_unfillable")
    refused = await placed(client, buyer, scene.body("buy", 1, 700, post_only=True))
    assert (refused["status"], refused["reason"]) == ("rejected", "post_only_would_cross")
    assert await money(kernel, buyer.party_id) == (10_000, 0)
    filled = await placed(client, buyer, scene.body("buy", 3, 700, time_in_force="fok"))
    assert filled["status"] == "filled"
    assert await money(kernel, buyer.party_id) == (7_900, 0)


async def test_price_then_time_decides(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyers = [await scene.buyer(10_000) for _ in range(3)]
    prices = (900, 950, 950)
    for buyer, price in zip(buyers, prices, strict=True):
        await placed(client, buyer, scene.body("buy", 2, price))
    sell = await placed(client, scene.seller, scene.body("sell", 3, 900, time_in_force="ioc"))
    assert [trade["price_minor"] for trade in sell["trades"]] == [950, 950]
    assert [await money(kernel, buyer.party_id) for buyer in buyers] == [
        (10_000, 1_800),
        (8_100, 0),
        (9_050, 950),
    ]


async def test_an_unfunded_order_is_refused_and_remembered(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await scene.buyer(999)
    before = await footprint(kernel)
    first = await place(client, buyer, scene.body("buy", 1, 1_000), key="unfunded-1")
    assert first.status_code == 402
    assert first.headers["content-type"] == "application/problem+json"
    assert first.json()["code"] == "insufficient_funds"
    again = await place(client, buyer, scene.body("buy", 1, 1_000), key="unfunded-1")
    assert (again.status_code, again.content) == (402, first.content)
    other = await place(client, buyer, scene.body("buy", 1, 999), key="unfunded-1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await footprint(kernel) == before
    assert await money(kernel, buyer.party_id) == (999, 0)


async def test_a_replay_repeats_the_answer_not_the_order(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await scene.buyer(5_000)
    first = await place(client, buyer, scene.body("buy", 2, 1_000), key="replayed-1")
    before = await footprint(kernel)
    again = await place(client, buyer, scene.body("buy", 2, 1_000), key="replayed-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    # The same key of another party is another key.
    stranger = await scene.buyer(5_000)
    theirs = await place(client, stranger, scene.body("buy", 2, 1_000), key="replayed-1")
    assert theirs.json()["id"] != first.json()["id"]
    after = await footprint(kernel)
    assert after["matching.order"] - before["matching.order"] == 1
    assert await money(kernel, buyer.party_id) == (3_000, 0)


async def test_cancel_frees_the_hold_once(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer, stranger = await scene.buyer(5_000), await scene.buyer()
    order = await placed(client, buyer, scene.body("buy", 5, 900))
    before = await footprint(kernel)
    foreign = await cancel(client, stranger, order["id"])
    assert (foreign.status_code, foreign.json()["code"]) == (404, "order_not_found")
    unknown = await cancel(client, buyer, show("ord", UUID(int=7)))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "order_not_found")
    assert await footprint(kernel) == before
    done = await cancel(client, buyer, order["id"])
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")
    assert await money(kernel, buyer.party_id) == (5_000, 0)
    before = await footprint(kernel)
    late = await cancel(client, buyer, order["id"])
    assert (late.status_code, late.json()["code"]) == (409, "order_closed")
    assert (await cancel(client, stranger, order["id"])).status_code == 404
    assert await footprint(kernel) == before


async def test_a_filled_order_cannot_be_cancelled(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", 1, 900))
    buyer = await scene.buyer(5_000)
    order = await placed(client, buyer, scene.body("buy", 1, 900))
    before = await footprint(kernel)
    answer = await cancel(client, buyer, order["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "order_closed")
    assert await footprint(kernel) == before


async def test_who_may_trade(client: httpx.AsyncClient, kernel: Kernel, scene: Scene) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    pending = await make_party(kernel, Role.BUYER, verified=False)
    operator = await make_party(kernel, Role.OPERATOR)
    other_scene = await open_scene(kernel)
    before = await footprint(kernel)
    cases = [
        (both, scene.body("sell", 1, 1_000), 403, "not_the_seller"),
        (scene.seller, scene.body("buy", 1, 1_000), 403, "role_required"),
        (operator, scene.body("buy", 1, 1_000), 403, "role_required"),
        (pending, scene.body("buy", 1, 1_000), 403, "party_not_verified"),
        (other_scene.seller, scene.body("sell", 1, 1_000), 403, "not_the_seller"),
        (both, {**scene.body("buy", 1, 9), "plan_id": show("pln", UUID(int=5))}, 404, None),
    ]
    for member, body, status, code in cases:
        answer = await place(client, member, body)
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] == (code or "plan_not_found")
    anonymous = await client.post(
        "/v1/orders", json=scene.body("buy", 1, 9), headers={"Idempotency-Key": "anonymous-1"}
    )
    assert anonymous.status_code == 401
    assert await footprint(kernel) == before


async def test_affiliates_cannot_buy_from_each_other(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(5_000)
    group = UUID(int=77)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2)",
            group,
            [buyer.party_id, scene.seller.party_id],
        )
    before = await footprint(kernel)
    answer = await place(client, buyer, scene.body("buy", 1, 900))
    assert (answer.status_code, answer.json()["code"]) == (403, "self_trade")
    assert await footprint(kernel) == before


async def test_a_client_order_id_names_one_order_of_a_party(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer, other = await scene.buyer(5_000), await scene.buyer(5_000)
    named = scene.body("buy", 1, 900, client_order_id="my-1")
    order = await placed(client, buyer, named)
    assert order["client_order_id"] == "my-1"
    before = await footprint(kernel)
    answer = await place(client, buyer, named)
    assert (answer.status_code, answer.json()["code"]) == (409, "client_order_id_taken")
    assert await footprint(kernel) == before
    await placed(client, other, named)


BAD_BODIES: list[dict[str, object]] = [
    {"lots": 0},
    {"lots": -1},
    {"lots": 1.5},
    {"lots": "1"},
    {"lots": True},
    {"lots": 10**9 + 1},
    {"lots": None},
    {"price_minor": 0},
    {"price_minor": -5},
    {"price_minor": 10.0},
    {"price_minor": 10**15 + 1},
    {"price_minor": None},
    {"price_minor": "NaN"},
    {"price_minor": 10**15, "lots": 2},
    {"protection_price_minor": 5},
    {"type": "market"},
    {"type": "market", "price_minor": None, "protection_price_minor": 5, "time_in_force": "gtc"},
    {"type": "stop"},
    {"side": "hold"},
    {"time_in_force": "day"},
    {"time_in_force": "ioc", "post_only": True},
    {"time_in_force": "fok", "expires_at": "2099-01-01T00:00:00Z"},
    {"expires_at": "2020-01-01T00:00:00Z"},
    {"expires_at": "2199-01-01T00:00:00Z"},
    {"expires_at": "2099-01-01T00:00:00"},
    {"client_order_id": "x" * 65},
    {"client_order_id": "with space"},
    {"plan_id": "pln_1"},
    {"plan_id": "lst_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"},
    {"unknown_field": 1},
]


async def test_bad_input_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(5_000)
    good = scene.body("buy", 1, 900)
    before = await footprint(kernel)
    for bad in BAD_BODIES:
        answer = await place(client, buyer, {**good, **bad})
        assert answer.status_code == 422, (bad, answer.text)
        assert answer.json()["code"] in ("validation_failed", "expiry_out_of_range"), bad
    for lacking in ("lots", "plan_id", "side", "price_minor"):
        partial = {name: value for name, value in good.items() if name != lacking}
        assert (await place(client, buyer, partial)).status_code == 422, lacking
    raw = await client.post(
        "/v1/orders",
        content=b'{"lots": 1',
        headers={**buyer.headers(), "Content-Type": "application/json"},
    )
    assert (raw.status_code, raw.json()["code"]) == (400, "json_invalid")
    keyless = await client.post(
        "/v1/orders", json=good, headers={"Authorization": buyer.headers()["Authorization"]}
    )
    assert (keyless.status_code, keyless.json()["code"]) == (400, "idempotency_key_required")
    assert await footprint(kernel) == before


async def test_retired_plans_and_suspended_listings_take_no_orders(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(5_000)
    operator = await make_party(kernel, Role.OPERATOR)
    listing = f"/v1/listings/{show('lst', scene.listing_id)}"
    suspended = await client.post(
        f"{listing}/suspend", json={"reason": "checking a complaint"}, headers=operator.headers()
    )
    assert suspended.status_code == 200, suspended.text
    before = await footprint(kernel)
    answer = await place(client, buyer, scene.body("buy", 1, 900))
    assert (answer.status_code, answer.json()["code"]) == (409, "listing_not_live")
    assert await footprint(kernel) == before
    await client.post(f"{listing}/resume", headers=operator.headers())
    retired = await client.post(f"/v1/plans/{scene.plan}/retire", headers=scene.seller.headers())
    assert retired.status_code == 200, retired.text
    before = await footprint(kernel)
    answer = await place(client, buyer, scene.body("buy", 1, 900))
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_retired")
    assert await footprint(kernel) == before


async def test_orders_are_listed_for_their_party_and_the_overseers(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer, other = await scene.buyer(100_000), await scene.buyer()
    regulator = await make_party(kernel, Role.REGULATOR)
    ids = [(await placed(client, buyer, scene.body("buy", 1, 900)))["id"] for _ in range(3)]
    await cancel(client, buyer, ids[0])
    listed = (await client.get("/v1/orders", headers=buyer.headers())).json()
    assert [order["id"] for order in listed["items"]] == ids[::-1]
    first = (await client.get("/v1/orders", params={"limit": 2}, headers=buyer.headers())).json()
    second = (
        await client.get(
            "/v1/orders",
            params={"limit": 2, "after": first["next_after"]},
            headers=buyer.headers(),
        )
    ).json()
    assert [order["id"] for order in first["items"] + second["items"]] == ids[::-1]
    still = await client.get(
        "/v1/orders", params={"status": "open", "plan_id": scene.plan}, headers=buyer.headers()
    )
    assert [order["id"] for order in still.json()["items"]] == ids[:0:-1]
    assert (await client.get("/v1/orders", headers=other.headers())).json()["items"] == []
    hidden = await client.get(f"/v1/orders/{ids[0]}", headers=other.headers())
    assert (hidden.status_code, hidden.json()["code"]) == (404, "order_not_found")
    assert (await show_order(client, regulator, ids[0]))["status"] == "cancelled"
    over = await client.get(
        "/v1/orders", params={"party_id": buyer.id}, headers=regulator.headers()
    )
    assert len(over.json()["items"]) == 3
    spying = await client.get("/v1/orders", params={"party_id": buyer.id}, headers=other.headers())
    assert spying.status_code == 404


async def test_closed_orders_and_trades_never_change(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    import asyncpg

    await placed(client, scene.seller, scene.body("sell", 1, 900))
    buyer = await scene.buyer(5_000)
    order = await placed(client, buyer, scene.body("buy", 1, 900))
    order_id = UUID(order["id"].removeprefix("ord_"))
    for statement, expected in [
        ("UPDATE matching.order SET updated_at = now() WHERE id = $1", "is closed"),
        ("UPDATE matching.order SET price_minor = 1 WHERE id = $1", "is closed"),
        ("UPDATE matching.order SET side = 'buy' WHERE id = $1", "permission denied"),
        ("DELETE FROM matching.order WHERE id = $1", "permission denied"),
        ("UPDATE matching.trade SET lots = 2 WHERE buy_order_id = $1", "permission denied"),
    ]:
        with pytest.raises(asyncpg.PostgresError, match=expected):
            await scalar(kernel, statement, order_id)
