"""The public catalog: search in two languages, facets, walks, samples."""

import asyncio
from typing import Any

import httpx
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from listings import sql
from listings.offering import create_listing, submit_listing
from listings.offers import set_price_summary
from listings.reviews import approve_listing
from listings.schemas import ListingInput
from listings.text import document_terms, query_literal, query_terms, vector_literal
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from tests.conftest import TestDatabase
from tests.listings.factories import (
    MadeListing,
    any_operator,
    listing_body,
    make_listing,
    make_product,
)
from tests.market.parties.factories import Member, make_party

TITLES: list[tuple[dict[str, Any], str]] = [
    ({"en": "Flight delays", "zh": "城市交通运行数据"}, "transport"),
    ({"en": "Airport traffic counts", "zh": "机场客流统计"}, "transport"),
    ({"en": "Hourly weather observations", "zh": "逐小时气象观测"}, "weather"),
    ({"en": "Delayed trains", "zh": None}, "transport"),
    ({"en": "Hospital beds", "zh": "医院床位数"}, "health"),
]


@pytest.fixture(scope="module")
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER, name="Harbor Data Company")


@pytest.fixture(scope="module")
async def made(kernel: Kernel, seller: Member) -> list[MadeListing]:
    name = {"en": "Record set", "zh": "记录"}
    found = [
        await make_listing(kernel, seller, rows=20, title=title, category=category, name=name)
        for title, category in TITLES
    ]
    await make_listing(kernel, seller, rows=20, live=False, title={"en": "Secret flight plans"})
    prices = [
        (100, "CNY", ["metered"]),
        (500, "CNY", ["license", "metered"]),
        (90, "USD", ["license"]),
    ]
    async with kernel.unit_of_work() as uow:
        for each, (amount, currency, kinds) in zip(found, prices, strict=False):
            await set_price_summary(
                uow, each.listing_id, from_minor=amount, currency=currency, plan_kinds=kinds
            )
    return found


