"""Valuations over HTTP: golden numbers, evidence, own trades, strangers, malformed input."""

import asyncio
import copy
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from listings import offers
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.money import MAX_MINOR
from market.kernel.security import Role
from pricing.observations import Observation, record
from tests.listings.factories import MadeListing, make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan, offer_again

PATH = "/v1/valuations"
# Golden numbers of reference/pricing.md A3 row 7, in minor units of a two-digit currency.
COST = {
    "lines": [
        {"kind": "direct", "label": "采集 collection", "cost": {"amount_minor": 50_000}},
        {"kind": "indirect", "label": "storage", "cost": {"amount_minor": 30_000}},
    ],
    "return_rate": {"ppm": 150_000},
    "quality": {"ppm": 950_000},
    "circulation": {"ppm": 850_000},
    "monopoly": {"ppm": 100_000},
    "risk": {"ppm": 50_000},
}
INCOME = {
    "method": "direct",
    "discount_rate": {"ppm": 100_000, "low_ppm": 80_000, "high_ppm": 120_000},
    "terms": [{"revenue": {"amount_minor": n}} for n in (12_000, 13_000, 14_000)],
}
MARKET = {
    "reference": {"price": {"amount_minor": 50_000}, "source": "Quote of a bureau, 2026-01"},
    "factors": {
        "quality": {"ppm": 1_050_000},
        "supply_demand": {"ppm": 900_000},
        "date": {"ppm": 1_020_000},
        "capacity": {"ppm": 1_200_000},
    },
}


@dataclass(frozen=True)
class World:
    seller: Member
    rival: Member
    buyer: Member
    operator: Member
    regulator: Member
    listing: MadeListing


@pytest.fixture(scope="module")
async def world(kernel: Kernel) -> World:
    seller = await make_party(kernel, Role.SELLER)
    return World(
        seller=seller,
        rival=await make_party(kernel, Role.SELLER),
        buyer=await make_party(kernel, Role.BUYER),
        operator=await make_party(kernel, Role.OPERATOR),
        regulator=await make_party(kernel, Role.REGULATOR),
        listing=await make_listing(kernel, seller),
    )


def body(listing_id: uuid.UUID, **approaches: Any) -> dict[str, Any]:
    return {
        "listing_id": show("lst", listing_id),
        "currency": "CNY",
        "basis": {"unit": "row", "lot_units": 1_000, "lots_expected": 100},
        **approaches,
    }


