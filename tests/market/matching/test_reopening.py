"""A trade that would leave the price band, where the rules say: collect for a call auction."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.market.matching.bundle_factories import leg, refused
from tests.market.matching.control_factories import done, instrument, set_rules
from tests.market.matching.factories import (
    Scene,
    footprint,
    money,
    open_scene,
    place,
    placed,
    scalar,
    show_order,
    together,
)
from tests.market.matching.test_call_auctions import reached
from tests.market.matching.test_replay import prove
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock, now, verified

REOPEN: dict[str, Any] = {"band_ppm": 100_000, "band_action": "reopen", "reopen_s": 60}


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def stale_ask(
    client: httpx.AsyncClient, operator: Member, scene: Scene, **rules: object
) -> dict[str, Any]:
    """An ask of 5 lots at 1,000, and a band of 1,800 to 2,200 that came after it."""
    ask = await placed(client, scene.seller, scene.body("sell", 5, 1_000))
    await set_rules(client, operator, scene, **{**REOPEN, "reference_minor": 2_000, **rules})
    return ask


async def test_the_order_is_collected_and_trades_at_the_auctions_price(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    ask = await stale_ask(client, operator, scene)
    shown = await instrument(client, scene)
    assert (shown["rules"]["band_action"], shown["rules"]["reopen_s"]) == ("reopen", 60)
    buyer = await scene.buyer(10_000)
    began = await now(kernel)
    bid = await placed(client, buyer, scene.body("buy", 3, 2_100))
    assert (bid["status"], bid["trades"]) == ("open", [])
    seen = await instrument(client, scene)
    call = seen["call_auction"]
    assert (seen["phase"], call["status"], call["reopening"]) == ("call", "collecting", True)
    # More is offered than wanted: pressure takes the price down, the band holds for it.
    late = await placed(client, scene.seller, scene.body("sell", 4, 1_900))
    assert late["status"] == "open"
    more = await placed(client, await scene.buyer(20_000), scene.body("buy", 4, 2_000))
    assert more["status"] == "open"
    told = await scalar(
        kernel,
        "SELECT data->>'reason' FROM kernel.outbox WHERE type = 'call_auction.opened' "
        "AND data->>'call_auction_id' = $1",
        call["id"],
    )
    assert told == "A trade would leave the price band, 1800 to 2200."
    by_engine = await scalar(
        kernel,
        "SELECT count(*) FROM matching.control WHERE topic = 'call' AND actor_id IS NULL "
        "AND subject_id = $1 AND at >= $2",
        scene.plan_id,
        began,
    )
    assert by_engine == 1
    await move_clock(kernel, timedelta(seconds=61))
    closed = await reached(client, call["id"], "closed")
    assert (closed["price_minor"], closed["volume_lots"]) == (1_900, 7)
    assert (await show_order(client, buyer, bid["id"]))["status"] == "filled"
    assert (await show_order(client, scene.seller, ask["id"]))["status"] == "filled"
    assert await money(kernel, buyer.party_id) == (10_000 - 3 * 1_900, 0)
    after = await instrument(client, scene)
    assert (after["phase"], after["reference_minor"]) == ("continuous", 1_900)
    assert (await prove(kernel, scene)).diverged is None
    await verified(kernel)


async def test_a_price_outside_of_the_band_halts_until_an_operator_resumes(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    """The band moved away from both sides: there is no price inside of it."""
    await stale_ask(client, operator, scene)
    await placed(client, await scene.buyer(10_000), scene.body("buy", 2, 2_000))
    call = (await instrument(client, scene))["call_auction"]
    await set_rules(client, operator, scene, **{**REOPEN, "reference_minor": 5_000})
    await move_clock(kernel, timedelta(seconds=61))
    await reached(client, call["id"], "void")
    seen = await instrument(client, scene)
    assert (seen["phase"], seen["call_auction"]) == ("halted", None)
    assert seen["halt"]["reason"].startswith("The call auction is void")


async def test_who_could_not_trade_interrupts_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    await stale_ask(client, operator, scene)
    rich, poor = await scene.buyer(1_000_000), await scene.buyer(10)
    other = await open_scene(kernel)
    await placed(client, other.seller, other.body("sell", 5, 500))
    before = await footprint(kernel)
    short = await place(client, poor, scene.body("buy", 1, 2_000))
    assert (short.status_code, short.json()["code"]) == (402, "insufficient_funds")
    for terms in (
        {"time_in_force": "ioc"},
        {"time_in_force": "fok"},
        {"post_only": True},
        {"min_lots": 1},
    ):
        answer = await place(client, rich, scene.body("buy", 1, 2_000, **terms))
        assert (answer.status_code, answer.json()["code"]) == (409, "trade_outside_band"), terms
    legs = (leg(scene, "buy", 1, 2_000), leg(other, "buy", 1, 500))
    problem = await refused(client, kernel, rich, *legs)
    assert problem["code"] == "trade_outside_band"
    assert await footprint(kernel) == before
    assert (await instrument(client, scene))["phase"] == "continuous"


async def test_a_scheduled_auction_and_the_plain_rule_refuse_as_before(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    await stale_ask(client, operator, scene)
    opens_at = await now(kernel) + timedelta(hours=1)
    closes_at = opens_at + timedelta(minutes=5)
    call = await done(
        client,
        operator,
        f"instruments/{scene.plan}/call-auctions",
        opens_at=opens_at.isoformat(),
        closes_at=closes_at.isoformat(),
    )
    buyer = await scene.buyer(100_000)

    async def answered() -> tuple[int, str]:
        answer = await place(client, buyer, scene.body("buy", 1, 2_000))
        found = answer.json()
        return answer.status_code, found.get("code") or found["status"]

    assert await answered() == (409, "trade_outside_band")
    await done(client, operator, f"call-auctions/{call['id']}/cancel")
    await set_rules(client, operator, scene, band_ppm=100_000)
    assert await answered() == (409, "trade_outside_band")
    await set_rules(client, operator, scene, **REOPEN)
    assert await answered() == (201, "open")


async def test_many_at_once_open_one_auction_each(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    """Two instruments in one batch, with orders of a third that trade as if nothing was."""
    second, calm = await open_scene(kernel), await open_scene(kernel)
    for each in (scene, second):
        await stale_ask(client, operator, each)
    await placed(client, calm.seller, calm.body("sell", 9, 500))
    buyer = await scene.buyer(100_000)
    answers = await together(
        *(
            place(client, buyer, each.body("buy", 1, price))
            for _ in range(3)
            for each, price in ((scene, 2_000), (calm, 500), (second, 2_000))
        )
    )
    assert [answer.status_code for answer in answers] == [201] * 9
    assert [answer.json()["status"] for answer in answers] == ["open", "filled", "open"] * 3
    for each in (scene, second):
        answer = await client.get(f"/v1/instruments/{each.plan}/call-auctions")
        assert [call["status"] for call in answer.json()["items"]] == ["collecting"]
    assert await money(kernel, buyer.party_id) == (98_500, 6 * 2_000)
    for each in (scene, second, calm):
        assert (await prove(kernel, each)).diverged is None


async def test_reopening_needs_a_band(
    client: httpx.AsyncClient, scene: Scene, operator: Member
) -> None:
    for rules in ({"band_action": "reopen"}, {**REOPEN, "reopen_s": 0}):
        answer = await client.put(
            f"/v1/instruments/{scene.plan}/rules",
            json={**rules, "reason": "a test"},
            headers=operator.headers(),
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
