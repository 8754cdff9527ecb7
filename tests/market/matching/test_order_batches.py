"""Many orders in one request, mass cancels, and orders of what is no longer on offer."""

import dataclasses
import uuid
from typing import Any
from uuid import UUID

import httpx
import pytest

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.matching.batch_schemas import OrderBatch, OrderBatchResult
from market.matching.engine import MatchingEngine
from market.matching.errors import EngineBusy
from market.matching.order_batches import submit_batch
from tests.market.matching.factories import (
    Scene,
    eventually,
    footprint,
    money,
    one_row,
    open_scene,
    placed,
    scalar,
    show_order,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import verified


async def submit(
    client: httpx.AsyncClient,
    member: Member,
    items: list[dict[str, Any]],
    *,
    key: str | None = None,
) -> httpx.Response:
    """POST /v1/orders/batch."""
    return await client.post("/v1/orders/batch", json={"items": items}, headers=member.headers(key))


def place_item(body: dict[str, Any]) -> dict[str, Any]:
    return {"op": "place", "order": body}


async def cancel_all(
    client: httpx.AsyncClient, member: Member, *, key: str | None = None, **terms: object
) -> httpx.Response:
    """POST /v1/orders/cancel-all."""
    return await client.post("/v1/orders/cancel-all", json=terms, headers=member.headers(key))


async def test_each_item_succeeds_or_is_refused_by_itself(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await scene.buyer(10_000)
    old = await placed(client, buyer, scene.body("buy", 2, 500))
    kept = await placed(client, buyer, scene.body("buy", 2, 600))
    foreign = await placed(client, await scene.buyer(900), scene.body("buy", 1, 900))
    items = [
        place_item(scene.body("buy", 3, 1_000)),
        {"op": "cancel", "order_id": old["id"]},
        place_item(scene.body("buy", 90, 1_000)),
        {"op": "amend", "order_id": kept["id"], "terms": {"lots": 1}},
        {"op": "cancel", "order_id": foreign["id"]},
        place_item(scene.body("sell", 1, 900)),
        {"op": "cancel", "order_id": show("ord", UUID(int=8))},
    ]
    key = uuid.uuid4().hex
    answer = await submit(client, buyer, items, key=key)
    assert answer.status_code == 200, answer.text
    found = answer.json()["items"]
    assert [item["status"] for item in found] == [201, 200, 402, 200, 404, 403, 404]
    assert [item["index"] for item in found] == list(range(7))
    assert [item["problem"]["code"] for item in found if "problem" in item] == [
        "insufficient_funds",
        "order_not_found",
        "role_required",
        "order_not_found",
    ]
    assert (found[0]["order"]["status"], found[3]["order"]["lots"]) == ("filled", 1)
    assert await money(kernel, buyer.party_id) == (7_000, 600)
    OrderBatchResult.model_validate_json(answer.content)
    before = await footprint(kernel)
    again = await submit(client, buyer, items, key=key)
    assert [item["status"] for item in again.json()["items"]] == [201, 200, 402, 200, 404, 403, 404]
    assert again.json()["items"][0] == found[0]
    assert await footprint(kernel) == before
    await verified(kernel)


async def test_the_same_request_again_repeats_its_bytes(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(100_000)
    items = [place_item(scene.body("buy", 1, 500 + n)) for n in range(100)]
    key = uuid.uuid4().hex
    first = await submit(client, buyer, items, key=key)
    assert {item["status"] for item in first.json()["items"]} == {201}
    again = await submit(client, buyer, items, key=key)
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    before = await footprint(kernel)
    for other in ([*items, items[0]], items[:1]):
        refused = await submit(client, buyer, other, key=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    single = await client.post(
        "/v1/orders", json=scene.body("buy", 1, 500), headers=buyer.headers(key)
    )
    assert (single.status_code, single.json()["code"]) == (422, "idempotency_key_reused")
    assert await footprint(kernel) == before


async def test_what_a_503_left_open_is_carried_out_by_the_same_request(
    app: Any, client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    """A queue for two: the others are told to come again, and then only they are carried out."""
    buyer = await scene.buyer(100_000)
    engine: MatchingEngine = app.state.matching_engine
    body = OrderBatch.model_validate(
        {"items": [place_item(scene.body("buy", 1, 500 + n)) for n in range(5)]}
    )
    actor = dataclasses.replace(buyer.actor)
    key = uuid.uuid4().hex

    async def send() -> OrderBatchResult:
        token = idempotency.set_claim(idempotency.Claim(key, bytes(32), buyer.party_id))
        try:
            answer = await submit_batch(kernel, engine, actor, body, request_id="test")
        finally:
            idempotency.reset_claim(token)
        assert ("Retry-After" in answer.headers) == (EngineBusy.code.encode() in answer.body)
        return OrderBatchResult.model_validate_json(answer.body)

    queue_max, engine._queue_max = engine._queue_max, 2
    try:
        first = await send()
    finally:
        engine._queue_max = queue_max
    assert [item.status for item in first.items] == [201, 201, 503, 503, 503]
    second = await send()
    assert [item.status for item in second.items] == [201] * 5
    assert second.items[:2] == first.items[:2]
    count = await scalar(
        kernel, "SELECT count(*) FROM matching.order WHERE party_id = $1", buyer.party_id
    )
    assert count == 5


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"op": "place"}],
        [{"op": "stop", "order_id": "ord_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"}],
        [{"op": "cancel", "order_id": "pln_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"}],
        [{"op": "cancel", "order_id": "ord_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"}] * 1_001,
    ],
)
async def test_a_malformed_batch_does_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, items: list[dict[str, Any]]
) -> None:
    buyer = await scene.buyer(1_000)
    good = [place_item(scene.body("buy", 1, 500))] if len(items) == 1 else []
    before = await footprint(kernel)
    answer = await submit(client, buyer, good + items)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert await footprint(kernel) == before


