"""Creating auctions and bidding: who may, when, for how much, and who is told what."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from market.auctions.jobs import decide_auctions, withdraw_blocked
from market.auctions.models import AUCTION_TRANSITIONS, AuctionStatus
from market.kernel.context import Kernel
from market.kernel.ids import parse, show
from market.kernel.security import Role
from tests.conftest import TestDatabase
from tests.market.auctions.factories import RUNS, Scene, footprint, open_scene
from tests.market.demand.factories import got, posted, refused
from tests.market.matching.factories import money, scalar, together
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import move_clock, now, verified


@pytest.fixture
async def scene(kernel: Kernel, client: httpx.AsyncClient) -> AsyncIterator[Scene]:
    made = await open_scene(kernel, client)
    yield made
    # What a test leaves open would be decided in the next one.
    await made.close()


def bids_of(auction: dict[str, Any]) -> str:
    return f"/v1/auctions/{auction['id']}/bids"


async def test_who_may_auction_what(kernel: Kernel, scene: Scene) -> None:
    client = scene.client
    body = await scene.body()
    stranger = await make_party(kernel, Role.SELLER)
    metered = await make_plan(kernel, scene.seller, scene.listing_id)
    before = await footprint(kernel)
    assert await refused(client, stranger, "/v1/auctions", body) == (403, "not_the_seller")
    wrong = {**body, "plan_id": show("pln", metered.id)}
    assert await refused(client, scene.seller, "/v1/auctions", wrong) == (
        409,
        "license_plan_required",
    )
    unlimited = {**body, "rule": "random_sampling", "licenses": 2}
    assert (await refused(client, scene.seller, "/v1/auctions", unlimited))[0] == 422
    at = await now(kernel)
    for opens, closes in (
        (timedelta(seconds=-1), timedelta(hours=1)),
        (timedelta(days=91), timedelta(days=92)),
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(hours=1), timedelta(days=92)),
    ):
        times = {"opens_at": (at + opens).isoformat(), "closes_at": (at + closes).isoformat()}
        assert await refused(client, scene.seller, "/v1/auctions", {**body, **times}) == (
            422,
            "schedule_out_of_range",
        )
    assert await footprint(kernel) == before


async def test_a_bid_is_held_and_told_to_its_bidder_only(kernel: Kernel, scene: Scene) -> None:
    client = scene.client
    auction = await scene.auction()
    who = await scene.buyer(1_000)
    key = uuid.uuid4().hex
    answers = [
        await client.post(bids_of(auction), json={"amount_minor": 987}, headers=who.headers(key))
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    bid = answers[0].json()
    assert await money(kernel, who.party_id) == (1_000, 987)
    assert (await scene.mine(who, bid))["amount_minor"] == 987
    operator = await make_party(kernel, Role.OPERATOR)
    for other in (scene.seller, operator, await scene.buyer()):
        response = await client.get(f"/v1/bids/{bid['id']}", headers=other.headers())
        assert (response.status_code, response.json()["code"]) == (404, "bid_not_found")
        assert (await got(client, other, "/v1/bids"))["items"] == []
    assert (await scene.show(auction))["bid_count"] == 1
    assert (await scene.show(auction, operator))["bid_count"] == 1
    assert (await scene.show(auction, who))["bid_count"] is None
    events = await scalar(
        kernel,
        "SELECT array_agg(data::text) FROM kernel.outbox WHERE type LIKE 'bid.%' "
        "OR type LIKE 'auction.%'",
    )
    assert not any("987" in event.replace(bid["id"], "") for event in events if "amount" in event)
    assert all("amount" not in json.loads(event) for event in events)
    await scene.close()
    assert (await got(client, operator.with_fresh_token(kernel), f"/v1/bids/{bid['id']}"))[
        "amount_minor"
    ] == 987


async def test_bids_that_are_refused_change_nothing(kernel: Kernel, scene: Scene) -> None:
    client = scene.client
    auction = await scene.auction(reserve_minor=50)
    poor, rich = await scene.buyer(99), await scene.buyer()
    _, bid = await scene.bid(auction, 100, rich)
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    unverified = await make_party(kernel, Role.BUYER, verified=False)
    before = await footprint(kernel)
    for who, amount, expected in (
        (poor, 100, (402, "insufficient_funds")),
        (poor, 49, (422, "bid_below_reserve")),
        (rich, 200, (409, "already_bid")),
        (unverified, 60, (403, "party_not_verified")),
        (scene.seller, 60, (403, "role_required")),
        (both, 60, (402, "insufficient_funds")),
    ):
        assert await refused(client, who, bids_of(auction), {"amount_minor": amount}) == expected
    path = f"/v1/bids/{bid['id']}"
    assert await refused(client, rich, f"{path}/raise", {"amount_minor": 100}) == (
        422,
        "bid_not_raised",
    )
    assert await refused(client, rich, f"{path}/raise", {"amount_minor": 10_001}) == (
        402,
        "insufficient_funds",
    )
    assert await refused(client, poor, f"{path}/withdraw", None) == (404, "bid_not_found")
    nobody = f"/v1/auctions/auc_{'0' * 32}/bids"
    assert await refused(client, rich, nobody, {"amount_minor": 100}) == (404, "auction_not_found")
    assert await footprint(kernel) == before


async def test_affiliates_may_not_bid_on_their_own_nor_against_each_other(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    auction = await scene.auction()
    groups = uuid.uuid4(), uuid.uuid4()
    twin, mother, sister = [await scene.buyer() for _ in range(3)]
    owner = await asyncpg.connect(database.owner_url)
    for group, members in ((groups[0], (scene.seller, twin)), (groups[1], (mother, sister))):
        await owner.execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2::uuid[])",
            group,
            [member.party_id for member in members],
        )
    await owner.close()
    path = bids_of(auction)
    assert await refused(scene.client, twin, path, {"amount_minor": 9}) == (403, "self_trade")
    _, bid = await scene.bid(auction, 100, mother)
    assert await refused(scene.client, sister, path, {"amount_minor": 90}) == (409, "already_bid")
    await posted(scene.client, mother, f"/v1/bids/{bid['id']}/withdraw", None)
    await scene.bid(auction, 90, sister)


async def test_a_raise_may_use_what_the_old_bid_frees(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 6_000)
    path = f"/v1/bids/{bid['id']}"
    raised = await posted(scene.client, who, f"{path}/raise", {"amount_minor": 10_000})
    assert (raised["id"], raised["amount_minor"]) == (bid["id"], 10_000)
    assert await money(kernel, who.party_id) == (10_000, 10_000)
    gone = await posted(scene.client, who, f"{path}/withdraw", None)
    assert (gone["status"], gone["amount_minor"]) == ("withdrawn", 10_000)
    assert await money(kernel, who.party_id) == (10_000, 0)
    for action, body in (("withdraw", None), ("raise", {"amount_minor": 10_001})):
        assert await refused(scene.client, who, f"{path}/{action}", body) == (409, "bid_ended")
    _, again = await scene.bid(auction, 5, who)
    assert again["id"] != bid["id"]
    await verified(kernel)


async def test_bids_count_from_opening_to_just_before_the_close(
    kernel: Kernel, scene: Scene
) -> None:
    at = await now(kernel)
    opens, closes = at + timedelta(minutes=30), at + timedelta(minutes=60)
    auction = await scene.auction(opens_at=opens.isoformat(), closes_at=closes.isoformat())
    who = await scene.buyer()
    body = {"amount_minor": 10}
    closed = (409, "auction_not_open")
    assert await refused(scene.client, who, bids_of(auction), body) == closed
    await move_clock(kernel, timedelta(minutes=31))
    who = who.with_fresh_token(kernel)
    _, bid = await scene.bid(auction, 10, who)
    await move_clock(kernel, timedelta(minutes=30))
    # Before any job has run.
    late = await scene.buyer()
    who = who.with_fresh_token(kernel)
    assert await refused(scene.client, late, bids_of(auction), body) == closed
    path = f"/v1/bids/{bid['id']}"
    assert await refused(scene.client, who, f"{path}/withdraw", None) == closed
    assert await refused(scene.client, who, f"{path}/raise", {"amount_minor": 11}) == closed
    assert await decide_auctions(kernel) == 1
    assert (await scene.mine(who, bid))["status"] == "won"


async def test_an_operator_may_cancel_with_a_reason(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 400)
    operator = await make_party(kernel, Role.OPERATOR)
    path = f"/v1/auctions/{auction['id']}/cancel"
    body = {"reason": "the certificate is contested"}
    assert await refused(scene.client, scene.seller, path, body) == (403, "role_required")
    ended = await posted(scene.client, operator, path, body)
    assert (ended["status"], ended["reason"]) == ("cancelled", body["reason"])
    assert await refused(scene.client, operator, path, body) == (409, "auction_ended")
    assert (await scene.mine(who, bid))["status"] == "void"
    assert await money(kernel, who.party_id) == (10_000, 0)
    actions = await got(scene.client, operator, "/v1/operator-actions")
    (action,) = [one for one in actions["items"] if one["action"] == "auction.cancel"]
    assert action["reason"] == body["reason"]
    # The product is free for another auction.
    await scene.auction()


async def test_a_killed_partys_bids_are_withdrawn(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    killed, high = await scene.bid(auction, 900)
    stays, low = await scene.bid(auction, 300)
    operator = await make_party(kernel, Role.OPERATOR)
    await control(scene, operator, f"/v1/parties/{killed.id}/block-trading")
    assert await withdraw_blocked(kernel) == 1
    assert await withdraw_blocked(kernel) == 0
    assert (await scene.mine(killed, high))["status"] == "withdrawn"
    assert await money(kernel, killed.party_id) == (10_000, 0)
    body = {"amount_minor": 950}
    refusal = await refused(scene.client, killed, bids_of(auction), body)
    assert refusal == (403, "trading_blocked")
    # Killed so late that no sweep came before the close: not counted.
    late, last = await scene.bid(auction, 800)
    await control(scene, operator, f"/v1/parties/{late.id}/block-trading")
    await scene.close()
    assert (await scene.mine(late, last))["status"] == "void"
    assert (await scene.mine(stays, low))["price_minor"] == 1
    assert await money(kernel, late.party_id) == (10_000, 0)


async def test_a_killed_seller_sells_nothing(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    operator = await make_party(kernel, Role.OPERATOR)
    await control(scene, operator, f"/v1/parties/{scene.seller.id}/block-trading")
    other = await scene.buyer()
    blocked = (403, "trading_blocked")
    assert await refused(scene.client, other, bids_of(auction), {"amount_minor": 9}) == blocked
    body = await scene.body()
    assert await refused(scene.client, scene.seller, "/v1/auctions", body) == blocked
    await scene.close()
    assert (await scene.show(auction))["reason"] == "the seller may not trade"
    assert (await scene.mine(who, bid))["status"] == "void"


async def test_a_halt_stops_bids_and_decisions_until_it_is_lifted(
    kernel: Kernel, scene: Scene
) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    leaver, away = await scene.bid(auction, 950)
    other = await scene.buyer()
    operator = await make_party(kernel, Role.OPERATOR)
    plan = f"/v1/instruments/{show('pln', scene.plan.id)}"
    for halted, target in (("market_halted", "/v1/market"), ("instrument_halted", plan)):
        await control(scene, operator, f"{target}/halt")
        body = {"amount_minor": 9_000}
        refusal = await refused(scene.client, other, bids_of(auction), body)
        assert refusal == (409, halted)
        refusal = await refused(scene.client, who, f"/v1/bids/{bid['id']}/raise", body)
        assert refusal == (409, halted)
        if halted == "market_halted":
            await control(scene, operator, f"{target}/resume")
    await posted(scene.client, leaver, f"/v1/bids/{away['id']}/withdraw", None)
    assert await scene.close() == 0
    assert (await scene.show(auction))["status"] == "open"
    assert await money(kernel, who.party_id) == (10_000, 900)
    await control(scene, operator.with_fresh_token(kernel), f"{plan}/resume")
    assert await decide_auctions(kernel) == 1
    assert (await scene.mine(who, bid))["status"] == "won"


async def control(scene: Scene, operator: Member, path: str) -> None:
    """An operator's decision about the market, with a reason."""
    await posted(scene.client, operator, path, {"reason": "under inquiry"})


