"""Bundles over HTTP: what they trade, what refuses them, who sees them."""

import uuid
from typing import Any
from uuid import UUID

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.matching.bundle_schemas import BundleView
from tests.listings.factories import make_listing
from tests.market.matching.bundle_factories import (
    Pair,
    leg,
    open_pair,
    refused,
    send,
    sent,
    traces,
)
from tests.market.matching.control_factories import done, party, set_rules
from tests.market.matching.factories import (
    Scene,
    eventually,
    money,
    one_row,
    placed,
    scalar,
    show_order,
    together,
)
from tests.market.matching.resale_factories import (
    counts,
    holder_of,
    offer,
    open_resale_scene,
)
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, verified


@pytest.fixture
async def pair(kernel: Kernel) -> Pair:
    return await open_pair(kernel)


async def ask(
    client: httpx.AsyncClient, scene: Scene, lots: int | None, price: int
) -> dict[str, Any]:
    return await placed(client, scene.seller, scene.body("sell", lots, price))


async def test_all_legs_fill_at_their_best_prices_in_one_transaction(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    await ask(client, pair.one, 2, 900)
    await ask(client, pair.one, 5, 950)
    posted = await ask(client, pair.two, None, 2_000)
    # Exactly what the legs cost, not what they could have cost.
    buyer = await pair.one.buyer(2 * 900 + 950 + 2 * 2_000)
    legs = [leg(pair.one, "buy", 3, 1_000), leg(pair.two, "buy", 2, 3_000)]
    made = await sent(client, buyer, *legs, cost_max_minor=6_750, client_order_id="first")
    assert (made["cost_minor"], made["cost_max_minor"], made["currency"]) == (6_750, 6_750, "CNY")
    assert [order["filled_amount_minor"] for order in made["legs"]] == [2_750, 4_000]
    assert {order["status"] for order in made["legs"]} == {"filled"}
    assert {order["bundle_id"] for order in made["legs"]} == {made["id"]}
    assert [order["id"] for order in made["legs"]] == made["order_ids"]
    assert [len(order["trades"]) for order in made["legs"]] == [2, 1]
    assert await money(kernel, buyer.party_id) == (0, 0)
    assert BundleView.model_validate(made).order_ids
    headers = buyer.headers()
    shown = await client.get(f"/v1/bundles/{made['id']}", headers=headers)
    assert shown.json() == made
    assert await show_order(client, buyer, made["order_ids"][1]) == made["legs"][1]
    assert (await show_order(client, pair.two.seller, posted["id"]))["bundle_id"] is None
    transactions = await one_row(
        kernel,
        "SELECT count(DISTINCT xmin::text) AS written, count(*) AS orders "
        'FROM matching."order" WHERE bundle_id = $1',
        UUID(made["id"].removeprefix("bnd_")),
    )
    assert transactions == {"written": 1, "orders": 2}
    await verified(kernel)


async def test_trades_and_events_tell_the_bundle_to_its_own_party_only(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    await ask(client, pair.one, 1, 900)
    await ask(client, pair.two, 1, 900)
    buyer = await pair.one.buyer(1_800)
    made = await sent(client, buyer, leg(pair.one, "buy", 1, 900), leg(pair.two, "buy", 1, 900))
    for member, expected in ((buyer, made["id"]), (pair.one.seller, None)):
        answer = await client.get(
            "/v1/trades", params={"mine": True, "plan_id": pair.one.plan}, headers=member.headers()
        )
        assert [trade["bundle_id"] for trade in answer.json()["items"]] == [expected]
    tape = await client.get("/v1/trades", params={"plan_id": pair.one.plan})
    assert tape.json()["items"][0]["bundle_id"] is None
    told = await one_row(
        kernel,
        "SELECT array_agg(parties::text) AS parties FROM kernel.outbox "
        "WHERE type = 'bundle.filled' AND data->>'bundle_id' = $1",
        made["id"],
    )
    assert told["parties"] == [f"{{{buyer.party_id}}}"]
    named = await scalar(
        kernel,
        "SELECT count(*) FROM kernel.outbox WHERE data::text LIKE '%' || $1 || '%' "
        "AND NOT $2::uuid = ANY(parties)",
        made["id"],
        buyer.party_id,
    )
    assert named == 0


async def test_one_leg_that_is_short_moves_nothing(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    await ask(client, pair.one, 5, 900)
    await ask(client, pair.two, 2, 900)
    await ask(client, pair.two, 2, 1_100)
    buyer = await pair.one.buyer(100_000)
    legs = (leg(pair.one, "buy", 5, 900), leg(pair.two, "buy", 3, 1_000))
    problem = await refused(client, kernel, buyer, *legs)
    assert (problem["status"], problem["code"]) == (409, "bundle_unfillable")
    assert (problem["param"], problem["tradable_lots"]) == ("legs.1.lots", 2)
    dear = (leg(pair.one, "buy", 5, 900), leg(pair.two, "buy", 3, 1_100))
    problem = await refused(client, kernel, buyer, *dear, cost_max_minor=7_399)
    assert (problem["status"], problem["code"]) == (409, "bundle_too_expensive")
    assert problem["cost_minor"] == 7_400
    assert (await sent(client, buyer, *dear, cost_max_minor=7_400))["cost_minor"] == 7_400


async def test_what_is_sold_counts_against_the_limit_but_pays_for_nothing(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    """Proceeds lie in escrow, so a bundle that earns still needs the money of what it buys."""
    bought, sold = await open_pair(kernel), await open_resale_scene(kernel)
    holder = await holder_of(client, sold, 4)
    await ask(client, bought.one, 9, 500)
    wanted = await sold.buyer(10_000)
    await placed(client, wanted, sold.body("buy", 3, 1_200))
    legs = (
        leg(sold, "sell", 3, 1_100, grant_id=holder.grant),
        leg(bought.one, "buy", 2, 600),
    )
    problem = await refused(client, kernel, holder.member, *legs)
    assert (problem["status"], problem["code"]) == (402, "insufficient_funds")
    assert problem["required_minor"] == 1_000
    await fund(kernel, holder.member.party_id, 1_000)
    problem = await refused(client, kernel, holder.member, *legs, cost_max_minor=-2_601)
    assert problem["code"] == "bundle_too_expensive"
    made = await sent(client, holder.member, *legs, cost_max_minor=-2_600)
    assert made["cost_minor"] == -3 * 1_200 + 2 * 500
    assert await money(kernel, holder.member.party_id) == (0, 0)
    found = await counts(kernel, holder)
    assert (found["resold"], found["offered"]) == (300, 0)
    await verified(kernel)


async def test_units_that_are_not_there_refuse_the_whole(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    sold = await open_resale_scene(kernel)
    holder = await holder_of(client, sold, 2)
    await placed(client, await sold.buyer(10_000), sold.body("buy", 3, 1_000))
    await ask(client, pair.one, 1, 500)
    await fund(kernel, holder.member.party_id, 1_000)
    legs = (
        leg(pair.one, "buy", 1, 500),
        leg(sold, "sell", 3, 1_000, grant_id=holder.grant),
    )
    problem = await refused(client, kernel, holder.member, *legs)
    assert (problem["status"], problem["code"]) == (409, "resale_units_short")
    # What the refused bundle had taken off the batch's view of money and units is back.
    enough = (legs[0], leg(sold, "sell", 2, 1_000, grant_id=holder.grant))
    both = await together(send(client, holder.member, *legs), send(client, holder.member, *enough))
    assert sorted(answer.status_code for answer in both) == [201, 409]
    assert (await counts(kernel, holder))["resold"] == 200


@pytest.mark.parametrize("mode", ["cancel_newest", "cancel_oldest", "cancel_both", "decrement"])
async def test_an_own_order_in_the_way_is_treated_by_the_mode(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair, mode: str
) -> None:
    sold = await open_resale_scene(kernel)
    holder = await holder_of(client, sold, 4)
    own = await placed(client, holder.member, offer(sold, holder, 2, 700))
    await ask(client, sold, 5, 800)
    await ask(client, pair.one, 1, 500)
    await fund(kernel, holder.member.party_id, 10_000)
    legs = (leg(pair.one, "buy", 1, 500), leg(sold, "buy", 3, 900))
    if mode != "cancel_oldest":
        problem = await refused(client, kernel, holder.member, *legs, self_trade_prevention=mode)
        assert (problem["code"], problem["param"]) == ("bundle_unfillable", "legs.1.lots")
        return
    made = await sent(client, holder.member, *legs, self_trade_prevention=mode)
    assert made["cost_minor"] == 500 + 3 * 800
    ended = await show_order(client, holder.member, own["id"])
    assert (ended["status"], ended["reason"]) == ("cancelled", "self_trade")
    assert (await counts(kernel, holder))["offered"] == 0
    await verified(kernel)


async def test_controls_hold_for_every_leg(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    for scene in (pair.one, pair.two):
        await ask(client, scene, 50, 1_000)
    buyer = await pair.one.buyer(1_000_000)

    async def problem(lots: int = 2, price: int = 1_000) -> tuple[int, str, str]:
        legs = (leg(pair.one, "buy", 1, 1_000), leg(pair.two, "buy", lots, price))
        found = await refused(client, kernel, buyer, *legs)
        return found["status"], found["code"], found["param"]

    rules: dict[str, Any] = {"tick_minor": 10, "lot_step": 2, "band_ppm": 100_000}
    await set_rules(client, operator, pair.two, **rules)
    assert await problem(3) == (422, "lots_off_step", "legs.1.lots")
    assert await problem(2, 1_005) == (422, "price_off_tick", "legs.1.price_minor")
    assert await problem(2, 1_200) == (422, "price_outside_band", "legs.1.price_minor")
    await set_rules(client, operator, pair.two, reference_minor=2_000, **rules)
    assert await problem(2, 2_000) == (409, "trade_outside_band", "legs.1.price_minor")
    await set_rules(client, operator, pair.two)
    await done(client, operator, f"instruments/{pair.two.plan}/halt")
    assert await problem() == (409, "instrument_halted", "legs.1.plan_id")
    await done(client, operator, f"instruments/{pair.two.plan}/resume", auction_s=600)
    assert await problem() == (409, "instrument_closed", "legs.1.plan_id")
    await done(client, operator, "market/halt")
    assert (await problem())[:2] == (409, "market_halted")
    await done(client, operator, "market/resume")
    await done(client, operator, f"{party(buyer)}/block-trading")
    assert (await problem())[:2] == (403, "trading_blocked")


async def test_a_leg_that_may_not_be_traded_refuses_the_bundle(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    await ask(client, pair.one, 5, 500)
    resting = await ask(client, pair.two, 5, 500)
    buyer = await pair.one.buyer(100_000)
    good = leg(pair.one, "buy", 1, 500)
    unknown = {**good, "plan_id": show("pln", UUID(int=7))}
    found = await refused(client, kernel, buyer, good, unknown)
    assert (found["status"], found["code"], found["param"]) == (
        404,
        "plan_not_found",
        "legs.1.plan_id",
    )
    both = await make_party(kernel, Role.BUYER, Role.SELLER)
    found = await refused(client, kernel, both, good, leg(pair.two, "sell", 1, 500))
    assert (found["status"], found["code"], found["param"]) == (
        403,
        "not_the_seller",
        "legs.1.side",
    )
    found = await refused(client, kernel, buyer, good, leg(pair.two, "sell", 1, 500))
    assert (found["status"], found["code"]) == (403, "role_required")
    operator = await make_party(kernel, Role.OPERATOR)
    found = await refused(client, kernel, operator, good, leg(pair.two, "buy", 1, 500))
    assert (found["status"], found["code"]) == (403, "role_required")
    await done(client, operator, f"listings/{show('lst', pair.two.listing_id)}/suspend")
    alone, bundled = await together(
        client.post("/v1/orders", json=pair.two.body("buy", 1, 500), headers=buyer.headers()),
        send(client, buyer, good, leg(pair.two, "buy", 1, 500)),
    )
    # One refusal of one batch, but each says it in its own words.
    assert (alone.json()["code"], alone.json().get("param")) == (bundled.json()["code"], None)
    assert bundled.json()["param"] == "legs.1"

    async def swept() -> bool:
        order = await show_order(client, pair.two.seller, resting["id"])
        return bool(order["reason"] == "listing_not_live")

    # Not while the next test counts rows.
    await eventually(swept)


def malformed(pair: Pair) -> list[tuple[dict[str, Any], str]]:
    good, other = leg(pair.one, "buy", 1, 500), leg(pair.two, "buy", 1, 500)
    many = [{**good, "plan_id": show("pln", UUID(int=n + 1))} for n in range(21)]
    return [
        ({"legs": [good]}, "legs"),
        ({"legs": many}, "legs"),
        ({"legs": [good, good]}, "body"),
        ({"legs": [good, {**other, "lots": None}]}, "legs.1.lots"),
        ({"legs": [good, {**other, "price_minor": 1.5}]}, "legs.1.price_minor"),
        ({"legs": [good, {**other, "lots": 10**9, "price_minor": 10**9}]}, "legs.1"),
        ({"legs": [{**good, "price_minor": 10**15}, {**other, "price_minor": 1}]}, "body"),
        ({"legs": [good, {**other, "grant_id": show("grt", UUID(int=1))}]}, "legs.1"),
        ({"legs": [good, other], "cost_max_minor": 10**15 + 1}, "cost_max_minor"),
        ({"legs": [good, other], "client_order_id": "two words"}, "client_order_id"),
        ({"legs": [good, other], "time_in_force": "gtc"}, "time_in_force"),
    ]


async def test_malformed_bundles_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    buyer = await pair.one.buyer(1_000)
    before = await traces(kernel)
    for body, param in malformed(pair):
        answer = await client.post("/v1/bundles", json=body, headers=buyer.headers())
        found = answer.json()
        assert (answer.status_code, found["param"]) == (422, param), (body, found)
    assert await traces(kernel) == before


async def test_the_plans_have_one_currency(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    listing = await make_listing(kernel, pair.two.seller)
    plan = await make_plan(
        kernel,
        pair.two.seller,
        listing.listing_id,
        kind="metered",
        price_minor=1_000,
        lot_units=100,
        currency="USD",
    )
    dollars = Scene(kernel, pair.two.seller, listing.listing_id, plan.id)
    buyer = await pair.one.buyer(1_000)
    legs = (leg(pair.one, "buy", 1, 500), leg(dollars, "buy", 1, 500))
    found = await refused(client, kernel, buyer, *legs)
    assert (found["status"], found["code"], found["param"]) == (422, "bundle_currencies", "legs")


async def test_a_key_has_one_effect_and_a_name_is_used_once(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    for scene in (pair.one, pair.two):
        await ask(client, scene, None, 500)
    buyer = await pair.one.buyer(10_000)
    legs = (leg(pair.one, "buy", 1, 500), leg(pair.two, "buy", 1, 500))
    key = uuid.uuid4().hex
    answers = await together(
        *(send(client, buyer, *legs, key=key, client_order_id="mine") for _ in range(10))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await money(kernel, buyer.party_id) == (9_000, 0)
    before = await traces(kernel)
    again = await send(client, buyer, *legs, key=key, client_order_id="mine")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answers[0].content, "true")
    other = await send(client, buyer, *legs, key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    taken = await send(client, buyer, *legs, client_order_id="mine")
    assert (taken.status_code, taken.json()["code"]) == (409, "client_order_id_taken")
    assert await traces(kernel) == before
    racing = await together(
        *(send(client, buyer, *legs, client_order_id="yours") for _ in range(5))
    )
    assert sorted(answer.status_code for answer in racing) == [201] + [409] * 4
    short = leg(pair.one, "buy", 1, 400)
    key = uuid.uuid4().hex
    first = await send(client, buyer, short, legs[1], key=key)
    await ask(client, pair.one, 1, 400)
    second = await send(client, buyer, short, legs[1], key=key)
    assert (first.status_code, second.status_code) == (409, 409)
    assert first.content == second.content


async def test_a_bundle_is_seen_by_its_party_and_overseers(
    client: httpx.AsyncClient, kernel: Kernel, pair: Pair
) -> None:
    for scene in (pair.one, pair.two):
        await ask(client, scene, None, 500)
    buyer, stranger = await pair.one.buyer(10_000), await pair.one.buyer()
    operator = await make_party(kernel, Role.OPERATOR)
    legs = (leg(pair.one, "buy", 1, 500), leg(pair.two, "buy", 1, 500))
    made = [await sent(client, buyer, *legs, client_order_id=f"n{n}") for n in range(3)]
    path = f"/v1/bundles/{made[0]['id']}"
    for member, status in ((buyer, 200), (operator, 200), (stranger, 404)):
        assert (await client.get(path, headers=member.headers())).status_code == status
    missing = await client.get(f"/v1/bundles/{show('bnd', UUID(int=1))}", headers=buyer.headers())
    assert (missing.status_code, missing.json()["code"]) == (404, "bundle_not_found")

    async def listed(member: Member, **params: str | int) -> dict[str, Any]:
        answer = await client.get("/v1/bundles", params=params, headers=member.headers())
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    first = await listed(buyer, limit=2)
    assert [item["id"] for item in first["items"]] == [made[2]["id"], made[1]["id"]]
    rest = await listed(buyer, limit=2, after=first["next_after"])
    assert [item["id"] for item in rest["items"]] == [made[0]["id"]]
    assert rest["items"][0]["order_ids"] == made[0]["order_ids"]
    named = await listed(buyer, client_order_id="n1")
    assert [item["id"] for item in named["items"]] == [made[1]["id"]]
    assert (await listed(stranger))["items"] == []
    overseen = await listed(operator, party_id=buyer.id)
    assert len(overseen["items"]) == 3
    answer = await client.get(
        "/v1/bundles", params={"party_id": buyer.id}, headers=stranger.headers()
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "bundle_not_found")
