"""Quotes over HTTP: private offers, rounds, turns, endings."""

import uuid
from datetime import timedelta

import httpx
import pytest

from listings.offering import delist
from market.demand import quotes
from market.demand.jobs import expire_quotes
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from pricing.plans import retire_plan
from tests.listings.factories import make_listing
from tests.market.demand.factories import Scene, footprint, got, later, open_scene, posted, refused
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import move_clock, now


@pytest.fixture
async def scene(kernel: Kernel, client: httpx.AsyncClient) -> Scene:
    return await open_scene(kernel, client)


async def test_a_quote_is_between_the_two(client: httpx.AsyncClient, scene: Scene) -> None:
    quote = await scene.quote(900, 3, note="For three sites.")
    rival, other = await scene.rival(800)
    assert (quote["status"], quote["turn"], quote["round"]) == ("open", "buyer", 1)
    assert (quote["total_minor"], quote["currency"], quote["rounds_left"]) == (2_700, "CNY", 9)
    assert [each["note"] for each in quote["proposals"]] == ["For three sites."]
    path = f"/v1/requests/{scene.request_id}/quotes"
    ids = {
        member.id: [each["id"] for each in (await got(client, member, path))["items"]]
        for member in (scene.buyer, scene.seller, rival)
    }
    assert ids == {
        scene.buyer.id: [other["id"], quote["id"]],
        scene.seller.id: [quote["id"]],
        rival.id: [other["id"]],
    }
    foreign = await client.get(f"/v1/quotes/{quote['id']}", headers=rival.headers())
    assert (foreign.status_code, foreign.json()["code"]) == (404, "quote_not_found")
    assert len((await got(client, rival, "/v1/quotes"))["items"]) == 1
    assert await refused(client, rival, f"/v1/quotes/{quote['id']}/accept", {"round": 1}) == (
        404,
        "quote_not_found",
    )


