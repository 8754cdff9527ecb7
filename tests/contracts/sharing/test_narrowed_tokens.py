"""Tokens with fields or a row filter at Delta Sharing: their table is all that they can see."""

import io
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, settled
from tests.contracts.sharing.conftest import Profile, charged
from tests.contracts.sharing.official_client import use
from tests.contracts.sharing.test_files import ROOT, query
from tests.contracts.test_token_limits import COUNT, mint, read

HIDDEN_HINTS: tuple[dict[str, Any], ...] = (
    {"predicateHints": ["delay > 15"]},
    {"predicateHints": ['"delay" is null']},
    {
        "jsonPredicateHints": '{"op": "lessThan", "children": ['
        '{"op": "column", "name": "delay", "valueType": "int"}, '
        '{"op": "literal", "value": "1", "valueType": "int"}]}'
    },
)


async def table_of(wire: httpx.AsyncClient, file: dict[str, Any]) -> tuple[pa.Table, bytes]:
    answer = await wire.get(file["url"])
    assert answer.status_code == 200
    return pq.read_table(io.BytesIO(answer.content)), answer.content


async def columns_of(wire: httpx.AsyncClient, trade: Trade, token: str) -> list[str]:
    """What the metadata names."""
    path = f"{ROOT}/shares/{trade.grant}/schemas/data/tables/flight_records/metadata"
    lines = (await wire.get(path, headers=bearer(token))).text.splitlines()
    schema = orjson.loads(orjson.loads(lines[1])["metaData"]["schemaString"])
    return [field["name"] for field in schema["fields"]]


async def test_a_file_holds_the_token_s_fields_and_rows_and_nothing_else(
    wire: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    whole, _ = await table_of(wire, await query(wire, trade, token))
    wanted = whole.filter(pa.compute.field("delay") > 20).select(["id", "day"])
    narrow = (await mint(wire, trade, fields=["day", "id"], row_filter="delay > 20"))["token"]
    assert await columns_of(wire, trade, narrow) == ["id", "day"]
    file = await query(wire, trade, narrow)
    table, raw = await table_of(wire, file)
    assert table.equals(wanted)
    assert 0 < table.num_rows < whole.num_rows
    assert b"delay" not in raw
    assert b"carrier" not in raw
    _, counted = await read(wire, narrow, COUNT)
    assert counted["count"] == table.num_rows
    units = before + whole.num_rows + table.num_rows
    assert await charged(kernel, trade, units) == units


async def test_what_is_left_out_is_not_in_the_file_s_statistics(
    wire: httpx.AsyncClient, trade: Trade
) -> None:
    narrow = (await mint(wire, trade, row_filter="id >= 100 and id < 110"))["token"]
    table, raw = await table_of(wire, await query(wire, trade, narrow, limitHint=5_000))
    assert table.column("id").to_pylist() == list(range(100, 110))
    metadata = pq.read_metadata(io.BytesIO(raw))
    assert metadata.num_rows == 10
    for i in range(metadata.num_columns):
        found = metadata.row_group(0).column(i)
        if found.path_in_schema == "id" and found.statistics is not None:
            assert (found.statistics.min, found.statistics.max) == (100, 109)


async def test_different_narrowing_never_shares_a_file(
    wire: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    limits: tuple[dict[str, Any], ...] = (
        {},
        {"fields": ["id"]},
        {"fields": ["id", "carrier"]},
        {"row_filter": "id < 50"},
        {"row_filter": "id < 51"},
        {"row_filter": "id >= 0"},
        {"fields": ["id"], "row_filter": "id < 50"},
    )
    digests, shapes = set(), []
    for each in limits:
        own = (await mint(wire, trade, **each))["token"]
        file = await query(wire, trade, own)
        table, _ = await table_of(wire, file)
        digests.add(file["id"])
        shapes.append((table.num_columns, table.num_rows))
    assert len(digests) == len(limits)
    assert shapes == [(5, 1000), (1, 1000), (2, 1000), (5, 50), (5, 51), (5, 1000), (1, 50)]
    again = (await mint(wire, trade, fields=["id"]))["token"]
    assert (await query(wire, trade, again))["id"] in digests


@pytest.mark.parametrize("hint", HIDDEN_HINTS)
async def test_a_hint_on_a_hidden_column_says_nothing(
    wire: httpx.AsyncClient, trade: Trade, hint: dict[str, Any]
) -> None:
    narrow = (await mint(wire, trade, fields=["id"], row_filter="id < 40"))["token"]
    file = await query(wire, trade, narrow, **hint)
    assert file["id"] == (await query(wire, trade, narrow))["id"]
    table, _ = await table_of(wire, file)
    assert table.num_rows == 40
    known = await query(wire, trade, narrow, predicateHints=["id < 7"])
    assert (await table_of(wire, known))[0].num_rows == 7


async def test_a_wider_token_s_delivery_is_not_repeated_to_a_narrow_one(
    wire: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    await query(wire, trade, token, "the-wide-delivery", limitHint=3)
    narrow = (await mint(wire, trade, fields=["id"]))["token"]
    path = f"{ROOT}/shares/{trade.grant}/schemas/data/tables/flight_records/query"
    mark = {"Delivery-Id": "the-wide-delivery"}
    answer = await wire.post(path, json={"limitHint": 3}, headers=bearer(narrow, **mark))
    assert (answer.status_code, answer.json()["code"]) == (422, "delivery_id_reused")


async def test_the_official_client_sees_the_narrow_table(
    wire: httpx.AsyncClient, kernel: Kernel, trade: Trade, profile: Profile
) -> None:
    before = await settled(kernel, trade)
    limits: dict[str, Any] = {"fields": ["id", "carrier"], "row_filter": "id < 30", "quota": 45}
    path = await profile((await mint(wire, trade, **limits))["token"])
    tables, metadata, whole, limited, over = await use(
        path,
        ("all_tables", {}),
        ("metadata", {}),
        ("load", {}),
        ("load", {"limit": 15}),
        ("load", {"limit": 1}),
    )
    assert tables == {"answer": [f"{trade.grant}.data.flight_records"]}
    names = [field["name"] for field in metadata["answer"][1]["fields"]]
    assert names == whole["answer"]["columns"] == ["id", "carrier"]
    assert (whole["answer"]["rows"], whole["answer"]["sum"]) == (30, sum(range(30)))
    assert limited["answer"]["rows"] == 15
    assert "token_quota_exhausted" in over["text"]
    units = before + 45
    assert await charged(kernel, trade, units) == units
