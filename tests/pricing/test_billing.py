"""Intermediaries and declared taxes over HTTP."""

import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan, offer_again


@dataclass(frozen=True)
class World:
    product_id: uuid.UUID
    seller: Member
    broker: Member
    helper: Member


@pytest.fixture(scope="module")
async def world(kernel: Kernel) -> World:
    seller = await make_party(kernel, Role.SELLER)
    return World(
        product_id=(await make_listing(kernel, seller)).product_id,
        seller=seller,
        broker=await make_party(kernel, Role.SELLER),
        helper=await make_party(kernel, Role.SELLER),
    )


@pytest.fixture
async def listing(kernel: Kernel, world: World) -> str:
    found = await offer_again(kernel, world.seller, world.product_id)
    return f"/v1/listings/{show('lst', found)}"


async def put(
    client: httpx.AsyncClient, path: str, member: Member, body: dict[str, Any], version: int
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {member.token}", "If-Match": f'"{version}"'}
    return await client.put(path, json=body, headers=headers)


async def test_a_seller_names_and_removes_an_intermediary(
    client: httpx.AsyncClient, world: World, listing: str
) -> None:
    path = f"{listing}/intermediary"
    body = {"party_id": world.broker.id, "ppm": 30_000}
    first = await put(client, path, world.seller, body, 0)
    assert (first.status_code, first.headers["etag"]) == (200, '"1"')
    assert first.json()["set_by"] == world.seller.id
    seen = await client.get(path, headers=world.broker.headers())
    assert (seen.json()["party_id"], seen.json()["ppm"]) == (world.broker.id, 30_000)
    assert (await client.get(path, headers=world.helper.headers())).status_code == 404
    assert (await put(client, path, world.seller, body, 0)).status_code == 412
    gone = await put(client, path, world.seller, {"party_id": None, "ppm": None}, 1)
    assert (gone.json()["version"], gone.json()["party_id"]) == (2, None)


async def test_commission_and_shares_leave_the_seller_something(
    client: httpx.AsyncClient, world: World, listing: str
) -> None:
    shares = {"shares": [{"party_id": world.helper.id, "ppm": 600_000}]}
    assert (await put(client, f"{listing}/shares", world.seller, shares, 0)).status_code == 200
    path = f"{listing}/intermediary"
    for party, ppm, code in (
        (world.broker.id, 400_000, "shares_exceed_net"),
        (world.helper.id, 1, "intermediary_has_share"),
        (world.seller.id, 1, "share_for_seller"),
        (show("pty", new_id()), 1, "share_party_unknown"),
        (world.broker.id, None, "validation_failed"),
    ):
        refused = await put(client, path, world.seller, {"party_id": party, "ppm": ppm}, 0)
        assert refused.json()["code"] == code
    body = {"party_id": world.broker.id, "ppm": 399_999}
    assert (await put(client, path, world.seller, body, 0)).status_code == 200
    more = {"shares": [{"party_id": world.helper.id, "ppm": 600_001}]}
    refused = await put(client, f"{listing}/shares", world.seller, more, 1)
    assert (refused.status_code, refused.json()["code"]) == (409, "shares_exceed_net")
    clash = {"shares": [{"party_id": world.broker.id, "ppm": 1}]}
    refused = await put(client, f"{listing}/shares", world.seller, clash, 1)
    assert refused.json()["code"] == "intermediary_has_share"
    assert (await put(client, path, world.helper, body, 1)).status_code == 404


async def test_the_narrowest_newest_declaration_holds(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    listing = await make_listing(kernel, seller)
    plan = await make_plan(kernel, seller, listing.listing_id, price_minor=10_600)
    path = f"/v1/plans/{show('pln', plan.id)}/tax"
    shown = await client.get(
        f"/v1/listings/{show('lst', listing.listing_id)}", headers=seller.headers()
    )
    category = shown.json()["category"]

    async def rate() -> int:
        answer = await client.get(path, headers=seller.headers())
        ppm: int = answer.json()["rate_ppm"]
        return ppm

    async def declare(**body: object) -> httpx.Response:
        return await client.post("/v1/tax-declarations", json=body, headers=seller.headers())

    assert await rate() == 0
    for body, expected in (
        ({"rate_ppm": 10_000}, 10_000),
        ({"rate_ppm": 130_000, "category": category}, 130_000),
        ({"rate_ppm": 20_000}, 130_000),
        ({"rate_ppm": 90_000, "plan_id": show("pln", plan.id)}, 90_000),
        ({"rate_ppm": 60_000, "plan_id": show("pln", plan.id)}, 60_000),
    ):
        assert (await declare(**body)).status_code == 201
        assert await rate() == expected
    both = await declare(rate_ppm=1, category=category, plan_id=show("pln", plan.id))
    assert both.status_code == 422
    buyer = await make_party(kernel, Role.BUYER)
    tax = (await client.get(path, params={"lots": 3}, headers=buyer.headers())).json()
    assert tax["price_includes_tax"] is True
    assert (tax["without_tax_minor"], tax["tax_minor"], tax["total_minor"]) == (
        30_000,
        1_800,
        31_800,
    )
    other = await make_party(kernel, Role.SELLER)
    body = {"rate_ppm": 1, "plan_id": show("pln", plan.id)}
    refused = await client.post("/v1/tax-declarations", json=body, headers=other.headers())
    assert (refused.status_code, refused.json()["code"]) == (404, "plan_not_found")
    mine = await client.get("/v1/tax-declarations", headers=seller.headers())
    assert [row["rate_ppm"] for row in mine.json()["items"]] == [
        60_000, 90_000, 20_000, 130_000, 10_000,
    ]  # fmt: skip
    assert (await client.get("/v1/tax-declarations", headers=other.headers())).json()["items"] == []