async def test_a_bid_that_races_the_close_is_decided_or_refused(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    """Closes in the middle of the race; whatever was accepted was decided, nothing stays held."""
    scene = await open_scene(kernel, client)
    at = await now(kernel)
    closes = at + timedelta(seconds=61)
    auction = await scene.auction(licenses=1_000, closes_at=closes.isoformat())
    buyers = [await scene.buyer() for _ in range(12)]
    left = closes - await now(kernel)
    await move_clock(kernel, left - timedelta(milliseconds=60))
    buyers = [buyer.with_fresh_token(kernel) for buyer in buyers]
    decided: list[int] = []

    async def press(who: Member) -> httpx.Response:
        body = {"amount_minor": 10}
        return await client.post(bids_of(auction), json=body, headers=who.headers())

    async def close() -> None:
        for _ in range(200):
            decided.append(await decide_auctions(kernel))
            if decided[-1]:
                return

    answers: list[httpx.Response] = []

    async def all_press(some: list[Member]) -> None:
        for who in some:
            answers.append(await press(who))

    await together(close(), *(all_press(buyers[start::3]) for start in range(3)))
    assert decided[-1] == 1
    accepted = [answer for answer in answers if answer.status_code == 201]
    refusals = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert refusals <= {"auction_not_open"}
    result = await scene.show(auction)
    assert (result["bid_count"], result["winner_count"]) == (len(accepted), len(accepted))
    held = "SELECT coalesce(sum(held), 0) FROM settlement.account WHERE owner = ANY($1::uuid[])"
    assert await scalar(kernel, held, [buyer.party_id for buyer in buyers]) == 0
    living = "SELECT count(*) FROM auctions.bid WHERE auction_id = $1 AND status = 'living'"
    assert await scalar(kernel, living, parse("auc", auction["id"])) == 0
    await verified(kernel)


async def test_the_database_refuses_what_the_table_of_states_does_not_know(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    auction = await scene.auction()
    _, bid = await scene.bid(auction, 400)
    identity = parse("auc", auction["id"])
    owner = await asyncpg.connect(database.owner_url)

    async def attempt(sql: str, *arguments: object) -> None:
        async with owner.transaction():
            await owner.execute(sql, *arguments)

    decide = (
        "UPDATE auctions.auction SET status = 'unsold', winner_count = 0, closed_at = now() "
        "WHERE id = $1"
    )
    with pytest.raises(asyncpg.RestrictViolationError, match="after its close"):
        await attempt(decide, identity)
    lower = "UPDATE auctions.bid SET amount_minor = 399 WHERE auction_id = $1"
    with pytest.raises(asyncpg.RestrictViolationError, match="does not fall"):
        await attempt(lower, identity)
    lost = "UPDATE auctions.bid SET status = 'lost', closed_at = now() WHERE auction_id = $1"
    with pytest.raises(asyncpg.RestrictViolationError, match="after the close"):
        await attempt(lost, identity)
    for table in ("bid", "auction", "award", "step"):
        with pytest.raises(asyncpg.PostgresError):
            await attempt(f"DELETE FROM auctions.{table}")
    await move_clock(kernel, RUNS)
    more = "UPDATE auctions.bid SET amount_minor = 500 WHERE id = $1"
    with pytest.raises(asyncpg.RestrictViolationError, match="no bids now"):
        await attempt(more, parse("bid", bid["id"]))
    assert await decide_auctions(kernel) == 1
    assert AUCTION_TRANSITIONS[AuctionStatus.AWARDED] == frozenset()
    for status in AuctionStatus:
        again = f"UPDATE auctions.auction SET status = '{status}' WHERE id = $1"
        with pytest.raises(asyncpg.RestrictViolationError, match="ended auction"):
            await attempt(again, identity)
    with pytest.raises(asyncpg.RestrictViolationError, match="ended bid"):
        await attempt(
            "UPDATE auctions.bid SET status = 'void' WHERE id = $1", parse("bid", bid["id"])
        )
    await owner.close()


async def test_lists_are_paged_and_filtered(kernel: Kernel, scene: Scene) -> None:
    first = await scene.auction("random_sampling")
    second = await scene.auction("random_sampling")
    who, older = await scene.bid(first, 5)
    _, newer = await scene.bid(second, 6, who)
    seller = scene.seller.with_fresh_token(kernel)
    page = await got(scene.client, seller, "/v1/auctions", mine=True, limit=1)
    assert ([item["id"] for item in page["items"]], page["has_more"]) == ([second["id"]], True)
    rest = await got(
        scene.client, seller, "/v1/auctions", mine=True, limit=1, after=page["next_after"]
    )
    assert ([item["id"] for item in rest["items"]], rest["has_more"]) == ([first["id"]], False)
    listing = show("lst", scene.listing_id)
    found = await got(scene.client, who, "/v1/auctions", listing_id=listing, status="open")
    assert {item["id"] for item in found["items"]} == {first["id"], second["id"]}
    assert (await got(scene.client, who, "/v1/auctions", mine=True))["items"] == []
    mine = await got(scene.client, who, "/v1/bids", status="living")
    assert [item["id"] for item in mine["items"]] == [newer["id"], older["id"]]
    only = await got(scene.client, who, "/v1/bids", auction_id=first["id"])
    assert [item["id"] for item in only["items"]] == [older["id"]]
