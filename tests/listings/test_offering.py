"""Listings over HTTP: from draft to the market and off it again."""

from typing import Any

import httpx
import pytest

from listings import jobs
from listings.errors import ListingNotFound, ListingNotLive
from listings.offers import get_listing, get_live_listing, get_live_listings, set_price_summary
from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse, show
from market.kernel.security import Role
from market.parties.schemas import Suspension
from market.parties.verification import suspend_party
from tests.listings.factories import any_operator, listing_body, make_listing, make_product
from tests.market.parties.factories import Member, make_party


@pytest.fixture(scope="module")
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER, name="气象局 Weather Bureau")


@pytest.fixture(scope="module")
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


@pytest.fixture(scope="module")
async def product_id(kernel: Kernel, seller: Member) -> str:
    made, _ = await make_product(kernel, seller, rows=10)
    return show("prd", made)


async def post(
    client: httpx.AsyncClient, member: Member, path: str, body: Any = None
) -> httpx.Response:
    return await client.post(path, json=body, headers=member.headers())


async def draft(client: httpx.AsyncClient, seller: Member, product_id: str, **changes: Any) -> str:
    answer = await post(client, seller, "/v1/listings", listing_body(product_id, **changes))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def in_catalog(client: httpx.AsyncClient, listing_id: str) -> bool:
    item = await client.get(f"/v1/catalog/{listing_id}")
    sample = await client.get(f"/v1/catalog/{listing_id}/sample")
    found = await client.get("/v1/catalog?limit=200")
    hit = listing_id in {each["listing_id"] for each in found.json()["items"]}
    assert (item.status_code == 200) == (sample.status_code == 200) == hit
    return hit


async def test_the_life_of_a_listing(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member, product_id: str
) -> None:
    title = {"en": "Hourly weather “München”", "zh": "逐小时气象观测🌦"}
    listing_id = await draft(client, seller, product_id, title=title)
    path = f"/v1/listings/{listing_id}"
    uuid = parse("lst", listing_id)

    async def live() -> bool:
        async with kernel.unit_of_work() as uow:
            try:
                return (await get_live_listing(uow, uuid)).id == uuid
            except (ListingNotLive, ListingNotFound):
                return False

    for member, step, body, status, visible in (
        (seller, "submit", None, "in_review", False),
        (operator, "approve", None, "listed", True),
        (operator, "suspend", {"reason": "complaint 7"}, "suspended", False),
        (operator, "resume", None, "listed", True),
        (seller, "delist", None, "delisted", False),
    ):
        answer = await post(client, member, f"{path}/{step}", body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["status"], answer.json()["title"]) == (status, title)
        assert await in_catalog(client, listing_id) is visible
        assert await live() is visible
    decisions = (await client.get(f"{path}/decisions", headers=seller.headers())).json()
    assert [each["action"] for each in decisions] == [
        "submit",
        "approve",
        "suspend",
        "resume",
        "delist",
    ]
    assert decisions[2]["reason"] == "complaint 7"
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT type FROM kernel.outbox WHERE object_id = $1 ORDER BY seq", uuid
        )
    assert [row["type"] for row in rows] == [
        "listing.created",
        "listing.submitted",
        "listing.listed",
        "listing.suspended",
        "listing.resumed",
        "listing.delisted",
    ]


async def test_illegal_steps_change_nothing(
    client: httpx.AsyncClient, seller: Member, operator: Member, product_id: str
) -> None:
    listing_id = await draft(client, seller, product_id)
    path = f"/v1/listings/{listing_id}"
    reason = {"reason": "because"}
    before = (await client.get(path, headers=seller.headers())).json()
    for member, step, body in (
        (operator, "approve", None),
        (operator, "reject", reason),
        (operator, "suspend", reason),
        (operator, "resume", None),
        (operator, "delist", None),
        (seller, "delist", None),
    ):
        refused = await post(client, member, f"{path}/{step}", body)
        assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
        assert refused.json()["allowed"] == ["submit"]
    for step, body in (
        ("approve", None),
        ("reject", reason),
        ("suspend", reason),
        ("resume", None),
    ):
        refused = await post(client, seller, f"{path}/{step}", body)
        assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    assert (await client.get(path, headers=seller.headers())).json() == before


