"""Bundles over HTTP and straight to an engine, and two plans of one seller to trade them in."""

import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.matching.bundle_schemas import BundleRequest
from market.matching.commands import PlaceBundle
from tests.listings.factories import make_listing
from tests.market.matching.factories import Scene, footprint, open_scene, scalar
from tests.market.parties.factories import Member
from tests.pricing.factories import make_plan


@dataclass(frozen=True)
class Pair:
    """Two instruments."""

    one: Scene
    two: Scene


async def open_pair(kernel: Kernel) -> Pair:
    """Two sellers with a plan each."""
    return Pair(await open_scene(kernel), await open_scene(kernel))


async def open_plans(kernel: Kernel, count: int) -> list[Scene]:
    """Metered plans of one seller, each with a listing of its own."""
    first = await open_scene(kernel)
    scenes = [first]
    for _ in range(count - 1):
        listing = await make_listing(kernel, first.seller)
        plan = await make_plan(
            kernel,
            first.seller,
            listing.listing_id,
            kind="metered",
            price_minor=1_000,
            lot_units=100,
        )
        scenes.append(Scene(kernel, first.seller, listing.listing_id, plan.id))
    return scenes


def leg(scene: Scene, side: str, lots: int, price_minor: int, **more: object) -> dict[str, Any]:
    """One leg."""
    return {
        "plan_id": scene.plan,
        "side": side,
        "lots": lots,
        "price_minor": price_minor,
        **more,
    }


async def send(
    client: httpx.AsyncClient,
    member: Member,
    *legs: dict[str, Any],
    key: str | None = None,
    **more: object,
) -> httpx.Response:
    """POST /v1/bundles."""
    body = {"legs": list(legs), **more}
    return await client.post("/v1/bundles", json=body, headers=member.headers(key))


async def sent(
    client: httpx.AsyncClient, member: Member, *legs: dict[str, Any], **more: object
) -> dict[str, Any]:
    """POST /v1/bundles that must fill; the bundle."""
    answer = await send(client, member, *legs, **more)  # type: ignore[arg-type]
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(
    client: httpx.AsyncClient,
    kernel: Kernel,
    member: Member,
    *legs: dict[str, Any],
    **more: object,
) -> dict[str, Any]:
    """POST /v1/bundles that must leave no trace; the problem."""
    before = await traces(kernel)
    answer = await send(client, member, *legs, **more)  # type: ignore[arg-type]
    assert answer.status_code >= 400, answer.text
    assert await traces(kernel) == before
    found: dict[str, Any] = answer.json()
    return found


async def traces(kernel: Kernel) -> dict[str, int]:
    """Counts of all that a bundle could leave behind, in the ledger and in the books too."""
    counts = await footprint(kernel)
    for table in ("bundle", "book_update"):
        counts[table] = await scalar(kernel, f"SELECT count(*) FROM matching.{table}")
    return counts


def bundle_command(member: Member, *legs: dict[str, Any], **more: object) -> PlaceBundle:
    """One for an engine without HTTP, under a fresh key."""
    return PlaceBundle(
        party_id=member.party_id,
        key=uuid.uuid4().hex,
        request_hash=bytes(32),
        body=BundleRequest.model_validate({"legs": list(legs), **more}),
        request_id="test",
        order_ids=tuple(new_id() for _ in legs),
    )
