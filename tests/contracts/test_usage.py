"""Usage summed up, exported and stated: every figure is that of the records and the ledger."""

import csv
import io
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

from contracts import jobs, usage_export
from contracts.metering import meter_of
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.schemas import encode_cursor
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.contracts.test_invoicing import run_invoicing, to_next_month
from tests.market.parties.factories import make_party
from tests.settlement.factories import now

ROWS = "/v1/delivery/rows"
SUMS = ("deliveries", "units", "rows", "bytes")


@pytest.fixture(scope="module")
async def used(client: httpx.AsyncClient, kernel: Kernel) -> Trade:
    """Three deliveries of two field sets by two tokens: 5, 7 and 11 rows, and a refused one."""
    trade = await make_trade(kernel, lots=10, lot_units=100, price_minor=1_000)
    first, second = await mint(kernel, trade), await mint(kernel, trade)
    for token, select, limit in (
        (first, "id,carrier", 5),
        (second, "carrier,id", 7),
        (second, "delay", 11),
    ):
        answer = await client.get(
            ROWS, params={"select": select, "limit": limit}, headers=bearer(token)
        )
        assert answer.status_code == 200, answer.text
    refused = await client.get(ROWS, params={"select": "nothing"}, headers=bearer(first))
    assert refused.status_code == 422
    await meter_of(kernel).flush()
    return trade


async def groups(
    client: httpx.AsyncClient, trade: Trade, by: str, **params: Any
) -> list[dict[str, Any]]:
    query = {"group_by": by, "agreement_id": trade.id, **params}
    answer = await client.get("/v1/usage", params=query, headers=trade.buyer.headers())
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_groups_by_field_set_and_token(client: httpx.AsyncClient, used: Trade) -> None:
    by_fields = {tuple(item["fields"]): item for item in await groups(client, used, "fields")}
    assert {key: item["units"] for key, item in by_fields.items()} == {
        ("carrier", "id"): 12,
        ("delay",): 11,
    }
    by_token = await groups(client, used, "token")
    assert sorted((item["deliveries"], item["units"]) for item in by_token) == [(1, 5), (2, 18)]
    assert all(item["starts_at"] is None and item["fields"] is None for item in by_token)


@pytest.mark.parametrize("by", ["hour", "day"])
async def test_groups_by_time(
    client: httpx.AsyncClient, kernel: Kernel, used: Trade, by: str
) -> None:
    items = await groups(client, used, by)
    assert sum(item["units"] for item in items) == 23
    assert sum(item["deliveries"] for item in items) == 3
    assert all(item["starts_at"] <= item["first_at"] for item in items)
    usage = f"/v1/grants/{used.grant}/usage"
    listed = (await client.get(usage, headers=used.buyer.headers())).json()["items"]
    assert sum(item["bytes"] for item in items) == sum(item["bytes"] for item in listed)
    assert {tuple(item["fields"]) for item in listed} == {("carrier", "id"), ("delay",)}


async def test_groups_come_in_pages(client: httpx.AsyncClient, used: Trade) -> None:
    for by in ("token", "fields"):
        whole = await groups(client, used, by)
        query = {"group_by": by, "agreement_id": used.id, "limit": 1}
        pages: list[dict[str, Any]] = []
        for _ in range(3):
            answer = await client.get("/v1/usage", params=query, headers=used.buyer.headers())
            pages += answer.json()["items"]
            if not answer.json()["has_more"]:
                break
            query["after"] = answer.json()["next_after"]
        assert pages == whole
        assert len(whole) == 2