async def test_cancel_all_by_instrument_and_side(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    other = await open_scene(kernel)
    buyer, neighbor = await scene.buyer(50_000), await scene.buyer(5_000)
    here = [await placed(client, buyer, scene.body("buy", 1, 900 + n)) for n in range(3)]
    there = await placed(client, buyer, other.body("buy", 1, 900))
    theirs = await placed(client, neighbor, scene.body("buy", 1, 950))
    none = await cancel_all(client, buyer, side="sell")
    assert none.json() == {"cancelled": 0, "remaining": 0, "order_ids": []}
    key = uuid.uuid4().hex
    answer = await cancel_all(client, buyer, key=key, plan_id=scene.plan, side="buy")
    assert answer.status_code == 200, answer.text
    ids = [order["id"] for order in here]
    assert answer.json() == {"cancelled": 3, "remaining": 0, "order_ids": ids}
    again = await cancel_all(client, buyer, key=key, plan_id=scene.plan, side="buy")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answer.content, "true")
    assert await money(kernel, buyer.party_id) == (50_000, 900)
    assert (await show_order(client, buyer, ids[0]))["reason"] == "requested"
    assert (await show_order(client, buyer, there["id"]))["status"] == "open"
    assert (await show_order(client, neighbor, theirs["id"]))["status"] == "open"
    assert (await cancel_all(client, buyer)).json()["order_ids"] == [there["id"]]
    assert await money(kernel, buyer.party_id) == (50_000, 0)


async def test_an_operator_cancels_for_a_party_with_a_reason(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer, other = await scene.buyer(5_000), await scene.buyer()
    operator = await make_party(kernel, Role.OPERATOR)
    bid = await placed(client, buyer, scene.body("buy", 1, 900))
    spy = await cancel_all(client, other, party_id=buyer.id, reason="mine")
    assert (spy.status_code, spy.json()["code"]) == (403, "role_required")
    silent = await cancel_all(client, operator, party_id=buyer.id)
    assert (silent.status_code, silent.json()["code"]) == (422, "reason_missing")
    done = await cancel_all(client, operator, party_id=buyer.id, reason="fat finger")
    assert done.json()["order_ids"] == [bid["id"]]
    assert (await show_order(client, buyer, bid["id"]))["reason"] == "operator"
    entry = await one_row(
        kernel,
        "SELECT action, reason, data->>'cancelled' AS cancelled FROM settlement.operator_action"
        " WHERE subject_id = $1",
        buyer.party_id,
    )
    assert entry == {"action": "market.cancel_all", "reason": "fat finger", "cancelled": "1"}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/v1/plans/{plan}/retire", "plan_retired"),
        ("/v1/listings/{lst}/delist", "listing_not_live"),
    ],
)
async def test_orders_end_when_their_offer_does(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, address: str, reason: str
) -> None:
    buyer = await scene.buyer(5_000)
    ask = await placed(client, scene.seller, scene.body("sell", None, 1_000))
    bid = await placed(client, buyer, scene.body("buy", 2, 900))
    ended = await client.post(
        address.format(plan=scene.plan, lst=show("lst", scene.listing_id)),
        headers=scene.seller.headers(),
    )
    assert ended.status_code == 200, ended.text

    async def freed() -> bool:
        return await money(kernel, buyer.party_id) == (5_000, 0)

    await eventually(freed)
    for member, order in ((buyer, bid), (scene.seller, ask)):
        seen = await show_order(client, member, order["id"])
        assert (seen["status"], seen["reason"]) == ("cancelled", reason)
    await verified(kernel)


async def test_orders_are_found_by_their_client_order_id(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer, other = await scene.buyer(5_000), await scene.buyer(5_000)
    for member in (buyer, other):
        await placed(client, member, scene.body("buy", 1, 900, client_order_id="mine-1"))
    await placed(client, buyer, scene.body("buy", 1, 800))
    found = await client.get(
        "/v1/orders", params={"client_order_id": "mine-1"}, headers=buyer.headers()
    )
    (order,) = found.json()["items"]
    assert (order["party_id"], order["client_order_id"]) == (buyer.id, "mine-1")
