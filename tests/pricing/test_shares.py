"""Shares over HTTP: versions, conflicts, sums, strangers."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from pricing.shares import get_shares
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import offer_again


@dataclass(frozen=True)
class World:
    product_id: uuid.UUID
    seller: Member
    rival: Member
    buyer: Member
    operator: Member
    regulator: Member


@pytest.fixture(scope="module")
async def world(kernel: Kernel) -> World:
    seller = await make_party(kernel, Role.SELLER)
    return World(
        product_id=(await make_listing(kernel, seller)).product_id,
        seller=seller,
        rival=await make_party(kernel, Role.SELLER),
        buyer=await make_party(kernel, Role.BUYER),
        operator=await make_party(kernel, Role.OPERATOR),
        regulator=await make_party(kernel, Role.REGULATOR),
    )


@pytest.fixture
async def listing_id(kernel: Kernel, world: World) -> uuid.UUID:
    return await offer_again(kernel, world.seller, world.product_id)


def path_of(listing_id: uuid.UUID) -> str:
    return f"/v1/listings/{show('lst', listing_id)}/shares"


def put_headers(member: Member, version: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {member.token}", "If-Match": f'"{version}"'}


def shares(*parts: tuple[str, int]) -> dict[str, Any]:
    return {"shares": [{"party_id": party, "ppm": ppm} for party, ppm in parts]}


async def stored(kernel: Kernel, listing_id: uuid.UUID) -> list[tuple[uuid.UUID, int]]:
    async with kernel.unit_of_work() as uow:
        return [(row.party_id, row.ppm) for row in await get_shares(uow, listing_id)]


async def test_a_seller_sets_and_replaces_shares(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    path = path_of(listing_id)
    before = await client.get(path, headers=world.seller.headers())
    assert before.headers["etag"] == '"0"'
    assert before.json() == {
        "listing_id": show("lst", listing_id),
        "version": 0,
        "shares": [],
        "seller_ppm": 1_000_000,
        "set_by": None,
        "created_at": None,
    }
    body = shares((world.rival.id, 150_000), (world.buyer.id, 50_000))
    first = await client.put(path, json=body, headers=put_headers(world.seller, 0))
    assert first.status_code == 200
    assert first.headers["etag"] == '"1"'
    assert first.json()["shares"] == body["shares"]
    assert first.json()["seller_ppm"] == 800_000
    assert await stored(kernel, listing_id) == [
        (world.rival.party_id, 150_000),
        (world.buyer.party_id, 50_000),
    ]
    second = await client.put(
        path, json=shares((world.buyer.id, 999_999)), headers=put_headers(world.seller, 1)
    )
    assert second.json()["version"] == 2
    cleared = await client.put(path, json=shares(), headers=put_headers(world.seller, 2))
    assert (cleared.json()["version"], cleared.json()["seller_ppm"]) == (3, 1_000_000)
    assert await stored(kernel, listing_id) == []
    for member in (world.seller, world.operator, world.regulator):
        seen = await client.get(path, headers=member.headers())
        assert seen.json() == cleared.json()
    async with kernel.unit_of_work() as uow:
        history = await (await uow.raw()).fetch(
            "SELECT version, party_id, ppm FROM pricing.share WHERE listing_id = $1"
            " ORDER BY version, position",
            listing_id,
        )
        assert [tuple(row) for row in history] == [
            (1, world.rival.party_id, 150_000),
            (1, world.buyer.party_id, 50_000),
            (2, world.buyer.party_id, 999_999),
        ]
        events = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM kernel.outbox WHERE type = 'shares.changed' AND object_id = $1",
            listing_id,
        )
        assert events == 3


async def test_a_lost_update_is_refused(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    path, body = path_of(listing_id), shares((world.rival.id, 1))
    missing = await client.put(
        path, json=body, headers={"Authorization": f"Bearer {world.seller.token}"}
    )
    assert (missing.status_code, missing.json()["code"]) == (428, "if_match_required")
    for version in (1, 7):
        stale = await client.put(path, json=body, headers=put_headers(world.seller, version))
        assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    for form in ("0", 'W/"0"', "*", '"x"', '"-1"'):
        wrong = await client.put(
            path, json=body, headers={**put_headers(world.seller, 0), "If-Match": form}
        )
        assert wrong.status_code == 412
    assert await stored(kernel, listing_id) == []

    answers = await asyncio.gather(
        *(
            client.put(
                path, json=shares((world.rival.id, ppm)), headers=put_headers(world.seller, 0)
            )
            for ppm in range(1, 7)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 5]
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    assert await stored(kernel, listing_id) == [(world.rival.party_id, winner["shares"][0]["ppm"])]


async def test_shares_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    rival, buyer = world.rival.id, world.buyer.id
    stranger = show("pty", new_id())
    cases: list[tuple[Any, str]] = [
        (shares((rival, 600_000), (buyer, 400_000)), "validation_failed"),
        (shares((rival, 1_000_000)), "validation_failed"),
        (shares((rival, 0)), "validation_failed"),
        (shares((rival, -1)), "validation_failed"),
        ({"shares": [{"party_id": rival, "ppm": 0.5}]}, "validation_failed"),
        ({"shares": [{"party_id": rival, "ppm": "5"}]}, "validation_failed"),
        ({"shares": [{"party_id": rival, "ppm": 10**400}]}, "validation_failed"),
        ({"shares": [{"party_id": rival, "ppm": 5, "note": "x"}]}, "validation_failed"),
        (shares((rival, 1), (rival, 2)), "validation_failed"),
        (shares(("crd_" + "0" * 32, 1)), "validation_failed"),
        (shares(*((show("pty", new_id()), 1) for _ in range(51))), "validation_failed"),
        ({"shares": None}, "validation_failed"),
        ({}, "validation_failed"),
        (shares((rival, 1), (stranger, 1)), "share_party_unknown"),
        (shares((world.seller.id, 1)), "share_for_seller"),
    ]
    for body, code in cases:
        answer = await client.put(
            path_of(listing_id), json=body, headers=put_headers(world.seller, 0)
        )
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await stored(kernel, listing_id) == []
    shown = await client.get(path_of(listing_id), headers=world.seller.headers())
    assert shown.json()["version"] == 0


async def test_strangers_neither_see_nor_set_shares(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    path, body = path_of(listing_id), shares((world.rival.id, 999_999))
    for member, status in ((world.rival, 404), (world.buyer, 403), (world.operator, 403)):
        answer = await client.put(path, json=body, headers=put_headers(member, 0))
        assert answer.status_code == status
    for member, status in ((world.rival, 404), (world.buyer, 403)):
        assert (await client.get(path, headers=member.headers())).status_code == status
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path_of(new_id()), headers=world.seller.headers())).status_code == 404
    assert await stored(kernel, listing_id) == []