async def valuation_count(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        return int(await (await uow.raw()).fetchval("SELECT count(*) FROM pricing.valuation"))


async def test_three_approaches_with_the_golden_numbers(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    sent = body(world.listing.listing_id, cost=COST, income=INCOME, market=MARKET)
    made = await client.post(PATH, json=sent, headers=world.seller.headers())
    assert made.status_code == 201
    value = made.json()
    assert [(a["approach"], a["value_minor"]) for a in value["approaches"]] == [
        ("cost", 77_633),
        ("income", 32_171),
        ("market", 57_834),
    ]
    steps = {step["name"]: step for step in value["approaches"][0]["trace"]}
    assert steps["U"]["formula"] == "U = α·β·(1+l)·(1−r)"
    assert steps["U"]["result"] == "0.8438375"
    assert steps["P"]["result"] == "77633.05"
    assert value["approaches"][1]["trace"][-1]["result"].startswith("32171.2997")
    income = value["approaches"][1]
    assert income["low_minor"] < income["value_minor"] < income["high_minor"]
    assert income["sensitivity"] == [
        {"input": "i", "at_low_minor": 33_370, "at_high_minor": 31_043}
    ]
    # (77,633 + 32,171 + 57,834) / 3 = 55,879.33; 100 lots.
    assert value["value_minor"] == 55_879
    assert value["suggestion"] == {
        "unit": "row",
        "lot_units": 1_000,
        "price_minor": 559,
        "low_minor": 555,
        "high_minor": 563,
    }
    assert value["method_version"] == "valuation/1"
    assert value["created_by"] == world.seller.id
    assert value["inputs"]["cost"]["lines"][0]["label"] == "采集 collection"
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, world.listing.version_id)
        certificate = await offers.get_certificate_for(uow, world.listing.version_id)
    evidence = value["evidence"]
    assert evidence["version_id"] == show("ver", version.id)
    assert evidence["version_sha256"] == version.sha256
    assert evidence["certificate_id"] == show("crt", certificate.id)
    assert evidence["quality"]["overall"] == version.quality["overall"]
    assert evidence["comparables"] == []

    for member in (world.seller, world.operator, world.regulator):
        shown = await client.get(made.headers["location"], headers=member.headers())
        assert shown.json() == value
    # Its own stated inputs give the same valuation again.
    again = await client.post(PATH, json=value["inputs"], headers=world.seller.headers())
    assert again.status_code == 201
    assert again.json()["approaches"] == value["approaches"]


async def test_weights_shift_the_combined_value(client: httpx.AsyncClient, world: World) -> None:
    sent = body(world.listing.listing_id, cost={**COST, "weight": 3}, market=MARKET)
    value = (await client.post(PATH, json=sent, headers=world.seller.headers())).json()
    assert value["value_minor"] == 72_683  # (3·77,633 + 57,834) / 4 = 72,683.25
    assert value["combination"]["inputs"]["w_cost"] == "3"


@pytest.mark.parametrize(
    ("income", "value"),
    [
        (
            {
                "method": "excess",
                "terms": [
                    {
                        "revenue": {"amount_minor": 500},
                        "contributory_charges": {"amount_minor": 200},
                    }
                ],
            },
            300,
        ),
        (
            {
                "method": "incremental",
                "terms": [
                    {
                        "revenue_with": {"amount_minor": 500},
                        "revenue_without": {"amount_minor": 450},
                    }
                ],
            },
            50,
        ),
        (
            {
                "method": "share",
                "terms": [{"revenue": {"amount_minor": 500}, "share": {"ppm": 250_000}}],
            },
            125,
        ),
    ],
)
async def test_every_income_method(
    client: httpx.AsyncClient, world: World, income: dict[str, Any], value: int
) -> None:
    sent = body(world.listing.listing_id, income={**income, "discount_rate": {"ppm": 0}})
    made = await client.post(PATH, json=sent, headers=world.seller.headers())
    assert made.status_code == 201
    assert made.json()["value_minor"] == value


async def test_own_trades_are_the_comparables(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    listing_id = await offer_again(kernel, world.seller, world.listing.product_id)
    alone = await client.post(
        PATH, json=body(listing_id, market={}), headers=world.seller.headers()
    )
    assert (alone.status_code, alone.json()["code"]) == (422, "valuation_impossible")
    assert alone.json()["param"] == "market.reference"

    made = await make_listing(kernel, world.rival)
    peers = [await offer_again(kernel, world.rival, made.product_id) for _ in range(3)]
    plans = [await make_plan(kernel, world.rival, peer, lot_units=10) for peer in peers]
    async with kernel.unit_of_work() as uow:
        category = (await offers.get_listing(uow, listing_id)).category
        await record(
            uow,
            [
                Observation(plan.id, plan.listing_id, category, price, 4, "CNY", uow.now)
                for plan, price in zip(plans, (20, 30, 90), strict=True)
            ],
        )
    value = (
        await client.post(PATH, json=body(listing_id, market={}), headers=world.seller.headers())
    ).json()
    # Unit prices 2, 3 and 9 over 100,000 rows; median, quartiles by interpolation.
    assert value["value_minor"] == 300_000
    assert (value["low_minor"], value["high_minor"]) == (250_000, 600_000)
    assert value["suggestion"]["price_minor"] == 3_000
    assert {(c["listing_id"], c["unit_price"]) for c in value["evidence"]["comparables"]} == {
        (show("lst", peer), price) for peer, price in zip(peers, "239", strict=True)
    }
    dollars = {**body(listing_id, market={}), "currency": "USD"}
    none = await client.post(PATH, json=dollars, headers=world.seller.headers())
    assert none.json()["code"] == "valuation_impossible"


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good body with the member at dotted ``path`` replaced, or removed when ``...``."""
    sent: dict[str, Any] = copy.deepcopy(
        body(uuid.UUID(int=0), cost=COST, income=INCOME, market=MARKET)
    )
    *parents, last = path.split(".")
    place: Any = sent
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return sent


@pytest.mark.parametrize(
    "sent",
    [
        changed("cost.lines.0.cost.amount_minor", -1),
        changed("cost.lines.0.cost.amount_minor", 0.5),
        changed("cost.lines.0.cost.amount_minor", "50000"),
        changed("cost.lines.0.cost.amount_minor", MAX_MINOR + 1),
        changed("cost.lines.0.cost.amount_minor", 10**400),
        changed("cost.lines.0.cost.amount_minor", None),
        changed("cost.lines.0.cost", {"amount_minor": 5, "low_minor": 6}),
        changed("cost.lines.0.cost", {"amount_minor": 5, "high_minor": 4}),
        changed("cost.lines.0.label", "line\u0000feed"),
        changed("cost.lines", []),
        changed("cost.lines", [COST["lines"][0]] * 51),  # type: ignore[index]
        changed("cost.quality", {"ppm": 0.95}),
        changed("cost.quality", {"ppm": 10_000_001}),
        changed("cost.risk", {"ppm": 1_000_001}),
        changed("cost.risk", {"ppm": 5, "low_ppm": 6}),
        changed("cost.risk", ...),
        changed("cost.weight", 0),
        changed("cost.weight", -3),
        changed("cost.weight", 1_001),
        changed("income.method", "guess"),
        changed("income.method", "excess"),
        changed("income.terms", []),
        changed("income.terms", [INCOME["terms"][0]] * 51),  # type: ignore[index]
        changed("income.discount_rate", {"ppm": -1}),
        changed("market.window_days", 0),
        changed("market.reference.source", ""),
        changed("market.factors.color", {"ppm": 1}),
        changed("basis.lots_expected", 0),
        changed("basis.lot_units", 1.5),
        changed("basis.unit", "megabyte"),
        changed("currency", "XXX"),
        changed("listing_id", "lst_1"),
        changed("created_by", "pty_" + "0" * 32),
        body(uuid.UUID(int=0)),
    ],
)
async def test_malformed_inputs_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, world: World, sent: dict[str, Any]
) -> None:
    before = await valuation_count(kernel)
    if sent["listing_id"] == show("lst", uuid.UUID(int=0)):
        sent = {**sent, "listing_id": show("lst", world.listing.listing_id)}
    answer = await client.post(PATH, json=sent, headers=world.seller.headers())
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert await valuation_count(kernel) == before


async def test_inputs_without_a_price_are_refused_and_remembered(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    before = await valuation_count(kernel)
    worthless = {**COST, "risk": {"ppm": 1_000_000}}
    line = {"kind": "tax", "label": "x", "cost": {"amount_minor": MAX_MINOR}}
    endless = {**COST, "lines": [line] * 50}
    for cost in (worthless, endless):
        headers = world.seller.headers()
        sent = body(world.listing.listing_id, cost=cost)
        answer = await client.post(PATH, json=sent, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "valuation_impossible")
        assert answer.json()["param"] == "cost"
        again = await client.post(PATH, json=sent, headers=headers)
        assert again.content == answer.content
    assert await valuation_count(kernel) == before


async def test_strangers_neither_value_nor_see(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    sent = body(world.listing.listing_id, cost=COST)
    made = await client.post(PATH, json=sent, headers=world.operator.headers())
    assert made.status_code == 201
    assert made.json()["seller_id"] == world.seller.id
    before = await valuation_count(kernel)
    for member, status, code in (
        (world.rival, 404, "listing_not_found"),
        (world.buyer, 403, "role_required"),
        (world.regulator, 403, "role_required"),
    ):
        answer = await client.post(PATH, json=sent, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    unknown = await client.post(
        PATH, json=body(new_id(), cost=COST), headers=world.seller.headers()
    )
    assert unknown.status_code == 404
    assert (await client.post(PATH, json=sent)).status_code in {400, 401}
    assert await valuation_count(kernel) == before

    path = made.headers["location"]
    for member, status in ((world.rival, 404), (world.buyer, 403)):
        assert (await client.get(path, headers=member.headers())).status_code == status
    unknown_path = f"{PATH}/{show('val', new_id())}"
    missing = await client.get(unknown_path, headers=world.seller.headers())
    assert (missing.status_code, missing.json()["code"]) == (404, "valuation_not_found")
    assert (await client.get(PATH, headers=world.buyer.headers())).status_code == 403
    assert (await client.get(PATH, headers=world.rival.headers())).json()["items"] == []


async def test_replays_and_concurrent_duplicates_make_one_valuation(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    listing_id = await offer_again(kernel, world.seller, world.listing.product_id)
    sent, headers = body(listing_id, cost=COST), world.seller.headers()
    answers = await asyncio.gather(
        *(client.post(PATH, json=sent, headers=headers) for _ in range(6))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    replay = await client.post(PATH, json=sent, headers=headers)
    assert replay.headers["idempotency-replayed"] == "true"
    query = {"listing_id": show("lst", listing_id)}
    listed = await client.get(PATH, params=query, headers=world.seller.headers())
    assert [item["id"] for item in listed.json()["items"]] == [replay.json()["id"]]
    assert set(listed.json()["items"][0]) == set(replay.json()) - {
        "approaches",
        "combination",
        "inputs",
        "evidence",
    }


async def test_the_list_pages(client: httpx.AsyncClient, kernel: Kernel, world: World) -> None:
    listing_id = await offer_again(kernel, world.seller, world.listing.product_id)
    made = [
        (
            await client.post(
                PATH, json=body(listing_id, cost=COST), headers=world.seller.headers()
            )
        ).json()["id"]
        for _ in range(3)
    ]
    query = {"listing_id": show("lst", listing_id), "limit": "2"}
    first = (await client.get(PATH, params=query, headers=world.regulator.headers())).json()
    rest = (
        await client.get(
            PATH,
            params={**query, "after": first["next_after"]},
            headers=world.regulator.headers(),
        )
    ).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made
    assert (first["has_more"], rest["has_more"]) == (True, False)
