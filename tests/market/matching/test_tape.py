"""The public book and tape over HTTP, and one's own trades."""

from uuid import UUID

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import show
from tests.market.matching.factories import Scene, placed


async def test_the_book_is_public_and_aggregated(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    address = f"/v1/instruments/{scene.plan}/book"
    empty = (await client.get(address)).json()
    assert empty == {
        "plan_id": scene.plan,
        "currency": "CNY",
        "sequence": 0,
        "bids": [],
        "asks": [],
    }
    buyer = await scene.buyer(100_000)
    for lots, price in ((2, 900), (3, 900), (1, 950), (1, 800)):
        await placed(client, buyer, scene.body("buy", lots, price))
    for side_lots, price in ((None, 1_000), (4, 1_000), (2, 1_100)):
        await placed(client, scene.seller, scene.body("sell", side_lots, price))
    book = (await client.get(address)).json()
    assert book["sequence"] == 7
    assert book["bids"] == [
        {"price_minor": 950, "lots": 1, "orders": 1, "unlimited": False},
        {"price_minor": 900, "lots": 5, "orders": 2, "unlimited": False},
        {"price_minor": 800, "lots": 1, "orders": 1, "unlimited": False},
    ]
    assert book["asks"] == [
        {"price_minor": 1_000, "lots": 4, "orders": 2, "unlimited": True},
        {"price_minor": 1_100, "lots": 2, "orders": 1, "unlimited": False},
    ]
    short = (await client.get(address, params={"levels": 1})).json()
    assert [len(short["bids"]), len(short["asks"])] == [1, 1]
    for levels in (0, 101, "x"):
        assert (await client.get(address, params={"levels": levels})).status_code == 422
    missing = await client.get(f"/v1/instruments/{show('pln', UUID(int=9))}/book")
    assert (missing.status_code, missing.json()["code"]) == (404, "plan_not_found")


async def test_the_tape_names_nobody_and_own_trades_tell_all(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer, other = await scene.buyer(100_000), await scene.buyer(100_000)
    orders = [await placed(client, buyer, scene.body("buy", lots, 1_000)) for lots in (1, 2, 3)]
    await placed(client, other, scene.body("buy", 9, 1_000))
    tape = (await client.get("/v1/trades", params={"plan_id": scene.plan})).json()
    assert [trade["lots"] for trade in tape["items"]] == [9, 3, 2, 1]
    for trade in tape["items"]:
        assert (trade["side"], trade["order_id"], trade["agreement_id"]) == (None, None, None)
        assert trade["taker_side"] == "buy"
    pages: list[int] = []
    after = None
    while True:
        page = (
            await client.get(
                "/v1/trades",
                params={"plan_id": scene.plan, "limit": 3, **({"after": after} if after else {})},
            )
        ).json()
        pages += [trade["lots"] for trade in page["items"]]
        after = page["next_after"]
        if not page["has_more"]:
            break
    assert pages == [9, 3, 2, 1]
    mine = (
        await client.get(
            "/v1/trades",
            params={"plan_id": scene.plan, "mine": True},
            headers=buyer.headers(),
        )
    ).json()["items"]
    assert [trade["lots"] for trade in mine] == [3, 2, 1]
    assert mine[0]["agreement_id"] == orders[2]["trades"][0]["agreement_id"]
    assert {trade["side"] for trade in mine} == {"buy"}
    one = await client.get(
        "/v1/trades", params={"order_id": orders[0]["id"]}, headers=buyer.headers()
    )
    assert [trade["lots"] for trade in one.json()["items"]] == [1]
    foreign = await client.get(
        "/v1/trades", params={"order_id": orders[0]["id"]}, headers=other.headers()
    )
    assert foreign.json()["items"] == []
    anonymous = await client.get("/v1/trades", params={"mine": True})
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "token_missing")
    bad = await client.get("/v1/trades", params={"after": "x"})
    assert (bad.status_code, bad.json()["code"]) == (422, "cursor_invalid")
