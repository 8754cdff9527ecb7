"""Amendments through the engine and over HTTP: priority, holds, refusals, races, restarts."""

import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.market.matching.factories import (
    Scene,
    cancel,
    eventually,
    footprint,
    money,
    one_row,
    place,
    placed,
    scalar,
    show_order,
    together,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import verified


async def amend(
    client: httpx.AsyncClient,
    member: Member,
    order: dict[str, Any],
    *,
    key: str | None = None,
    **terms: Any,
) -> httpx.Response:
    """PATCH /v1/orders/{id}."""
    return await client.patch(f"/v1/orders/{order['id']}", json=terms, headers=member.headers(key))


async def amended(
    client: httpx.AsyncClient, member: Member, order: dict[str, Any], **terms: Any
) -> dict[str, Any]:
    response = await amend(client, member, order, **terms)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def id_of(order: dict[str, Any]) -> UUID:
    return UUID(order["id"].removeprefix("ord_"))


async def sold_to(client: httpx.AsyncClient, scene: Scene, price: int) -> str:
    """Who buys one lot now: the order that the sell met."""
    sell = await placed(client, scene.seller, scene.body("sell", 1, price, time_in_force="ioc"))
    assert sell["filled_lots"] == 1
    buy: UUID = await scalar(
        scene.kernel,
        "SELECT buy_order_id FROM matching.trade WHERE sell_order_id = $1",
        id_of(sell),
    )
    return show("ord", buy)


async def test_fewer_lots_keep_priority_and_everything_else_loses_it(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    first, second = await scene.buyer(50_000), await scene.buyer(50_000)
    one = await placed(client, first, scene.body("buy", 5, 900))
    two = await placed(client, second, scene.body("buy", 5, 900))
    less = await amended(client, first, one, lots=3)
    assert (less["lots"], less["remaining_lots"], less["amendments"]) == (3, 3, 1)
    assert await money(kernel, first.party_id) == (50_000, 2_700)
    assert await sold_to(client, scene, 900) == one["id"]
    more = await amended(client, first, one, lots=4)
    assert (more["lots"], more["filled_lots"], more["remaining_lots"]) == (4, 1, 3)
    assert await sold_to(client, scene, 900) == two["id"]
    # Away and back: the price was the same, the place is not.
    for price in (890, 900):
        await amended(client, second, two, price_minor=price)
    assert await sold_to(client, scene, 900) == one["id"]
    assert await money(kernel, first.party_id) == (50_000 - 2 * 900, 2 * 900)
    assert await money(kernel, second.party_id) == (50_000 - 900, 4 * 900)
    await verified(kernel)


async def test_the_hold_follows_price_and_lots(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 10, 900))
    # Only 1,000 are free: the old 9,000 count towards the new 9,500.
    await amended(client, buyer, bid, price_minor=950)
    assert await money(kernel, buyer.party_id) == (10_000, 9_500)
    await amended(client, buyer, bid, lots=20, price_minor=500)
    assert await money(kernel, buyer.party_id) == (10_000, 10_000)
    before = await footprint(kernel)
    refused = await amend(client, buyer, bid, lots=21)
    assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_funds")
    assert await footprint(kernel) == before
    seen = await show_order(client, buyer, bid["id"])
    assert (seen["lots"], seen["price_minor"], seen["amendments"]) == (20, 500, 2)
    await amended(client, buyer, bid, lots=1)
    assert await money(kernel, buyer.party_id) == (10_000, 500)
    await verified(kernel)


async def test_an_amendment_may_trade_and_pays_from_its_new_hold(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    for lots, price in ((2, 950), (3, 980)):
        await placed(client, scene.seller, scene.body("sell", lots, price))
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 8, 900))
    found = await amended(client, buyer, bid, price_minor=1_000)
    assert (found["status"], found["filled_lots"]) == ("partially_filled", 5)
    assert found["filled_amount_minor"] == 2 * 950 + 3 * 980
    assert [trade["price_minor"] for trade in found["trades"]] == [950, 980]
    assert await money(kernel, buyer.party_id) == (10_000 - 4_840, 3_000)
    agreements = await scalar(
        kernel, "SELECT count(*) FROM contracts.agreement WHERE buyer_id = $1", buyer.party_id
    )
    assert agreements == 2
    ask = await placed(client, scene.seller, scene.body("sell", 9, 1_200))
    lowered = await amended(client, scene.seller, ask, price_minor=1_000)
    assert (lowered["status"], lowered["filled_lots"]) == ("partially_filled", 3)
    assert (await show_order(client, buyer, bid["id"]))["status"] == "filled"
    assert await money(kernel, buyer.party_id) == (10_000 - 4_840 - 3_000, 0)
    events = await one_row(
        kernel,
        "SELECT array_agg(type ORDER BY seq) AS types FROM kernel.outbox WHERE object_id = $1",
        id_of(bid),
    )
    assert events["types"] == [
        "order.accepted",
        "order.amended",
        "order.partially_filled",
        "order.filled",
    ]
    await verified(kernel)


