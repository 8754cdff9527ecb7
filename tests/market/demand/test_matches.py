"""Matches over the real catalog: filtered, ranked, explained, paged; nothing unpublished."""

from typing import Any
from uuid import UUID

import httpx
import pyarrow as pa
import pytest

from listings.reviews import suspend_listing
from listings.schemas import Reason
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.listings.factories import any_operator, make_listing
from tests.market.demand.factories import got, make_request
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan

POLICY = {
    "territory": ["CN"],
    "redistribution": False,
    "derivative_use": True,
    "deletion_days": None,
}
RESEARCH = {**POLICY, "purposes": ["academic_research"]}
TRAINING = {**POLICY, "purposes": ["model_training"]}


def table(rows: int, *names: str) -> pa.Table:
    """Integers under ``names`` and a column ``day`` over January 2025 (31 rows and more)."""
    columns: dict[str, Any] = {name: pa.array(range(rows), pa.int64()) for name in names}
    columns["day"] = pa.array([20_089 + at % 31 for at in range(rows)], pa.date32())
    return pa.table(columns)


@pytest.fixture(scope="module")
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


@pytest.fixture(scope="module")
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER)


@pytest.fixture(scope="module")
async def market(kernel: Kernel, seller: Member) -> dict[str, str]:
    """Names and ids: two on traffic in Shanghai, one in Beijing, one on energy, some hidden."""
    ids: dict[str, str] = {}

    async def offer(name: str, price_minor: int | None, **more: Any) -> None:
        made = await make_listing(kernel, seller, **more)
        if price_minor is not None:
            await make_plan(
                kernel, seller, made.listing_id, kind="license", price_minor=price_minor
            )
        ids[name] = show("lst", made.listing_id)

    traffic = {"en": "Road traffic", "zh": "道路交通流量"}
    await offer(
        "cheap",
        500,
        table=table(100, "road", "cars"),
        regions=["CN-SH"],
        policy=TRAINING,
        title={"en": "Road sensors", "zh": "道路传感器"},
    )
    await offer(
        "wordy",
        900,
        table=table(400, "road", "cars", "speed", "lane"),
        regions=["CN"],
        policy=TRAINING,
        title=traffic,
    )
    await offer(
        "north",
        400,
        table=table(200, "road", "cars"),
        regions=["CN-BJ"],
        policy=TRAINING,
        title=traffic,
    )
    await offer(
        "energy",
        100,
        table=table(300, "road", "cars"),
        regions=["CN-SH"],
        policy=TRAINING,
        category="energy",
        title={"en": "Charging of cars on the road", "zh": "道路充电与交通流量"},
    )
    await offer(
        "research",
        100,
        table=table(150, "road", "cars"),
        regions=["CN-SH"],
        policy=RESEARCH,
        title=traffic,
    )
    hidden = {"regions": ["CN-SH"], "policy": TRAINING, "title": traffic}
    await offer("draft", 100, table=table(101, "road", "cars"), live=False, **hidden)
    await offer("suspended", 100, table=table(102, "road", "cars"), **hidden)
    suspended = ids["suspended"].removeprefix("lst_")
    await suspend_listing(kernel, any_operator(), _uuid(suspended), Reason(reason="A complaint."))
    return ids


def _uuid(hex_: str) -> UUID:
    return UUID(hex_)


WANTED = {
    "category": "transport",
    "regions": ["CN-SH"],
    "fields": ["road", "cars"],
    "purposes": ["model_training"],
    "period": {"start": "2025-01-01", "end": "2025-01-31"},
    "budget": {"amount_minor": 1_000, "currency": "CNY"},
}


async def matches(
    client: httpx.AsyncClient, buyer: Member, constraints: dict[str, Any], **params: Any
) -> dict[str, Any]:
    """The matches of a new request for traffic data."""
    body = {"title": "求购：上海交通流量", "text": "Traffic on roads.", "constraints": constraints}
    made = await make_request(client, buyer, **body)
    found: dict[str, Any] = await got(
        client, buyer, f"/v1/requests/{made['id']}/matches", limit=200, **params
    )
    return found


