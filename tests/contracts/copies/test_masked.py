"""A policy's masks and row filter in every way out, through the real services."""

import asyncio
import dataclasses
import hmac
import io
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.copies.keys import pseudonym_key
from contracts.copies.making import Copy
from contracts.copies.opening import open_masked
from contracts.delivery import gate
from contracts.errors import PolicyRefused
from contracts.policy import parse_policy
from listings import offers
from listings.errors import FilterInvalid, MaskInvalid
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, mint, settled
from tests.contracts.versions.factories import make_follower, publish
from tests.listings.factories import flights_table, listing_body, make_listing
from tests.market.parties.factories import make_party

ROWS = 400
MASKS: list[dict[str, Any]] = [
    {"kind": "pseudonym", "column": "carrier"},
    {"kind": "round", "column": "delay", "step": "10"},
    {"kind": "truncate", "column": "day", "to": "month"},
    {"kind": "hide", "column": "distance"},
]
FILTER = "carrier in ('UA', 'AA') and delay >= 0"


@pytest.fixture(autouse=True)
def _fresh_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONTEXT_TTL_S", -1.0)


def sold_of(kernel: Kernel, trade: Trade, table: pa.Table) -> list[dict[str, Any]]:
    """What the buyer should get of the seller's table."""
    key = pseudonym_key(kernel, trade.agreement.product_id)
    kept = table.filter(
        pc.and_(
            pc.is_in(table["carrier"], pa.array(["UA", "AA"])),
            pc.greater_equal(table["delay"], 0),
        )
    )
    return [
        row
        | {
            "carrier": hmac.digest(key, row["carrier"].encode(), "sha256").hex()[:32],
            "delay": row["delay"] // 10 * 10,
            "day": row["day"].replace(day=1),
            "distance": None,
        }
        for row in kept.to_pylist()
    ]


