"""Plans over HTTP, as sellers, buyers, operators and attackers use them."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from listings import offers
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from pricing.errors import PlanNotFound, PlanRetired
from pricing.plans import get_active_plan, get_plan, get_plans
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan, offer_again

METERED = {
    "kind": "metered",
    "currency": "CNY",
    "price_minor": 1_250,
    "unit": "row",
    "lot_units": 1_000,
    "term_days": 365,
    "acceptance_window_days": 7,
}
LICENSE = {"kind": "license", "currency": "CNY", "price_minor": 500_000, "term_days": 90}


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


def plans_of(listing_id: uuid.UUID) -> str:
    return f"/v1/listings/{show('lst', listing_id)}/plans"


async def summary(kernel: Kernel, listing_id: uuid.UUID) -> tuple[int | None, str | None, Any]:
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        return listing.from_minor, listing.currency, listing.plan_kinds


async def count(kernel: Kernel, statement: str, **values: Any) -> int:
    async with kernel.unit_of_work() as uow:
        result = await uow.session.connection()
        return int((await result.execute(text(statement), values)).scalar_one())


async def plan_count(kernel: Kernel, listing_id: uuid.UUID) -> int:
    return await count(
        kernel, "SELECT count(*) FROM pricing.plan WHERE listing_id = :id", id=listing_id
    )


async def test_a_seller_offers_metered_and_license_plans(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    made = await client.post(plans_of(listing_id), json=METERED, headers=world.seller.headers())
    assert made.status_code == 201
    plan = made.json()
    assert made.headers["location"] == f"/v1/plans/{plan['id']}"
    created_at = plan.pop("created_at")
    assert plan == {
        "id": plan["id"],
        "listing_id": show("lst", listing_id),
        "seller_id": world.seller.id,
        "status": "active",
        "retired_at": None,
        "counted_unit": "row",
        "counted_lot_units": 1_000,
        "ways_out": ["rows", "sharing", "bulk"],
        **METERED,
    }
    licensed = await client.post(plans_of(listing_id), json=LICENSE, headers=world.seller.headers())
    assert licensed.status_code == 201
    assert licensed.json()["unit"] == "license"
    assert licensed.json()["lot_units"] == 1
    assert licensed.json()["acceptance_window_days"] == 7

    shown = await client.get(made.headers["location"], headers=world.buyer.headers())
    assert shown.json() == {**plan, "created_at": created_at}
    assert await summary(kernel, listing_id) == (1_250, "CNY", ["license", "metered"])
    assert (
        await count(
            kernel,
            "SELECT count(*) FROM kernel.outbox WHERE type = 'plan.created' AND data->>'id' = :id",
            id=plan["id"],
        )
        == 1
    )


@pytest.mark.parametrize(
    "change",
    [
        {"price_minor": 0},
        {"price_minor": -1_250},
        {"price_minor": 12.5},
        {"price_minor": 12.0},
        {"price_minor": "1250"},
        {"price_minor": True},
        {"price_minor": None},
        {"price_minor": 10**15 + 1},
        {"price_minor": 10**400},
        {"lot_units": 0},
        {"lot_units": -1},
        {"lot_units": 1.5},
        {"lot_units": 10**9 + 1},
        {"unit": "license"},
        {"unit": "megabyte"},
        {"kind": "license"},
        {"kind": "subscription"},
        {"kind": None},
        {"currency": "cny"},
        {"currency": "XXX"},
        {"currency": ""},
        {"term_days": 0},
        {"term_days": 3_651},
        {"acceptance_window_days": -1},
        {"acceptance_window_days": 91},
        {"seller_id": "pty_" + "0" * 32},
        {"status": "retired"},
    ],
)
async def test_a_malformed_plan_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, kernel: Kernel, world: World, change: dict[str, Any]
) -> None:
    listing = await shared_listing(kernel, world)
    answer = await client.post(
        plans_of(listing), json={**METERED, **change}, headers=world.seller.headers()
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "validation_failed"
    assert await plan_count(kernel, listing) == 0
    assert await summary(kernel, listing) == (None, None, [])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e2"])
async def test_numbers_that_json_smuggles_in_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, world: World, number: str
) -> None:
    listing = await shared_listing(kernel, world)
    body = (
        '{"kind":"license","currency":"CNY","term_days":1,"price_minor":' + number + "}"
    ).encode()
    answer = await client.post(
        plans_of(listing),
        content=body,
        headers={**world.seller.headers(), "content-type": "application/json"},
    )
    assert answer.status_code in {400, 422}
    assert answer.json()["code"] in {"json_invalid", "validation_failed"}
    assert await plan_count(kernel, listing) == 0


_shared: dict[int, uuid.UUID] = {}


async def shared_listing(kernel: Kernel, world: World) -> uuid.UUID:
    """One listing for the many refusals, which must all leave it as it was."""
    if id(kernel) not in _shared:
        _shared[id(kernel)] = await offer_again(kernel, world.seller, world.product_id)
    return _shared[id(kernel)]


async def test_only_the_seller_of_the_listing_makes_plans(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    path = plans_of(listing_id)
    for member, status, code in (
        (world.rival, 404, "listing_not_found"),
        (world.buyer, 403, "role_required"),
        (world.operator, 403, "role_required"),
        (world.regulator, 403, "role_required"),
    ):
        answer = await client.post(path, json=METERED, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    unknown = await client.post(plans_of(new_id()), json=METERED, headers=world.seller.headers())
    foreign = await client.post(path, json=METERED, headers=world.rival.headers())
    assert unknown.status_code == 404
    # A stranger's listing cannot be told from one that does not exist.
    hidden = {"request_id"}
    assert {k: v for k, v in unknown.json().items() if k not in hidden} == {
        k: v for k, v in foreign.json().items() if k not in hidden
    }
    malformed = await client.post(
        "/v1/listings/lst_1/plans", json=METERED, headers=world.seller.headers()
    )
    assert malformed.status_code == 422
    anonymous = await client.post(path, json=METERED, headers={"Idempotency-Key": "k" * 20})
    assert anonymous.status_code == 401
    keyless = await client.post(
        path, json=METERED, headers={"Authorization": f"Bearer {world.seller.token}"}
    )
    assert (keyless.status_code, keyless.json()["code"]) == (400, "idempotency_key_required")
    assert await plan_count(kernel, listing_id) == 0


async def test_a_repeated_key_repeats_the_answer_not_the_plan(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    path, headers = plans_of(listing_id), world.seller.headers()
    first = await client.post(path, json=METERED, headers=headers)
    again = await client.post(path, json=METERED, headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    other = await client.post(path, json={**METERED, "price_minor": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await plan_count(kernel, listing_id) == 1

    refused = world.seller.headers()
    usd = {**METERED, "currency": "USD"}
    no = await client.post(path, json=usd, headers=refused)
    assert (no.status_code, no.json()["code"]) == (409, "plan_currency_mismatch")
    retired = await client.post(
        f"{first.headers['location']}/retire", headers=world.seller.headers()
    )
    assert retired.status_code == 200
    # The refusal is remembered although the same request would succeed now.
    still = await client.post(path, json=usd, headers=refused)
    assert (still.status_code, still.content) == (409, no.content)
    fresh = await client.post(path, json=usd, headers=world.seller.headers())
    assert fresh.status_code == 201
    assert await summary(kernel, listing_id) == (1_250, "USD", ["metered"])


async def test_concurrent_duplicates_make_one_plan(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    headers = world.seller.headers()
    answers = await asyncio.gather(
        *(client.post(plans_of(listing_id), json=METERED, headers=headers) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({a.content for a in answers if a.status_code == 201}) == 1
    assert await plan_count(kernel, listing_id) == 1


async def test_concurrent_plans_leave_the_lowest_price_in_the_summary(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    prices = [700, 300, 900, 100, 500, 800]
    answers = await asyncio.gather(
        *(
            client.post(
                plans_of(listing_id),
                json={**METERED, "price_minor": price},
                headers=world.seller.headers(),
            )
            for price in prices
        )
    )
    assert [answer.status_code for answer in answers] == [201] * 6
    assert await summary(kernel, listing_id) == (100, "CNY", ["metered"])
    cheapest = next(a.json() for a in answers if a.json()["price_minor"] == 100)
    await client.post(f"/v1/plans/{cheapest['id']}/retire", headers=world.seller.headers())
    assert await summary(kernel, listing_id) == (300, "CNY", ["metered"])


async def test_retirement_is_the_sellers_and_happens_once(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    plan = await make_plan(kernel, world.seller, listing_id)
    path = f"/v1/plans/{show('pln', plan.id)}/retire"
    for member, status, code in (
        (world.rival, 404, "plan_not_found"),
        (world.buyer, 403, "role_required"),
        (world.operator, 403, "role_required"),
    ):
        answer = await client.post(path, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    async with kernel.unit_of_work() as uow:
        assert (await get_active_plan(uow, plan.id)).id == plan.id

    answers = await asyncio.gather(
        *(client.post(path, headers=world.seller.headers()) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    done = next(answer.json() for answer in answers if answer.status_code == 200)
    assert done["status"] == "retired"
    assert done["retired_at"] is not None
    assert await summary(kernel, listing_id) == (None, None, [])
    async with kernel.unit_of_work() as uow:
        assert (await get_plan(uow, plan.id)).retired_at is not None
        assert set(await get_plans(uow, [plan.id, new_id()])) == {plan.id}
        assert await get_plans(uow, []) == {}
        with pytest.raises(PlanRetired):
            await get_active_plan(uow, plan.id)
        with pytest.raises(PlanNotFound):
            await get_active_plan(uow, new_id())
    assert (
        await count(
            kernel,
            "SELECT count(*) FROM kernel.outbox WHERE type = 'plan.retired' AND object_id = :id",
            id=plan.id,
        )
        == 1
    )


async def test_plans_of_a_draft_are_seen_by_its_seller_and_overseers_only(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    draft = (await make_listing(kernel, world.seller, live=False)).listing_id
    plan = await make_plan(kernel, world.seller, draft)
    for path in (plans_of(draft), f"/v1/plans/{show('pln', plan.id)}"):
        for member in (world.seller, world.operator, world.regulator):
            assert (await client.get(path, headers=member.headers())).status_code == 200
        for member in (world.rival, world.buyer):
            assert (await client.get(path, headers=member.headers())).status_code == 404
        assert (await client.get(path)).status_code == 401


async def test_the_list_pages_and_filters(
    client: httpx.AsyncClient, kernel: Kernel, world: World, listing_id: uuid.UUID
) -> None:
    made = [
        await make_plan(kernel, world.seller, listing_id, price_minor=100 + n) for n in range(5)
    ]
    await client.post(f"/v1/plans/{show('pln', made[1].id)}/retire", headers=world.seller.headers())
    path, headers = plans_of(listing_id), world.buyer.headers()
    seen: list[str] = []
    after: str | None = None
    for _ in range(5):
        query = {"limit": "2", **({"after": after} if after else {})}
        page = (await client.get(path, params=query, headers=headers)).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next_after"]
        if not page["has_more"]:
            break
    assert seen == [show("pln", plan.id) for plan in made]
    active = (await client.get(path, params={"status": "active"}, headers=headers)).json()
    assert len(active["items"]) == 4
    for query in ({"limit": "0"}, {"limit": "201"}, {"after": "x"}, {"status": "gone"}):
        assert (await client.get(path, params=query, headers=headers)).status_code == 422


async def test_limits_and_closed_listings(
    client: httpx.AsyncClient,
    kernel: Kernel,
    world: World,
    listing_id: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pricing.plans.ACTIVE_PLANS_MAX", 2)
    for expected in (201, 201, 409):
        answer = await client.post(
            plans_of(listing_id), json=METERED, headers=world.seller.headers()
        )
        assert answer.status_code == expected
    assert answer.json()["code"] == "too_many_plans"
    monkeypatch.undo()
    delisted = await client.post(
        f"/v1/listings/{show('lst', listing_id)}/delist", headers=world.seller.headers()
    )
    assert delisted.status_code == 200
    closed = await client.post(plans_of(listing_id), json=METERED, headers=world.seller.headers())
    assert (closed.status_code, closed.json()["code"]) == (409, "listing_closed")
    assert await plan_count(kernel, listing_id) == 2
