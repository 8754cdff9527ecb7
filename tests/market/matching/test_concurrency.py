"""Many callers at once: money and quantities stay exact, each key has one effect."""

import random
import uuid

import httpx

from market.kernel.context import Kernel
from tests.market.matching.factories import (
    Scene,
    cancel,
    footprint,
    money,
    one_row,
    place,
    placed,
    scalar,
    show_order,
    together,
)
from tests.settlement.factories import verified


async def test_a_balance_for_seven_buys_exactly_seven(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await scene.buyer(7_500)
    before = await footprint(kernel)
    answers = await together(
        *(place(client, buyer, scene.body("buy", 1, 1_000)) for _ in range(100))
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] * 7 + [402] * 93
    assert {a.json()["status"] for a in answers if a.status_code == 201} == {"filled"}
    assert {a.json()["code"] for a in answers if a.status_code == 402} == {"insufficient_funds"}
    assert await money(kernel, buyer.party_id) == (500, 0)
    after = await footprint(kernel)
    for table in ("matching.order", "matching.trade", "contracts.agreement"):
        assert after[table] - before[table] == 7
    report = await verified(kernel)
    assert report is not None


async def test_one_key_twenty_times_is_one_order(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await scene.buyer(50_000)
    before = await footprint(kernel)
    key = uuid.uuid4().hex
    answers = await together(
        *(place(client, buyer, scene.body("buy", 2, 1_000), key=key) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    after = await footprint(kernel)
    assert after["matching.order"] - before["matching.order"] == 1
    assert after["matching.trade"] - before["matching.trade"] == 1
    assert await money(kernel, buyer.party_id) == (48_000, 0)
    replays = [answer for answer in answers if "Idempotency-Replayed" in answer.headers]
    assert len(replays) == 19


async def test_one_key_with_two_bodies_at_once(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(50_000)
    key = uuid.uuid4().hex
    answers = await together(
        *(place(client, buyer, scene.body("buy", lots, 900), key=key) for lots in (1, 2))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 422]
    (refused,) = [answer for answer in answers if answer.status_code == 422]
    assert refused.json()["code"] == "idempotency_key_reused"


async def test_cancel_racing_a_fill_frees_or_pays_the_hold_once(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(20_000)
    outcomes = set()
    for number in range(20):
        bid = await placed(client, buyer, scene.body("buy", 1, 1_000))
        jobs = [
            cancel(client, buyer, bid["id"]),
            place(client, scene.seller, scene.body("sell", 1, 1_000, time_in_force="ioc")),
        ]
        if number % 2:
            jobs.reverse()
        first, second = await together(*jobs)
        cancelled, sold = (second, first) if number % 2 else (first, second)
        seen = await show_order(client, buyer, bid["id"])
        if cancelled.status_code == 200:
            assert seen["status"] == "cancelled"
            assert sold.json()["status"] == "cancelled"
        else:
            assert cancelled.json()["code"] == "order_closed"
            assert seen["status"] == sold.json()["status"] == "filled"
        outcomes.add(seen["status"])
    assert outcomes == {"cancelled", "filled"}
    bought = await scalar(
        kernel,
        "SELECT sum(amount_minor)::bigint FROM matching.trade WHERE buyer_id = $1",
        buyer.party_id,
    )
    assert await money(kernel, buyer.party_id) == (20_000 - bought, 0)
    await verified(kernel)


async def test_any_mix_conserves_money_and_lots(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    """Seeded, so a failure repeats: 300 orders and cancels of six buyers, eight at a time."""
    dice = random.Random(20_240_607)
    buyers = [await scene.buyer(40_000) for _ in range(6)]
    resting: list[tuple[int, str]] = []

    async def step() -> None:
        draw = dice.random()
        price = 900 + 20 * dice.randrange(11)
        if draw < 0.2 and resting:
            who, order_id = resting.pop(dice.randrange(len(resting)))
            member = scene.seller if who < 0 else buyers[who]
            assert (await cancel(client, member, order_id)).status_code in (200, 409)
            return
        tif = dice.choice(["gtc", "gtc", "ioc", "fok"])
        who = -1 if draw > 0.6 else dice.randrange(6)
        member, side = (scene.seller, "sell") if who < 0 else (buyers[who], "buy")
        body = scene.body(side, dice.randint(1, 6), price, time_in_force=tif)
        answer = await place(client, member, body)
        assert answer.status_code in (201, 402)
        if answer.status_code == 201 and answer.json()["remaining_lots"]:
            resting.append((who, answer.json()["id"]))

    for _ in range(38):
        await together(*(step() for _ in range(8)))
    sums = await one_row(
        kernel,
        """
            SELECT (SELECT sum(filled_lots) FROM matching.order
                    WHERE plan_id = $1 AND side = 'buy') AS bought,
                   (SELECT sum(filled_lots) FROM matching.order
                    WHERE plan_id = $1 AND side = 'sell') AS sold,
                   (SELECT sum(lots) FROM matching.trade WHERE plan_id = $1) AS traded,
                   (SELECT sum(amount_minor) FROM matching.trade WHERE plan_id = $1) AS paid,
                   (SELECT sum(a.posted) FROM settlement.account a
                    JOIN matching.trade t ON t.agreement_id = a.owner
                    WHERE t.plan_id = $1) AS escrow
            """,
        scene.plan_id,
    )
    async with kernel.unit_of_work() as uow:
        reserved = {
            row["party_id"]: int(row["reserved"])
            for row in await (await uow.raw()).fetch(
                "SELECT party_id, sum((lots - filled_lots) * price_minor) AS reserved"
                " FROM matching.order WHERE side = 'buy' AND closed_at IS NULL GROUP BY party_id"
            )
        }
    assert sums["bought"] == sums["sold"] == sums["traded"] > 0
    assert sums["paid"] == sums["escrow"]
    spent = 0
    for buyer in buyers:
        posted, held = await money(kernel, buyer.party_id)
        assert held == reserved.get(buyer.party_id, 0)
        spent += 40_000 - posted
    assert spent == sums["paid"]
    crossed = await scalar(
        kernel,
        "SELECT max(price_minor) FILTER (WHERE side = 'buy')"
        " >= min(price_minor) FILTER (WHERE side = 'sell')"
        " FROM matching.order WHERE plan_id = $1 AND closed_at IS NULL",
        scene.plan_id,
    )
    assert not crossed
    await verified(kernel)
