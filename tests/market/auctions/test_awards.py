"""Deciding auctions: prices, money, agreements and exclusivity, exactly once."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from contracts.jobs import close_out, expire_grants
from market.auctions.jobs import decide_auctions, release_products
from market.kernel.context import Kernel
from market.kernel.db import DatabaseUnavailable
from market.kernel.ids import parse, show
from market.kernel.security import Role
from tests.conftest import TestDatabase
from tests.contracts.dispute_factories import claim
from tests.contracts.factories import bearer
from tests.market.auctions.factories import Scene, footprint, open_scene
from tests.market.demand.factories import got, posted, refused
from tests.market.matching.factories import money, scalar
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan, offer_again
from tests.settlement.factories import move_clock, verified


@pytest.fixture
async def scene(kernel: Kernel, client: httpx.AsyncClient) -> AsyncIterator[Scene]:
    made = await open_scene(kernel, client)
    yield made
    # What a test leaves open would be decided in the next one.
    await made.close()


async def totals(kernel: Kernel) -> tuple[int, int]:
    """All money there is (zero: every transfer balances), and all parties' and escrow's."""
    whole = await scalar(kernel, "SELECT sum(posted) FROM settlement.account")
    owned = await scalar(
        kernel,
        "SELECT sum(posted) FROM settlement.account WHERE kind IN ('available', 'escrow')",
    )
    return int(whole), int(owned)


async def test_the_highest_bid_wins_at_the_second_price(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction(reserve_minor=100)
    first, low = await scene.bid(auction, 400)
    second, high = await scene.bid(auction, 900)
    before, owned = await footprint(kernel), await totals(kernel)
    assert await money(kernel, second.party_id) == (10_000, 900)
    await scene.close()
    won, lost = await scene.mine(second, high), await scene.mine(first, low)
    assert (won["status"], won["price_minor"]) == ("won", 400)
    assert (lost["status"], lost["price_minor"], lost["agreement_id"]) == ("lost", None, None)
    assert await money(kernel, second.party_id) == (9_600, 0)
    assert await money(kernel, first.party_id) == (10_000, 0)
    assert await totals(kernel) == owned
    after = await footprint(kernel)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {
        "auctions.award": 1,
        # The auction, won, lost.
        "auctions.step": 3,
        "settlement.transfer": 1,
        "contracts.agreement": 1,
        "contracts.access_grant": 1,
        "pricing.observation": 1,
        "kernel.outbox": 4,
        "held": -1_300,
    }
    result = await scene.show(auction)
    assert (result["status"], result["winner_count"], result["bid_count"]) == ("awarded", 1, 2)
    assert (result["price_low_minor"], result["price_high_minor"]) == (400, 400)
    assert await decide_auctions(kernel) == 0
    assert await footprint(kernel) == after
    await verified(kernel)


async def test_three_licenses_at_first_price_ties_by_time(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction("first_price", licenses=3)
    bids = [await scene.bid(auction, amount) for amount in (500, 700, 500, 500, 600)]
    await scene.close()
    results = [await scene.mine(who, bid) for who, bid in bids]
    assert [(result["status"], result["price_minor"]) for result in results] == [
        ("won", 500),
        ("won", 700),
        ("lost", None),
        ("lost", None),
        ("won", 600),
    ]
    result = await scene.show(auction)
    assert (result["price_low_minor"], result["price_high_minor"]) == (500, 700)
    observed = await scalar(
        kernel,
        "SELECT array_agg(price_minor ORDER BY price_minor) FROM pricing.observation "
        "WHERE plan_id = $1",
        scene.plan.id,
    )
    assert observed == [500, 600, 700]
    await verified(kernel)


async def test_a_raise_loses_its_place_among_equals(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    first, raised = await scene.bid(auction, 400)
    second, bid = await scene.bid(auction, 500)
    again = await posted(
        scene.client, first, f"/v1/bids/{raised['id']}/raise", {"amount_minor": 500}
    )
    assert again["amount_minor"] == 500
    assert await money(kernel, first.party_id) == (10_000, 500)
    await scene.close()
    assert (await scene.mine(second, bid))["status"] == "won"
    assert (await scene.mine(first, raised))["status"] == "lost"


async def test_a_hidden_reserve_can_leave_all_unsold(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction(reserve_minor=800, reserve_hidden=True)
    who, bid = await scene.bid(auction, 799)
    assert (await scene.show(auction, who))["reserve_minor"] is None
    assert (await scene.show(auction))["reserve_minor"] == 800
    await scene.close()
    result = await scene.show(auction, who)
    assert (result["status"], result["winner_count"]) == ("unsold", 0)
    assert (result["reserve_minor"], result["price_low_minor"]) == (800, None)
    assert (await scene.mine(who, bid))["status"] == "lost"
    assert await money(kernel, who.party_id) == (10_000, 0)
    # The data is on the market again.
    await scene.auction()
    await scene.close()


async def test_what_fails_in_the_middle_is_decided_the_same_later(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    """The transaction dies after money, agreements and awards were written, before COMMIT."""
    auction = await scene.auction("random_sampling")
    bids = [await scene.bid(auction, amount) for amount in (100, 200, 300, 400, 500)]
    before = await footprint(kernel)
    owner = await asyncpg.connect(database.owner_url)
    try:
        await owner.execute(
            "CREATE FUNCTION public.die() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;"
            "CREATE TRIGGER die BEFORE UPDATE ON auctions.auction FOR EACH ROW "
            "WHEN (NEW.status = 'awarded') EXECUTE FUNCTION public.die()"
        )
        with pytest.raises(DatabaseUnavailable, match="connection was lost"):
            await scene.close()
        assert await footprint(kernel) == before
        assert (await scene.show(auction))["status"] == "open"
    finally:
        await owner.execute("DROP FUNCTION public.die() CASCADE")
        await owner.close()
    assert await decide_auctions(kernel) == 1
    proof = await got(
        scene.client,
        bids[0][0].with_fresh_token(kernel),
        f"/v1/auctions/{auction['id']}/proof",
    )
    paid = {bid["bid_id"]: bid["price_minor"] for bid in proof["bids"]}
    for who, bid in bids:
        mine = await scene.mine(who, bid)
        assert mine["price_minor"] == paid[bid["id"]]
        assert await money(kernel, who.party_id) == (10_000 - (paid[bid["id"]] or 0), 0)
    await verified(kernel)


async def test_who_lost_its_standing_does_not_count(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    gone, high = await scene.bid(auction, 900)
    stays, low = await scene.bid(auction, 300)
    operator = await make_party(kernel, Role.OPERATOR)
    await posted(
        scene.client, operator, f"/v1/parties/{gone.id}/suspend", {"reason": "under inquiry"}
    )
    await scene.close()
    assert (await scene.mine(stays, low))["price_minor"] == 1
    assert (
        await scalar(
            kernel, "SELECT status FROM auctions.bid WHERE id = $1", parse("bid", high["id"])
        )
        == "void"
    )
    assert await money(kernel, gone.party_id) == (10_000, 0)
    assert (await scene.show(auction))["bid_count"] == 1


async def test_an_auction_of_a_suspended_listing_is_cancelled(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    operator = await make_party(kernel, Role.OPERATOR)
    listing = show("lst", scene.listing_id)
    await posted(
        scene.client, operator, f"/v1/listings/{listing}/suspend", {"reason": "a complaint"}
    )
    await scene.close()
    result = await scene.show(auction)
    assert (result["status"], result["reason"]) == ("cancelled", "The listing is suspended.")
    assert (await scene.mine(who, bid))["status"] == "void"
    assert await money(kernel, who.party_id) == (10_000, 0)


async def test_nothing_else_is_sold_while_it_runs_and_while_the_license_lasts(
    kernel: Kernel, scene: Scene
) -> None:
    client = scene.client
    metered = await make_plan(kernel, scene.seller, scene.listing_id)
    twin_listing = await offer_again(kernel, scene.seller, scene.product_id)
    twin = await make_plan(kernel, scene.seller, twin_listing, kind="license")
    plans = [show("pln", plan.id) for plan in (scene.plan, metered, twin)]

    async def orders(who: Member) -> list[tuple[int, str]]:
        sides = [("sell", scene.seller), ("buy", who)]
        body = {"type": "limit", "lots": 1, "price_minor": 1_000}
        return [
            await refused(
                client,
                member.with_fresh_token(kernel),
                "/v1/orders",
                {"plan_id": plan, "side": side, **body},
            )
            for plan in plans
            for side, member in sides
        ]

    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    stranger = await scene.buyer()
    assert set(await orders(stranger)) == {(409, "listing_reserved")}
    for rule in ("first_price", "random_sampling"):
        assert await refused(client, scene.seller, "/v1/auctions", await scene.body(rule)) == (
            409,
            "listing_reserved",
        )
    await scene.close()
    assert (await scene.mine(who, bid))["status"] == "won"
    assert set(await orders(stranger)) == {(409, "listing_reserved")}
    assert await release_products(kernel) == 0
    await move_clock(kernel, timedelta(days=366))
    while await expire_grants(kernel):
        continue
    await close_out(kernel)
    # Those of other tests are over as well.
    assert await release_products(kernel) >= 1
    assert await release_products(kernel) == 0
    released = "SELECT released_at IS NOT NULL FROM listings.reservation WHERE holder_id = $1"
    assert await scalar(kernel, released, parse("auc", auction["id"]))
    order = {"plan_id": plans[0], "side": "sell", "type": "limit", "lots": 1, "price_minor": 900}
    await posted(client, scene.seller.with_fresh_token(kernel), "/v1/orders", order)


async def test_sold_data_cannot_be_auctioned_exclusively(kernel: Kernel, scene: Scene) -> None:
    unlimited = await scene.auction("random_sampling", reserve_minor=10)
    await scene.bid(unlimited, 500)
    await scene.close()
    assert (await scene.show(unlimited))["status"] == "awarded"
    seller = scene.seller.with_fresh_token(kernel)
    assert await refused(scene.client, seller, "/v1/auctions", await scene.body()) == (
        409,
        "product_in_use",
    )


async def test_a_won_license_is_delivered_accepted_paid_and_traced(
    kernel: Kernel, scene: Scene
) -> None:
    client = scene.client
    auction = await scene.auction("first_price")
    who, bid = await scene.bid(auction, 900)
    await scene.close()
    winner, seller = who.with_fresh_token(kernel), scene.seller.with_fresh_token(kernel)
    won = await scene.mine(who, bid)
    path = f"/v1/agreements/{won['agreement_id']}"
    agreement = await got(client, winner, path)
    assert (agreement["status"], agreement["escrow_minor"]) == ("active", 900)
    minted = await posted(
        client, winner, f"/v1/grants/{agreement['grant_id']}/tokens", {"label": "a", "ttl_s": 600}
    )
    rows = await client.get("/v1/delivery/rows?limit=3", headers=bearer(minted["token"]))
    assert (rows.status_code, rows.headers["content-type"]) == (200, "application/json")
    accepted = await posted(client, winner, f"{path}/accept", None)
    assert accepted["escrow_minor"] == 0
    earned, held = await money(kernel, scene.seller.party_id)
    assert 0 < earned <= 900
    assert held == 0
    trace: dict[str, Any] = await got(client, seller, f"{path}/trace")
    (section,) = [link["data"] for link in trace["links"] if link["section"] == "auction"]
    assert (section["auction_id"], section["bid_id"]) == (auction["id"], bid["id"])
    assert (section["rule"], section["price_minor"]) == ("first_price", 900)
    await verified(kernel)


async def test_a_won_license_can_be_disputed(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    await scene.close()
    won = await scene.mine(who, bid)
    body = {"agreement_id": won["agreement_id"], "reason": "incomplete", "claim": claim()}
    buyer = who.with_fresh_token(kernel)
    dispute = await posted(scene.client, buyer, "/v1/disputes", body)
    assert (dispute["agreement_id"], dispute["status"]) == (won["agreement_id"], "open")
    agreement = await got(scene.client, buyer, f"/v1/agreements/{won['agreement_id']}")
    assert agreement["status"] == "disputed"