async def test_hard_constraints_filter_and_three_rankings_order(
    client: httpx.AsyncClient, buyer: Member, market: dict[str, str]
) -> None:
    page = await matches(client, buyer, WANTED)
    assert (page["total"], page["exact"], page["has_more"]) == (2, True, False)
    first, second = page["items"]
    # Closer (its columns and region are what was asked for) and cheaper beats wordier.
    assert [first["listing_id"], second["listing_id"]] == [market["cheap"], market["wordy"]]
    assert first["places"] == {"closeness": 1, "text": 2, "price": 1}
    assert second["places"] == {"closeness": 2, "text": 1, "price": 2}
    assert first["score"] == 16_393_442 + 16_129_032 + 16_393_442
    assert second["score"] == 16_129_032 + 16_393_442 + 16_129_032
    assert first["cost"]["amount_minor"] == 500
    assert first["failed"] is None
    assert {check["constraint"]: check["found"] for check in first["checks"]} == {
        "category": "transport",
        "fields": "all among 3 columns",
        "regions": "CN-SH",
        "period": "2025-01-01 to 2025-01-31",
        "purposes": "model_training",
        "territory": "CN",
        "budget": "5.00 CNY",
    }
    assert all(check["met"] for check in first["checks"])


async def test_near_misses_name_the_one_constraint_that_failed(
    client: httpx.AsyncClient, buyer: Member, market: dict[str, str]
) -> None:
    page = await matches(client, buyer, WANTED, near_misses=True)
    failed = {item["listing_id"]: item["failed"] for item in page["items"]}
    assert failed == {
        market["north"]: "regions",
        market["energy"]: "category",
        market["research"]: "purposes",
    }


async def test_relaxing_a_constraint_adds_and_never_removes(
    client: httpx.AsyncClient, buyer: Member, market: dict[str, str]
) -> None:
    strict = {item["listing_id"] for item in (await matches(client, buyer, WANTED))["items"]}
    assert strict == {market["cheap"], market["wordy"]}
    for name in WANTED:
        less = {key: value for key, value in WANTED.items() if key != name}
        found = {item["listing_id"] for item in (await matches(client, buyer, less))["items"]}
        assert strict <= found
        assert {market["draft"], market["suspended"]}.isdisjoint(found)
    less = {"category": "transport"}
    found = {item["listing_id"] for item in (await matches(client, buyer, less))["items"]}
    assert found >= {market[name] for name in ("cheap", "wordy", "north", "research")}
    assert market["energy"] not in found


async def test_pages_are_the_whole_in_order(
    client: httpx.AsyncClient, buyer: Member, market: dict[str, str]
) -> None:
    body = {"title": "交通", "text": "Roads.", "constraints": {"regions": ["CN-SH"]}}
    made = await make_request(client, buyer, **body)
    path = f"/v1/requests/{made['id']}/matches"
    whole = await got(client, buyer, path, limit=200)
    assert whole["total"] == 4
    seen: list[Any] = []
    after: dict[str, str] = {}
    for _ in range(4):
        page = await got(client, buyer, path, limit=1, **after)
        seen += page["items"]
        after = {"after": page["next_after"]} if page["has_more"] else {}
    assert after == {}
    assert seen == whole["items"]
    wrong = await client.get(path, params={"after": "AAAA"}, headers=buyer.headers())
    assert (wrong.status_code, wrong.json()["code"]) == (422, "cursor_invalid")


async def test_without_a_budget_prices_are_shown_and_not_ranked(
    client: httpx.AsyncClient, buyer: Member, market: dict[str, str]
) -> None:
    page = await matches(client, buyer, {"regions": ["CN-SH"]})
    assert {item["places"]["price"] for item in page["items"]} == {None}
    costs = {item["listing_id"]: item["cost"]["amount_minor"] for item in page["items"]}
    assert costs[market["wordy"]] == 900


async def test_matches_are_for_the_buyer_and_overseers(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, seller: Member
) -> None:
    made = await make_request(client, buyer)
    path = f"/v1/requests/{made['id']}/matches"
    regulator = await make_party(kernel, Role.REGULATOR)
    assert (await client.get(path, headers=regulator.headers())).status_code == 200
    assert (await client.get(path, headers=seller.headers())).status_code == 404


async def test_own_listings_do_not_match(client: httpx.AsyncClient, kernel: Kernel) -> None:
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    made = await make_listing(kernel, both, rows=10, category="science")
    other = await make_listing(
        kernel, await make_party(kernel, Role.SELLER), rows=10, category="science"
    )
    page = await matches(client, both, {"category": "science"})
    ids = [item["listing_id"] for item in page["items"]]
    assert ids == [show("lst", other.listing_id)]
    assert show("lst", made.listing_id) not in ids