async def test_overseers_read_and_do_not_act(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote()
    regulator = await make_party(kernel, Role.REGULATOR)
    path = f"/v1/quotes/{quote['id']}"
    assert (await got(client, regulator, path))["id"] == quote["id"]
    assert await refused(client, regulator, f"{path}/accept", {"round": 1}) == (
        403,
        "role_required",
    )


async def test_rounds_alternate_until_they_are_used_up(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotes, "ROUNDS_MAX", 3)
    quote = await scene.quote(900)
    path = f"/v1/quotes/{quote['id']}"
    terms = await scene.terms(700, 2)
    assert await refused(client, scene.seller, f"{path}/counter", terms) == (409, "not_your_turn")
    second = await posted(client, scene.buyer, f"{path}/counter", terms)
    assert (second["turn"], second["round"], second["price_minor"]) == ("seller", 2, 700)
    assert await refused(client, scene.buyer, f"{path}/accept", {"round": 2}) == (
        409,
        "not_your_turn",
    )
    third = await posted(client, scene.seller, f"{path}/counter", await scene.terms(800, 2))
    assert [
        (each["round"], each["side"], each["price_minor"], each["lots"])
        for each in third["proposals"]
    ] == [(1, "seller", 900, 1), (2, "buyer", 700, 2), (3, "seller", 800, 2)]
    assert third["rounds_left"] == 0
    before = await footprint(kernel)
    assert await refused(client, scene.buyer, f"{path}/counter", terms) == (409, "rounds_used_up")
    assert await footprint(kernel) == before


async def test_decline_and_withdraw_belong_to_one_side_each(
    client: httpx.AsyncClient, scene: Scene
) -> None:
    quote = await scene.quote()
    path = f"/v1/quotes/{quote['id']}"
    assert await refused(client, scene.seller, f"{path}/decline", None) == (403, "role_required")
    assert await refused(client, scene.buyer, f"{path}/withdraw", None) == (403, "role_required")
    assert (await posted(client, scene.buyer, f"{path}/decline", None))["status"] == "declined"
    for member, action, body in (
        (scene.seller, "withdraw", None),
        (scene.buyer, "decline", None),
        (scene.buyer, "accept", {"round": 1}),
        (scene.buyer, "counter", await scene.terms(1)),
    ):
        assert await refused(client, member, f"{path}/{action}", body) == (409, "quote_ended")
    # The plan may be quoted again once its quote has ended.
    again = await scene.quote()
    withdrawn = await posted(client, scene.seller, f"/v1/quotes/{again['id']}/withdraw", None)
    assert withdrawn["status"] == "withdrawn"
    assert withdrawn["closed_at"] is not None


async def test_the_wrong_side_of_two_roles_is_told_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    made = await make_listing(kernel, both, rows=10)
    plan = await make_plan(kernel, both, made.listing_id, kind="license")
    body = {**await scene.body(), "plan_id": show("pln", plan.id)}
    quote = await posted(client, both, f"/v1/requests/{scene.request_id}/quotes", body)
    path = f"/v1/quotes/{quote['id']}/decline"
    assert await refused(client, both, path, None) == (404, "quote_not_found")


async def test_what_may_not_be_quoted(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    path = f"/v1/requests/{scene.request_id}/quotes"
    body = await scene.body()
    other = await make_party(kernel, Role.SELLER)
    assert await refused(client, other, path, body) == (403, "not_the_seller")
    assert await refused(client, scene.buyer, path, body) == (403, "role_required")
    unknown = {**body, "plan_id": f"pln_{uuid.uuid4().hex}"}
    assert await refused(client, scene.seller, path, unknown) == (404, "plan_not_found")
    moment = await now(kernel)
    for days in (-1, 91):
        late = {**body, "valid_until": later(moment, days)}
        assert await refused(client, scene.seller, path, late) == (422, "expiry_out_of_range")
    large = {**body, "price_minor": 10**15, "lots": 2}
    assert await refused(client, scene.seller, path, large) == (422, "quote_too_large")
    await scene.quote()
    assert await refused(client, scene.seller, path, body) == (409, "plan_quoted")
    draft = await make_listing(kernel, scene.seller, rows=10, live=False)
    hidden = await make_plan(kernel, scene.seller, draft.listing_id, kind="license")
    body["plan_id"] = show("pln", hidden.id)
    assert await refused(client, scene.seller, path, body) == (404, "listing_not_found")
    await retire_plan(kernel, scene.seller.actor, hidden.id)
    assert await refused(client, scene.seller, path, body) == (409, "plan_retired")


async def test_one_does_not_quote_to_oneself_and_guests_only_by_invitation(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    made = await make_listing(kernel, both, rows=10)
    plan = await make_plan(kernel, both, made.listing_id, kind="license")
    body = {**await scene.body(), "plan_id": show("pln", plan.id)}
    own = await posted(
        client, both, "/v1/requests", {"title": "Own", "text": "Own.", "invited": [scene.seller.id]}
    )
    path = f"/v1/requests/{own['id']}/quotes"
    assert await refused(client, both, path, body) == (404, "request_not_found")
    rival, _ = await scene.rival()
    assert await refused(client, rival, path, await scene.body()) == (404, "request_not_found")
    assert (await posted(client, scene.seller, path, await scene.body()))["status"] == "open"
    public = await posted(client, both, "/v1/requests", {"title": "Own", "text": "Own."})
    path = f"/v1/requests/{public['id']}/quotes"
    assert await refused(client, both, path, body) == (403, "self_trade")


async def test_open_quotes_on_a_request_are_bounded(
    client: httpx.AsyncClient, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotes, "OPEN_QUOTES_MAX", 1)
    await scene.rival()
    path = f"/v1/requests/{scene.request_id}/quotes"
    assert await refused(client, scene.seller, path, await scene.body()) == (
        409,
        "too_many_quotes",
    )


async def test_a_delisted_listing_keeps_its_quote_from_being_accepted(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote()
    await delist(kernel, scene.seller.actor, scene.listing_id)
    before = await footprint(kernel)
    path = f"/v1/quotes/{quote['id']}/accept"
    assert await refused(client, scene.buyer, path, {"round": 1}) == (409, "listing_not_live")
    assert await footprint(kernel) == before


async def test_a_proposal_expires_by_database_time(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote(valid_until=await scene.until(1))
    await move_clock(kernel, timedelta(days=1))
    # This process learns of it from the database.
    await now(kernel)
    buyer = scene.buyer.with_fresh_token(kernel)
    path = f"/v1/quotes/{quote['id']}"
    # Refused before the sweeper has come by.
    assert await refused(client, buyer, f"{path}/accept", {"round": 1}) == (409, "quote_expired")
    terms = await scene.terms(1)
    assert await refused(client, buyer, f"{path}/counter", terms) == (409, "quote_expired")
    assert await expire_quotes(kernel) == 1
    assert await expire_quotes(kernel) == 0
    assert (await got(client, buyer, path))["status"] == "expired"
    # The request is still open for others.
    assert (await got(client, buyer, f"/v1/requests/{scene.request_id}"))["status"] == "open"
