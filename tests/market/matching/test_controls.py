"""Operators' controls over HTTP: rules, halts, kill switch, quotas, and what they leave behind."""

from uuid import UUID

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.market.matching.control_factories import done, instrument, party, post, set_rules
from tests.market.matching.factories import (
    Scene,
    cancel,
    footprint,
    money,
    one_row,
    open_scene,
    place,
    placed,
    scalar,
    show_order,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import verified


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def test_an_instrument_without_decisions_takes_everything(
    client: httpx.AsyncClient, scene: Scene
) -> None:
    assert await instrument(client, scene) == {
        "plan_id": scene.plan,
        "listing_id": show("lst", scene.listing_id),
        "currency": "CNY",
        "phase": "continuous",
        "halt": None,
        "market_halt": None,
        "rules": {
            "tick_minor": 1,
            "lot_step": 1,
            "lots_min": 1,
            "lots_max": 1_000_000_000,
            "band_ppm": None,
            "band_action": "refuse",
            "reopen_s": 300,
        },
        "reference_minor": 1_000,
        "band": None,
        "last_trade_minor": None,
        "last_traded_at": None,
        "call_auction": None,
    }


@pytest.mark.parametrize(
    ("order", "code", "param"),
    [
        ({"price_minor": 1_001}, "price_off_tick", "price_minor"),
        ({"lots": 12}, "lots_off_step", "lots"),
        ({"lots": 5}, "too_few_lots", "lots"),
        ({"lots": 105}, "too_many_lots", "lots"),
        ({"price_minor": 1_105}, "price_outside_band", "price_minor"),
        ({"price_minor": 895}, "price_outside_band", "price_minor"),
        (
            {"type": "market", "price_minor": None, "protection_price_minor": 1_105},
            "price_outside_band",
            "protection_price_minor",
        ),
    ],
)
async def test_an_order_that_breaks_a_rule_changes_nothing(
    client: httpx.AsyncClient,
    kernel: Kernel,
    scene: Scene,
    operator: Member,
    order: dict[str, object],
    code: str,
    param: str,
) -> None:
    await set_rules(
        client,
        operator,
        scene,
        tick_minor=5,
        lot_step=5,
        lots_min=10,
        lots_max=100,
        band_ppm=100_000,
    )
    buyer = await scene.buyer(1_000_000)
    before = await footprint(kernel)
    body = {**scene.body("buy", 10, 1_000), **order}
    refused = await place(client, buyer, {name: v for name, v in body.items() if v is not None})
    assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (
        422,
        code,
        param,
    )
    assert await footprint(kernel) == before
    edge = await placed(client, buyer, scene.body("buy", 100, 1_100))
    assert edge["status"] == "open"


async def test_rules_are_recorded_with_their_reason(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    found = await set_rules(client, operator, scene, tick_minor=10, band_ppm=50_000)
    assert found["rules"]["tick_minor"] == 10
    assert found["band"] == {"low_minor": 950, "high_minor": 1_050}
    assert await instrument(client, scene) == found
    row = await one_row(
        kernel,
        "SELECT seq, action, reason, actor_id FROM matching.control WHERE subject_id = $1",
        scene.plan_id,
    )
    assert (row["action"], row["reason"], row["actor_id"]) == (
        "set_rules",
        "a test",
        operator.party_id,
    )
    listed = await client.get("/v1/operator-actions", headers=operator.headers())
    (entry,) = [item for item in listed.json()["items"] if item["subject_id"] == str(scene.plan_id)]
    assert (entry["action"], entry["reason"], entry["data"]["seq"]) == (
        "market.set_rules",
        "a test",
        row["seq"],
    )
    with pytest.raises(Exception, match=r"append-only|permission denied"):
        await scalar(kernel, "UPDATE matching.control SET reason = 'x' RETURNING seq")


async def test_the_band_follows_trades_and_operators(
    client: httpx.AsyncClient, scene: Scene, operator: Member
) -> None:
    await set_rules(client, operator, scene, band_ppm=100_000)
    await placed(client, scene.seller, scene.body("sell", 1, 1_100))
    buyer = await scene.buyer(1_000_000)
    await placed(client, buyer, scene.body("buy", 1, 1_100))
    seen = await instrument(client, scene)
    assert (seen["reference_minor"], seen["last_trade_minor"]) == (1_100, 1_100)
    assert seen["band"] == {"low_minor": 990, "high_minor": 1_210}
    await placed(client, buyer, scene.body("buy", 1, 1_210))
    too_low = await place(client, buyer, scene.body("buy", 1, 989))
    assert too_low.json()["code"] == "price_outside_band"
    # An operator's reference counts until the next trade; rules without one leave it.
    await set_rules(client, operator, scene, band_ppm=100_000, reference_minor=2_000)
    seen = await set_rules(client, operator, scene, band_ppm=200_000)
    assert (seen["reference_minor"], seen["band"]["low_minor"]) == (2_000, 1_600)
    assert await instrument(client, scene) == seen


async def test_no_trade_happens_outside_of_the_band(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    await placed(client, scene.seller, scene.body("sell", 1, 1_000))
    await set_rules(client, operator, scene, band_ppm=100_000, reference_minor=2_000)
    buyer = await scene.buyer(1_000_000)
    before = await footprint(kernel)
    refused = await place(client, buyer, scene.body("buy", 1, 1_800))
    assert (refused.status_code, refused.json()["code"]) == (409, "trade_outside_band")
    assert await footprint(kernel) == before
    # The other side of the old offer: a seller meets no bid, so its order may rest.
    await placed(client, scene.seller, scene.body("sell", 1, 2_100))


async def test_a_halted_instrument_takes_cancels_only(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    other = await open_scene(kernel)
    buyer = await scene.buyer(10_000)
    resting = await placed(client, buyer, scene.body("buy", 2, 900))
    path = f"instruments/{scene.plan}"
    found = await done(client, operator, f"{path}/halt", "odd prices")
    assert (found["phase"], found["halt"]["reason"]) == ("halted", "odd prices")
    again = await post(client, operator, f"{path}/halt")
    assert (again.status_code, again.json()["code"]) == (409, "already_halted")
    before = await footprint(kernel)
    refused = await place(client, scene.seller, scene.body("sell", 2, 900))
    assert (refused.status_code, refused.json()["code"]) == (409, "instrument_halted")
    assert refused.json()["detail"] == "odd prices"
    assert await footprint(kernel) == before
    await placed(client, other.seller, other.body("sell", 2, 900))
    assert (await cancel(client, buyer, resting["id"])).status_code == 200
    assert await money(kernel, buyer.party_id) == (10_000, 0)
    assert (await done(client, operator, f"{path}/resume"))["phase"] == "continuous"
    not_halted = await post(client, operator, f"{path}/resume")
    assert (not_halted.status_code, not_halted.json()["code"]) == (409, "not_halted")
    await placed(client, scene.seller, scene.body("sell", 2, 900))
    assert (await placed(client, buyer, scene.body("buy", 2, 900)))["status"] == "filled"
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT type, parties FROM kernel.outbox WHERE object_id = $1 AND type LIKE $2"
            " ORDER BY seq",
            scene.plan_id,
            "instrument.%",
        )
    assert [row["type"] for row in rows] == ["instrument.halted", "instrument.resumed"]
    assert set(rows[0]["parties"]) == {scene.seller.party_id, buyer.party_id}


async def test_the_market_halts_and_resumes_as_a_whole(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    other = await open_scene(kernel)
    buyer = await scene.buyer(10_000)
    await done(client, operator, f"instruments/{other.plan}/halt")
    found = await done(client, operator, "market/halt", "fire drill")
    try:
        assert found["halt"]["reason"] == "fire drill"
        for each in (scene, other):
            refused = await place(client, buyer, each.body("buy", 1, 900))
            assert (refused.status_code, refused.json()["code"]) == (409, "market_halted")
            assert (await instrument(client, each))["phase"] == "halted"
        assert (await client.get("/v1/market")).json() == found
    finally:
        assert (await done(client, operator, "market/resume"))["halt"] is None
    assert (await placed(client, buyer, scene.body("buy", 1, 900)))["status"] == "open"
    # Its own halt is still on.
    refused = await place(client, buyer, other.body("buy", 1, 900))
    assert refused.json()["code"] == "instrument_halted"


async def test_the_kill_switch_cancels_and_refuses(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    other = await open_scene(kernel)
    buyer, neighbor = await scene.buyer(10_000), await scene.buyer(10_000)
    resting = [
        await placed(client, buyer, each.body("buy", 2, price))
        for each in (scene, other)
        for price in (800, 900)
    ]
    kept = await placed(client, neighbor, scene.body("buy", 1, 850))
    assert await money(kernel, buyer.party_id) == (10_000, 6_800)
    found = await done(client, operator, f"{party(buyer)}/block-trading", "runaway bot")
    assert found["block"]["reason"] == "runaway bot"
    assert await money(kernel, buyer.party_id) == (10_000, 0)
    for order in resting:
        seen = await show_order(client, buyer, order["id"])
        assert (seen["status"], seen["reason"]) == ("cancelled", "trading_blocked")
    assert (await show_order(client, neighbor, kept["id"]))["status"] == "open"
    before = await footprint(kernel)
    refused = await place(client, buyer, scene.body("buy", 1, 900))
    assert (refused.status_code, refused.json()["code"]) == (403, "trading_blocked")
    assert await footprint(kernel) == before
    again = await post(client, operator, f"{party(buyer)}/block-trading")
    assert again.json()["code"] == "already_blocked"
    shown = await client.get(f"/v1/{party(buyer)}/trading", headers=buyer.headers())
    assert shown.json() == found
    hidden = await client.get(f"/v1/{party(buyer)}/trading", headers=neighbor.headers())
    assert hidden.status_code == 404
    await done(client, operator, f"{party(buyer)}/unblock-trading")
    assert (await post(client, operator, f"{party(buyer)}/unblock-trading")).json()["code"] == (
        "not_blocked"
    )
    assert (await placed(client, buyer, scene.body("buy", 1, 900)))["status"] == "open"
    await verified(kernel)


async def test_open_orders_have_a_quota_per_party_and_instrument(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    other = await open_scene(kernel)
    buyer = await scene.buyer(100_000)
    quota = await client.put(
        f"/v1/{party(buyer)}/trading-quota",
        json={"open_orders_max": 2, "reason": "small firm"},
        headers=operator.headers(),
    )
    assert (quota.json()["open_orders_max"], quota.json()["messages_per_s"]) == (2, 5_000)
    first = await placed(client, buyer, scene.body("buy", 1, 900))
    await placed(client, buyer, scene.body("buy", 1, 800))
    before = await footprint(kernel)
    refused = await place(client, buyer, scene.body("buy", 1, 700))
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_open_orders")
    assert refused.json()["limit"] == 2
    assert await footprint(kernel) == before
    await placed(client, buyer, other.body("buy", 1, 700))
    await cancel(client, buyer, first["id"])
    await placed(client, buyer, scene.body("buy", 1, 700))


async def test_messages_have_a_quota_per_second(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(100_000)
    await client.put(
        f"/v1/{party(buyer)}/trading-quota",
        json={"messages_per_s": 1, "reason": "small firm"},
        headers=operator.headers(),
    )
    first = await placed(client, buyer, scene.body("buy", 1, 900))
    refused = await cancel(client, buyer, first["id"])
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_messages")
    assert refused.headers["retry-after"] == "1"
    assert (await show_order(client, buyer, first["id"]))["status"] == "open"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "instruments/{plan}/rules", {}),
        ("POST", "instruments/{plan}/halt", {}),
        ("POST", "instruments/{plan}/resume", {}),
        ("POST", "market/halt", {}),
        ("POST", "market/resume", {}),
        ("POST", "parties/{party}/block-trading", {}),
        ("POST", "parties/{party}/unblock-trading", {}),
        ("PUT", "parties/{party}/trading-quota", {}),
    ],
)
async def test_only_operators_decide_and_always_with_a_reason(
    client: httpx.AsyncClient,
    kernel: Kernel,
    scene: Scene,
    operator: Member,
    method: str,
    path: str,
    body: dict[str, object],
) -> None:
    known = {"plan": scene.plan, "party": show("pty", scene.seller.party_id)}
    before = await scalar(kernel, "SELECT count(*) FROM matching.control")
    for member, sent, status in (
        (scene.seller, {"reason": "mine", **body}, 403),
        (operator, body, 422),
        (operator, {"reason": " ", **body}, 422),
    ):
        answer = await client.request(
            method, f"/v1/{path.format(**known)}", json=sent, headers=member.headers()
        )
        assert answer.status_code == status, answer.text
    unknown = {"plan": show("pln", UUID(int=1)), "party": show("pty", UUID(int=1))}
    if "{" in path:
        answer = await client.request(
            method,
            f"/v1/{path.format(**unknown)}",
            json={"reason": "who?", **body},
            headers=operator.headers(),
        )
        assert answer.status_code == 404, answer.text
    assert await scalar(kernel, "SELECT count(*) FROM matching.control") == before