async def search(client: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get("/v1/catalog", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def titles(page: dict[str, Any]) -> list[str]:
    return [hit["title"]["en"] for hit in page["items"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flight", {"Flight delays"}),
        ("FLIGHTS", {"Flight delays"}),
        ("train", {"Delayed trains"}),
        ("delay train", {"Delayed trains"}),
        ("交通运行", {"Flight delays"}),
        ("运行", {"Flight delays"}),
        ("城市运行的数据", {"Flight delays"}),
        ("气象", {"Hourly weather observations"}),
        ("床位", {"Hospital beds"}),
        ("位", {"Hospital beds"}),
        ("weather 气象", {"Hourly weather observations"}),
        ("weather 床位", set()),
        ("ｗｅａｔｈｅｒ", {"Hourly weather observations"}),
        ("the of", set()),
        ("secret", set()),
        ("'; DROP TABLE x; --", set()),
        ("!!&|():*<->", set()),
        ("\U0001f326", set()),
    ],
)
async def test_search(
    client: httpx.AsyncClient, made: list[MadeListing], words: str, expected: set[str]
) -> None:
    page = await search(client, q=words)
    assert set(titles(page)) == expected
    assert (page["total"], page["facets"]["exact"]) == (len(expected), True)


async def test_titles_rank_before_descriptions(
    client: httpx.AsyncClient, made: list[MadeListing]
) -> None:
    # Every product's description speaks of delays; two titles do.
    found = titles(await search(client, q="departures delays"))
    assert len(found) == 5
    assert set(found[:2]) == {"Flight delays", "Delayed trains"}


async def test_seller_category_and_column_names_are_found(
    client: httpx.AsyncClient, made: list[MadeListing]
) -> None:
    assert (await search(client, q="harbor"))["total"] == 5
    assert titles(await search(client, q="医疗健康")) == ["Hospital beds"]
    assert (await search(client, q="carrier distance"))["total"] == 5


async def test_a_hit_shows_what_a_buyer_needs(
    client: httpx.AsyncClient, made: list[MadeListing], seller: Member
) -> None:
    hit = (await search(client, q="flight"))["items"][0]
    assert hit["seller_name"] == "Harbor Data Company"
    assert hit["seller_id"] == seller.id
    assert hit["row_count"] == 20
    assert [each["name"] for each in hit["columns"]] == [
        "id",
        "carrier",
        "delay",
        "distance",
        "day",
    ]
    assert hit["quality"]["overall"] == "1.0000"
    assert hit["price"] == {"from_minor": 100, "currency": "CNY", "plan_kinds": ["metered"]}
    item = (await client.get(f"/v1/catalog/{hit['listing_id']}")).json()
    assert {name: item[name] for name in hit} == hit
    assert item["rights"]["product_operation"] is True
    assert item["policy"]["territory"] == ["CN"]
    certificate = await client.get(f"/v1/certificates/{hit['certificate_id']}")
    assert certificate.json()["claims"]["version_id"] == hit["version_id"]
    assert certificate.json()["claims"]["sha256"] == item["sha256"]


async def test_filters_and_facets(client: httpx.AsyncClient, made: list[MadeListing]) -> None:
    everything = await search(client)
    assert everything["total"] == 5
    assert everything["facets"] == {
        "exact": True,
        "category": [
            {"value": "transport", "count": 3},
            {"value": "health", "count": 1},
            {"value": "weather", "count": 1},
        ],
        "grade": [{"value": "general", "count": 5}],
        "currency": [{"value": "CNY", "count": 2}, {"value": "USD", "count": 1}],
        "plan_kind": [{"value": "license", "count": 2}, {"value": "metered", "count": 2}],
    }
    transport = await search(client, category="transport")
    assert titles(transport) == ["Delayed trains", "Airport traffic counts", "Flight delays"]
    assert transport["facets"]["category"] == everything["facets"]["category"]
    assert transport["facets"]["currency"] == [{"value": "CNY", "count": 2}]
    assert titles(await search(client, plan_kind="license", currency="CNY")) == [
        "Airport traffic counts"
    ]
    assert titles(await search(client, currency="CNY", max_price_minor=100)) == ["Flight delays"]
    assert titles(await search(client, q="delays", category="transport", currency="CNY")) == [
        "Flight delays",
        "Airport traffic counts",
    ]
    assert titles(await search(client, grade="important")) == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"max_price_minor": 5}, "price_needs_currency"),
        ({"max_price_minor": 0, "currency": "CNY"}, "validation_failed"),
        ({"max_price_minor": "NaN", "currency": "CNY"}, "validation_failed"),
        ({"category": "spells"}, "validation_failed"),
        ({"currency": "XXX"}, "validation_failed"),
        ({"q": "a\x00b"}, "validation_failed"),
        ({"q": "x" * 201}, "validation_failed"),
        ({"limit": 0}, "validation_failed"),
        ({"limit": 201}, "validation_failed"),
        ({"after": "garbage!"}, "validation_failed"),
        ({"after": "garbage"}, "cursor_invalid"),
        ({"after": "WyJyIiwiMSIsIngiXQ"}, "cursor_invalid"),
        ({"after": "WyJuIiwiMjAyNi0wMS0wMSIsIngiXQ"}, "cursor_invalid"),
        ({"after": "WyJ4IiwiMSIsIngiXQ"}, "cursor_invalid"),
    ],
)
async def test_bad_searches(client: httpx.AsyncClient, params: dict[str, Any], code: str) -> None:
    answer = await client.get("/v1/catalog", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60))
def test_no_text_breaks_the_query(database: TestDatabase, text: str) -> None:
    terms = query_terms(text)
    with psycopg.connect(database.url) as connection:
        row = connection.execute(
            "SELECT (plainto_tsquery('english', %s) && %s::tsquery)::text, %s::tsvector",
            (
                terms.latin,
                query_literal(terms),
                vector_literal([("A", document_terms([text]).han)]),
            ),
        ).fetchone()
    assert row is not None


async def walk(client: httpx.AsyncClient, limit: int, **params: Any) -> list[str]:
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(50):
        page = await search(client, limit=limit, **params, **after)
        seen += [hit["listing_id"] for hit in page["items"]]
        if not page["has_more"]:
            return seen
        after = {"after": page["next_after"]}
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 200])
@pytest.mark.parametrize("words", ["", "departures", "记录"])
async def test_walks_see_each_listing_once(
    client: httpx.AsyncClient, made: list[MadeListing], limit: int, words: str
) -> None:
    seen = await walk(client, limit, q=words)
    assert len(seen) == 5
    assert set(seen) == {show("lst", each.listing_id) for each in made}