async def test_rejected_listings_are_revised(
    client: httpx.AsyncClient, seller: Member, operator: Member, product_id: str
) -> None:
    listing_id = await draft(client, seller, product_id)
    path = f"/v1/listings/{listing_id}"
    await post(client, seller, f"{path}/submit")
    rejected = await post(client, operator, f"{path}/reject", {"reason": "title misleads"})
    assert rejected.json()["status_reason"] == "title misleads"
    tag = (await client.get(path, headers=seller.headers())).headers["ETag"]
    patch = {"title": {"en": "Flight delays of 2013"}, "category": "weather"}
    fixed = await client.patch(path, json=patch, headers={**seller.headers(), "If-Match": tag})
    assert (fixed.status_code, fixed.json()["status"]) == (200, "draft")
    assert fixed.json()["title"] == {"en": "Flight delays of 2013", "zh": None}
    assert fixed.json()["category"] == "weather"
    stale = await client.patch(path, json=patch, headers={**seller.headers(), "If-Match": tag})
    assert stale.status_code == 412
    await post(client, seller, f"{path}/submit")
    listed = await post(client, operator, f"{path}/approve")
    assert listed.json()["status"] == "listed"
    tag = (await client.get(path, headers=seller.headers())).headers["ETag"]
    late = await client.patch(path, json=patch, headers={**seller.headers(), "If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (409, "not_editable")


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "listed"},
        {"seller_id": show("pty", new_id())},
        {"policy": {}},
        {"title": {"en": ""}},
        {"category": "spells"},
        {"version_id": "ver_1"},
    ],
)
async def test_bad_offers(
    client: httpx.AsyncClient, seller: Member, product_id: str, changes: dict[str, Any]
) -> None:
    answer = await post(client, seller, "/v1/listings", listing_body(product_id, **changes))
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": []},
        {"purposes": ["world_domination"]},
        {"purposes": ["model_training", "model_training"]},
        {"territory": ["Europe"]},
        {"redistribution": None},
        {"deletion_days": -1},
        {"deletion_days": 10**9},
        {"period_days": 0},
        {"secret": True},
    ],
)
async def test_bad_policies(
    client: httpx.AsyncClient, seller: Member, product_id: str, changes: dict[str, Any]
) -> None:
    body = listing_body(product_id)
    body["policy"] = {**body["policy"], **changes}
    answer = await post(client, seller, "/v1/listings", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


async def test_only_certified_data_of_its_owner_is_offered(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, product_id: str
) -> None:
    draft_id, _ = await make_product(kernel, seller, rows=5, certified=False)
    early = await post(client, seller, "/v1/listings", listing_body(show("prd", draft_id)))
    assert (early.status_code, early.json()["code"]) == (409, "product_not_registered")
    other = await make_party(kernel, Role.SELLER)
    foreign = await post(client, other, "/v1/listings", listing_body(product_id))
    assert (foreign.status_code, foreign.json()["code"]) == (404, "product_not_found")
    _, other_version = await make_product(kernel, other, rows=6)
    mixed = listing_body(product_id, version_id=show("ver", other_version))
    crossed = await post(client, seller, "/v1/listings", mixed)
    assert (crossed.status_code, crossed.json()["code"]) == (409, "product_not_registered")
    buyer = await make_party(kernel, Role.BUYER)
    assert (await post(client, buyer, "/v1/listings", listing_body(product_id))).status_code == 403


async def test_listing_needs_the_right_of_operation(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    held = {"held": True, "basis": "contract"}
    rights = {"holding": held, "processing_use": held, "product_operation": {"held": False}}
    made, _ = await make_product(kernel, seller, rows=7, rights=rights)
    answer = await post(client, seller, "/v1/listings", listing_body(show("prd", made)))
    assert (answer.status_code, answer.json()["code"]) == (422, "right_missing")


async def test_unpublished_listings_do_not_exist_for_others(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member, product_id: str
) -> None:
    listing_id = await draft(client, seller, product_id)
    path = f"/v1/listings/{listing_id}"
    other = await make_party(kernel, Role.SELLER)
    regulator = await make_party(kernel, Role.REGULATOR)
    assert (await client.get(path, headers=other.headers())).status_code == 404
    assert (await client.get(path, headers=regulator.headers())).status_code == 200
    assert (await client.get(f"/v1/catalog/{listing_id}")).status_code == 404
    assert (await client.get(f"/v1/catalog/{listing_id}/sample")).status_code == 404
    for step in ("submit", "delist"):
        assert (await post(client, other, f"{path}/{step}")).status_code == 404
    headers = {**other.headers(), "If-Match": '"1"'}
    stolen = await client.patch(path, json={"summary": "x"}, headers=headers)
    assert stolen.status_code == 404
    await post(client, seller, f"{path}/submit")
    await post(client, operator, f"{path}/approve")
    assert (await client.get(path, headers=other.headers())).status_code == 200
    hidden = await client.get(f"{path}/decisions", headers=other.headers())
    assert hidden.status_code == 404
    mine = await client.get("/v1/listings?status=listed&limit=200", headers=seller.headers())
    assert listing_id in {each["id"] for each in mine.json()["items"]}
    assert (await client.get("/v1/listings", headers=other.headers())).json()["items"] == []


async def test_the_review_queue_is_walked_in_order(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, seller: Member, product_id: str
) -> None:
    made = [await draft(client, seller, product_id) for _ in range(5)]
    for listing_id in made:
        await post(client, seller, f"/v1/listings/{listing_id}/submit")
    seen: list[dict[str, Any]] = []
    after = ""
    for _ in range(20):
        answer = await client.get(f"/v1/reviews?limit=2{after}", headers=operator.headers())
        assert answer.status_code == 200, answer.text
        seen += answer.json()["items"]
        if not answer.json()["has_more"]:
            break
        after = f"&after={answer.json()['next_after']}"
    assert [each["id"] for each in seen if each["kind"] == "listing"] == made
    assert [each["submitted_at"] for each in seen] == sorted(each["submitted_at"] for each in seen)
    regulator = await make_party(kernel, Role.REGULATOR)
    assert (await client.get("/v1/reviews", headers=regulator.headers())).status_code == 200
    assert (await client.get("/v1/reviews", headers=seller.headers())).status_code == 403
    bad = await client.get("/v1/reviews?after=WyJ4IiwieSJd", headers=operator.headers())
    assert (bad.status_code, bad.json()["code"]) == (422, "cursor_invalid")
    for listing_id in made:
        await post(client, operator, f"/v1/listings/{listing_id}/reject", {"reason": "test"})


async def test_price_summary_reaches_the_catalog(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    made = await make_listing(kernel, seller, rows=8)
    path = f"/v1/catalog/{show('lst', made.listing_id)}"
    assert (await client.get(path)).json()["price"] is None
    async with kernel.unit_of_work() as uow:
        await set_price_summary(
            uow,
            made.listing_id,
            from_minor=250,
            currency="CNY",
            plan_kinds=["metered", "license", "metered"],
        )
    price = {"from_minor": 250, "currency": "CNY", "plan_kinds": ["license", "metered"]}
    assert (await client.get(path)).json()["price"] == price
    hits = (await client.get("/v1/catalog?currency=CNY&max_price_minor=250")).json()["items"]
    assert [hit["price"] for hit in hits] == [price]
    assert (await client.get("/v1/catalog?currency=CNY&max_price_minor=249")).json()["items"] == []
    async with kernel.unit_of_work() as uow:
        with pytest.raises(ValueError, match="needs its currency"):
            await set_price_summary(
                uow, made.listing_id, from_minor=1, currency=None, plan_kinds=[]
            )
        with pytest.raises(ListingNotFound):
            await set_price_summary(uow, new_id(), from_minor=None, currency=None, plan_kinds=[])
        await set_price_summary(uow, made.listing_id, from_minor=None, currency=None, plan_kinds=[])
    assert (await client.get(path)).json()["price"] is None


async def test_a_suspended_seller_leaves_the_market(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    bad = await make_party(kernel, Role.SELLER)
    made = await make_listing(kernel, bad, rows=9)
    listing_id = show("lst", made.listing_id)
    assert await jobs.suspend_listings_of_suspended_sellers(kernel) == 0
    await suspend_party(kernel, any_operator(), bad.party_id, Suspension(reason="fraud"))
    async with kernel.unit_of_work() as uow:
        with pytest.raises(ListingNotLive, match="seller may not trade"):
            await get_live_listing(uow, made.listing_id)
        unknown = new_id()
        found = await get_live_listings(uow, [made.listing_id, unknown])
        assert isinstance(found[made.listing_id], ListingNotLive)
        assert isinstance(found[unknown], ListingNotFound)
        assert await get_live_listings(uow, []) == {}
    assert await jobs.suspend_listings_of_suspended_sellers(kernel) == 1
    assert await in_catalog(client, listing_id) is False
    async with kernel.unit_of_work() as uow:
        assert (await get_listing(uow, made.listing_id)).status == "suspended"
    assert await jobs.suspend_listings_of_suspended_sellers(kernel) == 0
    operator = await make_party(kernel, Role.OPERATOR)
    resumed = await post(client, operator, f"/v1/listings/{listing_id}/resume")
    assert (resumed.status_code, resumed.json()["code"]) == (403, "party_not_verified")
    assert await in_catalog(client, listing_id) is False