async def test_no_more_lots_than_filled_cancel_the_rest(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(10_000)
    bid = await placed(client, buyer, scene.body("buy", 5, 900))
    await placed(client, scene.seller, scene.body("sell", 2, 900))
    ended = await amended(client, buyer, bid, lots=2)
    assert (ended["status"], ended["reason"], ended["lots"]) == ("cancelled", "requested", 5)
    assert (ended["filled_lots"], ended["remaining_lots"]) == (2, 0)
    assert await money(kernel, buyer.party_id) == (8_200, 0)
    late = await amend(client, buyer, bid, lots=4)
    assert (late.status_code, late.json()["code"]) == (409, "order_closed")


async def test_refused_amendments_leave_the_order_as_it_was(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", 5, 1_000))
    buyer, other = await scene.buyer(20_000), await scene.buyer(20_000)
    bid = await placed(client, buyer, scene.body("buy", 5, 900, post_only=True))
    before = await footprint(kernel)
    refusals: list[tuple[Member, dict[str, Any], int, str]] = [
        (buyer, {"price_minor": 1_000}, 409, "post_only_would_cross"),
        (other, {"price_minor": 910}, 404, "order_not_found"),
        (buyer, {}, 422, "validation_failed"),
        (buyer, {"lots": 0}, 422, "validation_failed"),
        (buyer, {"side": "sell"}, 422, "validation_failed"),
        (buyer, {"price_minor": 10**15}, 422, "order_too_large"),
        (buyer, {"expires_at": "2020-01-01T00:00:00Z"}, 422, "expiry_out_of_range"),
    ]
    for member, terms, status, code in refusals:
        answer = await amend(client, member, bid, **terms)
        assert (answer.status_code, answer.json()["code"]) == (status, code), terms
    unknown = await amend(client, buyer, {"id": show("ord", UUID(int=5))}, lots=1)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "order_not_found")
    keyless = await client.patch(
        f"/v1/orders/{bid['id']}",
        json={"lots": 4},
        headers={"Authorization": buyer.headers()["Authorization"]},
    )
    assert (keyless.status_code, keyless.json()["code"]) == (400, "idempotency_key_required")
    assert await footprint(kernel) == before
    seen = await show_order(client, buyer, bid["id"])
    assert (seen["lots"], seen["price_minor"], seen["amendments"]) == (5, 900, 0)
    crossing = await amended(client, buyer, bid, price_minor=1_000, post_only=False)
    assert (crossing["status"], crossing["post_only"]) == ("filled", False)


async def test_one_key_amends_once(client: httpx.AsyncClient, kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(20_000)
    bid = await placed(client, buyer, scene.body("buy", 5, 900))
    key = uuid.uuid4().hex
    answers = await together(
        *(amend(client, buyer, bid, key=key, price_minor=950) for _ in range(6))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await show_order(client, buyer, bid["id"]))["amendments"] == 1
    other = await amend(client, buyer, bid, key=key, price_minor=960)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await money(kernel, buyer.party_id) == (20_000, 4_750)


async def test_a_halted_instrument_takes_reductions_only(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(20_000)
    bid = await placed(client, buyer, scene.body("buy", 5, 900))
    operator = await make_party(kernel, Role.OPERATOR)
    halted = await client.post(
        f"/v1/instruments/{scene.plan}/halt",
        json={"reason": "checking"},
        headers=operator.headers(),
    )
    assert halted.status_code == 200, halted.text
    refused = await amend(client, buyer, bid, price_minor=910)
    assert (refused.status_code, refused.json()["code"]) == (409, "instrument_halted")
    assert (await amended(client, buyer, bid, lots=2))["lots"] == 2
    assert await money(kernel, buyer.party_id) == (20_000, 1_800)


async def test_the_date_can_be_put_off_and_drawn_near(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(20_000)
    async with kernel.unit_of_work() as uow:
        soon = uow.now + timedelta(seconds=1)
        later = uow.now + timedelta(days=200)
    kept = await placed(client, buyer, scene.body("buy", 1, 900, expires_at=soon.isoformat()))
    ends = await placed(client, buyer, scene.body("buy", 1, 800, expires_at=later.isoformat()))
    await amended(client, buyer, kept, expires_at=later.isoformat())
    await amended(client, buyer, ends, expires_at=soon.isoformat())
    hold = await one_row(
        kernel,
        "SELECT h.expires_at > $2 AS outlives FROM matching.order o"
        " JOIN settlement.hold h ON h.id = o.hold_id WHERE o.id = $1",
        id_of(kept),
        later,
    )
    assert hold["outlives"] is True

    async def ended() -> bool:
        return bool((await show_order(client, buyer, ends["id"]))["reason"] == "expired")

    await eventually(ended)
    assert (await show_order(client, buyer, kept["id"]))["status"] == "open"
    assert await money(kernel, buyer.party_id) == (20_000, 900)


async def test_amend_and_cancel_race_a_fill(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    """Whatever comes first, the money follows it; both orders of the steps are seen."""
    buyer = await scene.buyer(100_000)
    outcomes = set()
    for number in range(16):
        bid = await placed(client, buyer, scene.body("buy", 2, 1_000))
        jobs = [
            amend(client, buyer, bid, price_minor=900 + number, lots=3),
            place(client, scene.seller, scene.body("sell", 1, 950, time_in_force="ioc")),
        ]
        if number % 2:
            jobs.reverse()
        first, second = await together(*jobs)
        changed, sold = (second, first) if number % 2 else (first, second)
        assert changed.status_code == 200
        seen = await show_order(client, buyer, bid["id"])
        filled = sold.json()["filled_lots"]
        assert (seen["lots"], seen["filled_lots"]) == (3, filled)
        outcomes.add(filled)
        posted, held = await money(kernel, buyer.party_id)
        assert held == (3 - filled) * (900 + number)
        assert (await cancel(client, buyer, bid["id"])).status_code == 200
        assert await money(kernel, buyer.party_id) == (posted, 0)
    assert outcomes == {0, 1}
    await verified(kernel)