async def test_very_common_words_are_walked_newest_first(
    client: httpx.AsyncClient, made: list[MadeListing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "CANDIDATES_MAX", 3)
    page = await search(client, q="departures", limit=2)
    assert page["facets"]["exact"] is False
    assert page["total"] == 4
    newest = [show("lst", each.listing_id) for each in reversed(made)]
    assert await walk(client, 2, q="departures") == newest
    assert (await search(client, q="flight"))["facets"]["exact"] is True


async def test_a_walk_survives_new_listings(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, made: list[MadeListing]
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    first = await search(client, limit=2)
    extra = await make_listing(kernel, seller, rows=5, title={"en": "Brand new"})
    rest: list[str] = []
    after = first["next_after"]
    while after:
        page = await search(client, limit=2, after=after)
        assert (page["facets"], page["total"]) == (None, None)
        rest += [hit["listing_id"] for hit in page["items"]]
        after = page["next_after"]
    seen = [hit["listing_id"] for hit in first["items"]] + rest
    assert seen == [show("lst", each.listing_id) for each in reversed(made)]
    path = f"/v1/listings/{show('lst', extra.listing_id)}/delist"
    assert (await client.post(path, headers=operator.headers())).status_code == 200
    assert (await search(client))["total"] == 5


async def test_sample_masks_sensitive_columns(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    table = pa.table(
        {
            "n": list(range(30)),
            "mail": [f"user{i}@example.com" for i in range(30)],
            "formula": ["=1+1"] * 30,
        }
    )
    evidence = {"method": "pseudonymization", "evidence": "addresses are made up"}
    product_id, _ = await make_product(kernel, seller, table=table, deidentification=evidence)
    title = {"en": "Masked values"}
    body = ListingInput.model_validate(listing_body(show("prd", product_id), title=title))
    listing = await create_listing(kernel, seller.actor, body)
    await submit_listing(kernel, seller.actor, listing.id)
    await approve_listing(kernel, any_operator(), listing.id)
    path = f"/v1/catalog/{show('lst', listing.id)}"
    sample = (await client.get(f"{path}/sample")).json()
    assert sample["rows"] == [[i, "***", "=1+1"] for i in range(10)]
    assert (sample["row_count"], sample["masked_columns"]) == (30, ["mail"])
    assert (await client.get(f"{path}/sample")).json() == sample
    item = (await client.get(path)).text
    assert "@example.com" not in item
    for missing in (show("lst", new_id()), "lst_x"):
        assert (await client.get(f"/v1/catalog/{missing}/sample")).status_code in {404, 422}


async def test_suggestions(client: httpx.AsyncClient, made: list[MadeListing]) -> None:
    async def suggested(text: str) -> list[str]:
        answer = await client.get("/v1/catalog/suggestions", params={"q": text})
        assert answer.status_code == 200, answer.text
        return [each["title"]["en"] for each in answer.json()["items"]]

    assert await suggested("FLI") == ["Flight delays"]
    assert await suggested("逐小时") == ["Hourly weather observations"]
    assert await suggested("%") == []
    assert await suggested("_") == []
    assert await suggested("secret") == []
    assert (await client.get("/v1/catalog/suggestions")).status_code == 422


async def test_cells_equal_the_entries_after_concurrent_changes(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, made: list[MadeListing]
) -> None:
    async def reprice(each: MadeListing, amount: int, currency: str) -> None:
        async with kernel.unit_of_work() as uow:
            await set_price_summary(
                uow, each.listing_id, from_minor=amount, currency=currency, plan_kinds=["metered"]
            )

    await asyncio.gather(
        *(
            reprice(each, amount, currency)
            for each in made
            for amount, currency in ((10, "EUR"), (20, "USD"), (30, "CNY"))
        )
    )
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT category, grade, coalesce(currency, '') AS currency, plan_kinds, count(*) AS n "
            "FROM listings.catalog_entry GROUP BY 1, 2, 3, 4 EXCEPT "
            "SELECT category, grade, currency, plan_kinds, listings FROM listings.catalog_cell"
        )
        counted = await (await uow.raw()).fetchval(
            "SELECT sum(listings) = (SELECT count(*) FROM listings.catalog_entry) "
            "FROM listings.catalog_cell"
        )
    assert rows == []
    assert counted is True


async def test_the_application_cannot_touch_what_was_certified(
    kernel: Kernel, made: list[MadeListing]
) -> None:
    for statement in (
        "UPDATE listings.certificate SET jws = 'x'",
        "DELETE FROM listings.certificate",
        "DELETE FROM listings.decision",
        "UPDATE listings.product_version SET sha256 = repeat('0', 64)",
        "UPDATE listings.product SET owner_id = gen_random_uuid()",
        "UPDATE listings.listing SET seller_id = gen_random_uuid()",
        "UPDATE listings.catalog_cell SET listings = 0",
        "UPDATE listings.listing SET status = 'draft'",
        "DELETE FROM listings.product_version",
    ):
        with pytest.raises(Exception, match=r"permission denied|append-only|not a step"):
            async with kernel.unit_of_work() as uow:
                await (await uow.raw()).execute(statement)