async def test_every_way_out_gives_what_the_policy_sells(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    table = flights_table(ROWS, salt=3)
    trade = await make_follower(kernel, table, lot_units=5_000, masks=MASKS, row_filter=FILTER)
    token, expected = await mint(kernel, trade), sold_of(kernel, trade, table)
    assert 0 < len(expected) < ROWS
    page = await client.get("/v1/delivery/rows", params={"limit": 1_000}, headers=bearer(token))
    assert page.status_code == 200, page.text
    assert [row | {"day": str(row["day"])} for row in expected] == page.json()["items"]
    assert page.headers["meter-charged"] == str(len(expected))
    bulk = await client.get("/v1/delivery/bulk", headers=bearer(token))
    whole = pq.read_table(io.BytesIO(bulk.content))
    assert (whole.schema.names, whole.schema.types) == (table.schema.names, table.schema.types)
    assert whole.to_pylist() == expected
    manifest = (await client.get("/v1/delivery/bulk/manifest", headers=bearer(token))).json()
    assert (manifest["rows"], manifest["units"]) == (len(expected), len(expected))
    name = f"/v1/delta-sharing/shares/{trade.grant}/schemas/data/tables/flight_records"
    answer = await client.post(f"{name}/query", json={}, headers=bearer(token))
    url = orjson.loads(answer.text.splitlines()[2])["file"]["url"]
    file = (await client.get(httpx.URL(url).raw_path.decode())).content
    assert pq.read_table(io.BytesIO(file)).to_pylist() == expected
    assert await settled(kernel, trade) == 3 * len(expected)


async def test_questions_are_about_masked_values(kernel: Kernel, client: httpx.AsyncClient) -> None:
    table = flights_table(ROWS, salt=3)
    trade = await make_follower(kernel, table, masks=MASKS)
    token = await mint(kernel, trade)

    async def count(filter_: str) -> int:
        asked = {"filter": filter_}
        answer = await client.get("/v1/delivery/rows/count", params=asked, headers=bearer(token))
        assert answer.status_code == 200, answer.text
        return int(answer.json()["count"])

    delays = table["delay"].to_pylist()
    # Neither what is hidden nor the digits below the step can be asked for one by one.
    assert 57 in delays
    assert await count("delay = 57") == 0
    assert await count("delay = 50") == sum(50 <= delay < 60 for delay in delays)
    assert await count("distance > 0") == 0
    assert await count("carrier = 'UA'") == 0


async def test_followers_get_later_versions_masked_and_changes_compare_masked_rows(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    table = flights_table(ROWS, salt=3)
    trade = await make_follower(kernel, table, masks=MASKS, row_filter=FILTER)
    declared = await client.put(
        f"/v1/products/{show('prd', trade.agreement.product_id)}/key",
        json={"columns": ["id"]},
        headers=trade.seller.headers(),
    )
    assert declared.status_code == 200, declared.text
    # Only what the buyer does not see becomes another value, and three rows enter the filter.
    place = table.schema.get_field_index("distance")
    later = table.set_column(place, "distance", pc.add(table["distance"], 1.0))
    more = pa.table({**flights_table(3).to_pydict(), "id": [9_001, 9_002, 9_003]})
    more = more.set_column(1, "carrier", pa.array(["UA", "UA", "DL"]))
    more = more.set_column(2, "delay", pa.array([7, -5, 7])).cast(table.schema)
    await publish(kernel, trade, pa.concat_tables([later, more]))
    token = await mint(kernel, trade)
    answer = await client.get("/v1/delivery/changes", params={"since": 1}, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.headers["changes-key"] == "id"
    expected = sold_of(kernel, trade, more)
    assert [row["id"] for row in expected] == [9_001]
    assert answer.json()["items"] == [
        {"_change": "insert", **row, "day": str(row["day"])} for row in expected
    ]


async def test_a_masked_key_is_no_key(kernel: Kernel, client: httpx.AsyncClient) -> None:
    table = flights_table(30, salt=3)
    masks = [{"kind": "round", "column": "id", "step": "10"}]
    trade = await make_follower(kernel, table, masks=masks)
    path = f"/v1/products/{show('prd', trade.agreement.product_id)}/key"
    await client.put(path, json={"columns": ["id"]}, headers=trade.seller.headers())
    await publish(kernel, trade, table.slice(1))
    token = await mint(kernel, trade)
    answer = await client.get("/v1/delivery/changes", params={"since": 1}, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert "changes-key" not in answer.headers
    assert [(row["_change"], row["id"]) for row in answer.json()["items"]] == [("delete", 0)]


async def test_marks_go_on_top_of_masks(kernel: Kernel, client: httpx.AsyncClient) -> None:
    table = flights_table(ROWS, salt=4)
    clause = {"keys": ["id"], "columns": [{"name": "distance", "tolerance": "0.1"}]}
    masks = [{"kind": "pseudonym", "column": "carrier"}]
    trade = await make_follower(
        kernel, table, masks=masks, row_filter="delay >= 0", fingerprint=clause
    )
    token = await mint(kernel, trade)
    bulk = await client.get("/v1/delivery/bulk", headers=bearer(token))
    found = pq.read_table(io.BytesIO(bulk.content))
    kept = table.filter(pc.greater_equal(table["delay"], 0))
    assert found["id"].to_pylist() == kept["id"].to_pylist()
    assert not set(found["carrier"].to_pylist()) & set(table["carrier"].to_pylist())
    moved = [
        round(abs(after - before), 6)
        for before, after in zip(
            kept["distance"].to_pylist(), found["distance"].to_pylist(), strict=True
        )
    ]
    assert set(moved) == {0, 0.1}


async def test_equal_terms_share_one_copy_and_other_versions_must_have_the_columns(
    kernel: Kernel,
) -> None:
    trade = await make_follower(kernel, flights_table(50))
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, trade.agreement.version_id)
    policy = parse_policy({"masks": MASKS, "row_filter": FILTER})
    turned = parse_policy({"masks": MASKS[::-1], "row_filter": FILTER})
    processes = (kernel, kernel, dataclasses.replace(kernel))
    opened = await asyncio.gather(
        *(open_masked(process, version, policy) for process in processes),
        open_masked(kernel, version, turned),
    )
    assert len({copy.blob_key for copy in opened}) == 1
    other = await open_masked(kernel, version, parse_policy({"masks": MASKS}))
    assert isinstance(other, Copy)
    assert other.row_count == 50
    assert other.blob_key != opened[0].blob_key
    for clause, stored in (
        ("masks", {"masks": [{"kind": "hide", "column": "gone"}]}),
        ("row_filter", {"row_filter": "gone = 1"}),
    ):
        with pytest.raises(PolicyRefused) as refused:
            await open_masked(kernel, version, parse_policy(stored))
        assert refused.value.extra["clause"] == clause


async def test_a_filter_that_leaves_no_row(kernel: Kernel, client: httpx.AsyncClient) -> None:
    trade = await make_follower(kernel, flights_table(50), row_filter="id < 0")
    token = await mint(kernel, trade)
    page = await client.get("/v1/delivery/rows", headers=bearer(token))
    assert page.json()["items"] == []
    bulk = await client.get("/v1/delivery/bulk", headers=bearer(token))
    assert pq.read_table(io.BytesIO(bulk.content)).num_rows == 0
    name = f"/v1/delta-sharing/shares/{trade.grant}/schemas/data/tables/flight_records"
    answer = await client.post(f"{name}/query", json={}, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert len(answer.text.splitlines()) == 2
    assert await settled(kernel, trade) == 0


async def test_what_is_masked_is_not_in_the_catalog_either(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    terms = listing_body("")["policy"]
    table = flights_table(40)
    masked = await make_listing(kernel, seller, table=table, policy={**terms, "masks": MASKS})
    path = f"/v1/catalog/{show('lst', masked.listing_id)}"
    sample = (await client.get(f"{path}/sample")).json()
    assert sample["masked_columns"] == ["carrier", "delay", "distance", "day"]
    assert {tuple(row[1:]) for row in sample["rows"]} == {("***",) * 4}
    assert sample["rows"][0][0] == 0
    item = (await client.get(path)).json()
    assert item["policy"]["masks"] == MASKS
    filtered = await make_listing(
        kernel, seller, table=flights_table(41), policy={**terms, "row_filter": FILTER}
    )
    sample = (await client.get(f"/v1/catalog/{show('lst', filtered.listing_id)}/sample")).json()
    assert sample["rows"] == []


@pytest.mark.parametrize(
    ("clauses", "error"),
    [
        ({"masks": [{"kind": "pseudonym", "column": "delay"}]}, MaskInvalid),
        ({"row_filter": "altitude > 3"}, FilterInvalid),
    ],
    ids=["mask", "filter"],
)
async def test_a_listing_cannot_promise_what_its_columns_do_not_take(
    kernel: Kernel, clauses: dict[str, Any], error: type[Exception]
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    with pytest.raises(error):
        await make_listing(
            kernel, seller, rows=50, policy={**listing_body("")["policy"], **clauses}
        )