async def test_a_cursor_of_another_grouping_is_refused(
    client: httpx.AsyncClient, used: Trade
) -> None:
    query: dict[str, Any] = {"group_by": "fields", "limit": 1}
    headers = used.buyer.headers()
    cursor = (await client.get("/v1/usage", params=query, headers=headers)).json()["next_after"]
    no_database_holds = encode_cursor("0001-01-01T00:00:00+14:00")
    for by, after in (("hour", cursor), ("token", cursor), ("day", no_database_holds)):
        answer = await client.get(
            "/v1/usage", params={"group_by": by, "after": after}, headers=headers
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


async def test_who_sees_what(client: httpx.AsyncClient, kernel: Kernel, used: Trade) -> None:
    stranger = await make_party(kernel, Role.BUYER)
    nothing = await client.get("/v1/usage", headers=stranger.headers())
    assert nothing.json()["items"] == []
    for query in ({"agreement_id": used.id}, {"grant_id": used.grant}):
        hidden = await client.get("/v1/usage", params=query, headers=stranger.headers())
        assert hidden.status_code == 404
        for reader in (used.buyer, used.seller, await make_party(kernel, Role.OPERATOR)):
            seen = await client.get("/v1/usage", params=query, headers=reader.headers())
            assert sum(item["units"] for item in seen.json()["items"]) == 23
    # The seller's own total holds this agreement's use and that of no other seller.
    own = await client.get("/v1/usage", headers=used.seller.headers())
    assert sum(item["units"] for item in own.json()["items"]) == 23


@pytest.mark.parametrize(
    "period",
    [
        {"from": "2025-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"},
        {"from": "2025-01-01T00:00:00Z", "until": "2026-01-03T00:00:00Z"},
        {"from": "1000-01-01T00:00:00Z"},
    ],
)
async def test_a_period_is_bounded(
    client: httpx.AsyncClient, used: Trade, period: dict[str, str]
) -> None:
    for path in ("/v1/usage", "/v1/usage/export"):
        answer = await client.get(path, params=period, headers=used.buyer.headers())
        assert (answer.status_code, answer.json()["code"]) == (422, "period_invalid")


async def test_a_period_leaves_the_rest_out(
    client: httpx.AsyncClient, kernel: Kernel, used: Trade
) -> None:
    listed = await client.get(f"/v1/grants/{used.grant}/usage", headers=used.buyer.headers())
    newest = listed.json()["items"][0]
    since = await groups(client, used, "day", **{"from": newest["delivered_at"]})
    assert sum(item["units"] for item in since) == newest["units"]
    until = await groups(client, used, "day", until=newest["delivered_at"])
    assert sum(item["units"] for item in until) == 23 - newest["units"]


async def test_exports_agree_with_the_list(
    client: httpx.AsyncClient, used: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several pieces of few records: the seams must neither lose nor repeat one.
    monkeypatch.setattr(usage_export, "RECORDS_PER_READ", 2)
    usage = f"/v1/grants/{used.grant}/usage"
    listed = (await client.get(usage, headers=used.buyer.headers())).json()["items"]
    expected = [(item["id"], item["units"], item["fields"]) for item in reversed(listed)]
    found = {}
    for form in ("csv", "ndjson", "parquet"):
        query = {"format": form, "grant_id": used.grant}
        answer = await client.get("/v1/usage/export", params=query, headers=used.seller.headers())
        assert answer.status_code == 200, answer.text
        found[form] = answer.content
    rows = list(csv.DictReader(io.StringIO(found["csv"].decode())))
    assert [(r["id"], int(r["units"]), orjson.loads(r["fields"])) for r in rows] == expected
    lines = [orjson.loads(line) for line in found["ndjson"].splitlines()]
    assert [(item["id"], item["units"], item["fields"]) for item in lines] == expected
    table = pq.read_table(io.BytesIO(found["parquet"])).to_pylist()
    assert [(row["id"], row["units"], row["fields"]) for row in table] == expected
    assert {row["agreement_id"] for row in table} == {used.id}


async def test_an_export_is_bounded(
    client: httpx.AsyncClient, used: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_export, "RECORDS_MAX", 2)
    query = {"grant_id": used.grant}
    answer = await client.get("/v1/usage/export", params=query, headers=used.buyer.headers())
    assert (answer.status_code, answer.json()["code"]) == (422, "usage_too_much")


async def test_an_empty_export_has_its_columns(client: httpx.AsyncClient, kernel: Kernel) -> None:
    stranger = await make_party(kernel, Role.BUYER)
    answer = await client.get(
        "/v1/usage/export", params={"format": "parquet"}, headers=stranger.headers()
    )
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.num_rows == 0
    assert table.column_names[:3] == ["id", "agreement_id", "grant_id"]


async def test_a_statement_ties_use_ledger_and_invoice(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lots=10, lot_units=100, price_minor=999)
    token = await mint(kernel, trade)
    for limit in (37, 50):
        answer = await client.get(ROWS, params={"limit": limit}, headers=bearer(token))
        assert answer.status_code == 200, answer.text
        await meter_of(kernel).flush()
        await jobs.accrue(kernel)
    month = f"{await now(kernel):%Y-%m}"
    path = f"/v1/agreements/{trade.id}/usage-statements/{month}"
    running = (await client.get(path, headers=trade.buyer.headers())).json()
    # floor(87 × 999 ÷ 100), in two releases of which the first was rounded down, too.
    assert running["value_minor"] == running["released_minor"] == 869
    assert [running[name] for name in ("units", "opening_units", "closing_units")] == [87, 0, 87]
    assert running["ledger_released_minor"] == 869
    assert running["escrow"]["closing_minor"] == 9_990 - 869
    assert (running["final"], running["invoice"], running["ties"]) == (False, None, True)
    await to_next_month(kernel)
    await run_invoicing(kernel)
    seller = trade.seller.with_fresh_token(kernel)
    final = (await client.get(path, headers=seller.headers())).json()
    assert final["final"] is True
    assert final["invoice"]["total_minor"] == final["released_minor"] == 869
    assert final["ties"] is True
    assert sum(day["units"] for day in final["days"]) == 87
    sheet = await client.get(path, params={"format": "csv"}, headers=seller.headers())
    lines = {row["line"]: row for row in csv.DictReader(io.StringIO(sheet.text.lstrip("\ufeff")))}
    assert lines["total"]["units"] == "87"
    assert lines["invoiced"]["amount_minor"] == lines["released"]["amount_minor"] == "869"
    later = f"{(await now(kernel)) + timedelta(days=40):%Y-%m}"
    none = await client.get(path.replace(month, later), headers=seller.headers())
    assert (none.status_code, none.json()["code"]) == (422, "month_unknown")
    stranger = await make_party(kernel, Role.BUYER)
    assert (await client.get(path, headers=stranger.headers())).status_code == 404


async def test_an_opening_month_is_what_came_before(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, kind="license", price_minor=5_000)
    answer = await client.get(ROWS, params={"limit": 3}, headers=bearer(await mint(kernel, trade)))
    assert answer.status_code == 200, answer.text
    await meter_of(kernel).flush()
    await to_next_month(kernel)
    month = f"{await now(kernel):%Y-%m}"
    reader = await make_party(kernel, Role.OPERATOR)
    agreement = show("agr", trade.agreement.id)
    path = f"/v1/agreements/{agreement}/usage-statements/{month}"
    made = (await client.get(path, headers=reader.headers())).json()
    assert (made["opening_units"], made["units"], made["closing_units"]) == (1, 0, 1)
    assert (made["value_minor"], made["released_minor"], made["ties"]) == (None, 0, True)
