"""The rows API as buyers use it, and as attackers try it."""

import asyncio
import hashlib
import io
import uuid

import httpx
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from contracts import receipts
from listings import offers
from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, grant_of, make_trade, mint, settled
from tests.market.parties.factories import make_party

ROWS = "/v1/delivery/rows"


@pytest.fixture(scope="module")
async def source(kernel: Kernel, trade: Trade) -> pa.Table:
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, trade.agreement.version_id)
    return pq.read_table(await kernel.blobs.local_path(version.blob_key))


async def test_a_page_of_json(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str, source: pa.Table
) -> None:
    before = await settled(kernel, trade)
    answer = await client.get(
        ROWS,
        params={
            "select": "id,carrier",
            "filter": "carrier = 'UA' and delay > 15",
            "order": "-id",
            "limit": 3,
        },
        headers=bearer(token),
    )
    assert answer.status_code == 200, answer.text
    expected = [
        {"id": row["id"], "carrier": "UA"}
        for row in reversed(source.to_pylist())
        if row["carrier"] == "UA" and row["delay"] > 15
    ]
    page = answer.json()
    assert page["items"] == expected[:3]
    assert page["has_more"] is True
    assert answer.headers["next-after"] == page["next_after"]
    assert answer.headers["meter-charged"] == "3"
    assert int(answer.headers["meter-remaining"]) == 1_000_000 - before - 3
    assert answer.headers["receipt-id"].startswith("rcp_")
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert await settled(kernel, trade) == before + 3


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json", "application/json"),
        ("text/csv", "text/csv; charset=utf-8"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("*/*", "application/json"),
        ("text/*;q=0.9, application/*;q=0.1", "text/csv; charset=utf-8"),
        ("application/json;q=0, text/csv;q=0.1", "text/csv; charset=utf-8"),
    ],
)
async def test_every_format_carries_the_same_rows(
    client: httpx.AsyncClient, token: str, source: pa.Table, accept: str, media_type: str
) -> None:
    answer = await client.get(ROWS, params={"limit": 7}, headers=bearer(token, Accept=accept))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    if "json" in media_type:
        read = [dict(row, day=str(row["day"])) for row in source.slice(0, 7).to_pylist()]
        lines = "x-ndjson" in media_type
        items = map(orjson.loads, answer.iter_lines()) if lines else answer.json()["items"]
        assert list(items) == read
        return
    if media_type.startswith("text/csv"):
        table = pyarrow.csv.read_csv(io.BytesIO(answer.content))
    elif "arrow" in media_type:
        table = pyarrow.ipc.open_stream(answer.content).read_all()
    else:
        table = pq.read_table(io.BytesIO(answer.content))
    assert table.cast(source.schema).equals(source.slice(0, 7))


async def test_pages_add_up_to_the_whole(
    client: httpx.AsyncClient, token: str, source: pa.Table
) -> None:
    for order in (None, "carrier,-delay", "-day"):
        after, seen = None, []
        while True:
            params: dict[str, str | int] = {"limit": 170, "select": "id"}
            if order:
                params["order"] = order
            if after:
                params["after"] = after
            answer = await client.get(ROWS, params=params, headers=bearer(token))
            assert answer.status_code == 200, answer.text
            page = answer.json()
            seen += [row["id"] for row in page["items"]]
            after = page["next_after"]
            if not page["has_more"]:
                break
        assert after is None
        assert sorted(seen) == list(range(1_000))
        rows = source.to_pylist()
        if order == "carrier,-delay":
            keys = [(rows[i]["carrier"], -rows[i]["delay"], i) for i in seen]
            assert keys == sorted(keys)


async def test_counting_is_free(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    answer = await client.get(
        f"{ROWS}/count", params={"filter": "carrier in ('AA', 'DL')"}, headers=bearer(token)
    )
    assert answer.json() == {"count": 500}
    assert await settled(kernel, trade) == before


@pytest.mark.parametrize(
    ("params", "headers", "status", "code"),
    [
        ({"filter": "carrier = 1"}, {}, 422, "filter_invalid"),
        ({"filter": "1=1; drop table x"}, {}, 422, "filter_invalid"),
        ({"filter": "x" * 5_000}, {}, 422, "validation_failed"),
        ({"select": "id,secret"}, {}, 422, "column_unknown"),
        ({"select": "id,id"}, {}, 422, "column_unknown"),
        ({"select": ""}, {}, 422, "column_unknown"),
        ({"order": "nope"}, {}, 422, "order_invalid"),
        ({"order": "id,carrier,delay,day"}, {}, 422, "order_invalid"),
        ({"after": "zzz"}, {}, 422, "cursor_invalid"),
        ({"limit": "0"}, {}, 422, "validation_failed"),
        ({"limit": "10001"}, {}, 422, "validation_failed"),
        ({"limit": "1e3"}, {}, 422, "validation_failed"),
        ({"limit": "NaN"}, {}, 422, "validation_failed"),
        ({}, {"Accept": "text/html"}, 406, "format_not_offered"),
        ({}, {"Accept": "application/json;q=0"}, 406, "format_not_offered"),
        ({}, {"Delivery-Id": "short"}, 422, "delivery_id_invalid"),
        ({}, {"Delivery-Id": "with|pipes|inside"}, 422, "delivery_id_invalid"),
        ({"grant_id": "grt_" + "0" * 32}, {}, 403, "token_other_grant"),
        ({"grant_id": "1"}, {}, 422, "validation_failed"),
    ],
)
async def test_bad_input_is_refused_and_free(
    client: httpx.AsyncClient,
    kernel: Kernel,
    trade: Trade,
    token: str,
    params: dict[str, str],
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    before = await settled(kernel, trade)
    answer = await client.get(ROWS, params=params, headers=bearer(token, **headers))
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await settled(kernel, trade) == before


async def test_filter_errors_say_where(client: httpx.AsyncClient, token: str) -> None:
    answer = await client.get(ROWS, params={"filter": "delay > 'x'"}, headers=bearer(token))
    assert answer.json()["position"] == 8
    assert answer.json()["param"] == "filter"


async def test_a_cursor_serves_only_its_own_query(client: httpx.AsyncClient, token: str) -> None:
    first = await client.get(ROWS, params={"limit": 5}, headers=bearer(token))
    answer = await client.get(
        ROWS, params={"after": first.headers["next-after"], "order": "id"}, headers=bearer(token)
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


async def test_a_delivery_id_is_charged_once_and_replayed_free(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    key = uuid.uuid4().hex
    headers = bearer(token, **{"Delivery-Id": key})
    first = await client.get(ROWS, params={"limit": 4}, headers=headers)
    at_once = await client.get(ROWS, params={"limit": 4}, headers=headers)
    assert await settled(kernel, trade) == before + 4
    durable = await client.get(ROWS, params={"limit": 4}, headers=headers)
    for replay in (at_once, durable):
        assert replay.content == first.content
        assert replay.headers["meter-charged"] == "0"
        assert replay.headers["receipt-id"] == first.headers["receipt-id"]
        assert replay.headers["delivery-id"] == key
    reused = await client.get(ROWS, params={"limit": 5}, headers=headers)
    assert (reused.status_code, reused.json()["code"]) == (422, "delivery_id_reused")
    assert await settled(kernel, trade) == before + 4


async def test_the_same_delivery_id_at_once_is_charged_once(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    headers = bearer(token, **{"Delivery-Id": uuid.uuid4().hex})
    answers = await asyncio.gather(
        *(client.get(ROWS, params={"limit": 9}, headers=headers) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    charged = [a.headers["meter-charged"] for a in answers if a.status_code == 200]
    assert sorted(charged, reverse=True)[0] == "9"
    assert charged.count("9") == 1
    assert await settled(kernel, trade) == before + 9


async def test_over_quota_is_402_with_remaining_and_free(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=25)
    token = await mint(kernel, small)
    assert (await client.get(ROWS, params={"limit": 10}, headers=bearer(token))).status_code == 200
    refused = await client.get(ROWS, params={"limit": 16}, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (402, "quota_exhausted")
    assert refused.json()["remaining"] == 15
    assert await settled(kernel, small) == 10
    key = uuid.uuid4().hex
    last = await client.get(
        ROWS, params={"limit": 15}, headers=bearer(token, **{"Delivery-Id": key})
    )
    assert (last.status_code, last.headers["meter-remaining"]) == (200, "0")
    assert await settled(kernel, small) == 25
    refused = await client.get(ROWS, params={"limit": 1}, headers=bearer(token))
    assert (refused.status_code, refused.json()["remaining"]) == (402, 0)
    again = await client.get(
        ROWS, params={"limit": 15}, headers=bearer(token, **{"Delivery-Id": key})
    )
    assert (again.status_code, again.content) == (200, last.content)
    assert await settled(kernel, small) == 25
    assert (await grant_of(kernel, small.agreement.id)).status == "exhausted"
    counted = await client.get(f"{ROWS}/count", headers=bearer(token))
    assert (counted.status_code, counted.json()) == (200, {"count": 1_000})


async def test_parallel_readers_exhaust_exactly(client: httpx.AsyncClient, kernel: Kernel) -> None:
    small = await make_trade(kernel, lots=1, lot_units=500)
    tokens = [await mint(kernel, small) for _ in range(4)]

    async def read(token: str) -> int:
        got = 0
        for _ in range(20):
            answer = await client.get(
                ROWS, params={"limit": 7, "select": "id"}, headers=bearer(token)
            )
            if answer.status_code == 402:
                remaining = answer.json()["remaining"]
                if remaining == 0:
                    return got
                answer = await client.get(
                    ROWS, params={"limit": min(remaining, 7)}, headers=bearer(token)
                )
            if answer.status_code == 200:
                got += len(answer.json()["items"])
        return got

    delivered = sum(await asyncio.gather(*(read(token) for token in tokens * 4)))
    assert delivered == 500
    assert await settled(kernel, small) == 500
    grant = await grant_of(kernel, small.agreement.id)
    assert (grant.status, grant.reserved_units) == ("exhausted", 0)


async def test_calls_are_counted_by_call_and_empty_pages_cost_no_rows(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    calls = await make_trade(kernel, unit="call", lots=2, lot_units=1)
    by_call = await mint(kernel, calls)
    for _ in range(2):
        answer = await client.get(ROWS, params={"limit": 50}, headers=bearer(by_call))
        assert answer.headers["meter-charged"] == "1"
    refused = await client.get(ROWS, params={"limit": 50}, headers=bearer(by_call))
    assert (refused.status_code, refused.json()["remaining"]) == (402, 0)
    before = await settled(kernel, trade)
    empty = await client.get(ROWS, params={"filter": "id < 0"}, headers=bearer(token))
    assert (empty.json()["items"], empty.headers["meter-charged"]) == ([], "0")
    assert await settled(kernel, trade) == before


async def test_a_license_counts_deliveries_without_a_bound(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    licensed = await make_trade(kernel, kind="license")
    token = await mint(kernel, licensed)
    for _ in range(3):
        answer = await client.get(ROWS, params={"limit": 900}, headers=bearer(token))
        assert answer.status_code == 200
        assert "meter-remaining" not in answer.headers
    assert await settled(kernel, licensed) == 3
    shown = await client.get(f"/v1/grants/{licensed.grant}", headers=licensed.buyer.headers())
    assert shown.json()["remaining_units"] is None
    assert shown.json()["delivery_count"] == 3


async def test_receipts_prove_what_was_sent(client: httpx.AsyncClient, kernel: Kernel) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    answers = [
        await client.get(ROWS, params={"limit": n}, headers=bearer(token)) for n in (1, 2, 3)
    ]
    for member in (small.buyer, small.seller):
        listed = await client.get(f"/v1/agreements/{small.id}/receipts", headers=member.headers())
        assert [item["seq"] for item in listed.json()["items"]] == [1, 2, 3]
    chained = [item["jws"] for item in listed.json()["items"]]
    payloads = receipts.verify_chain(chained, kernel.keys.jwks())
    for answer, payload in zip(answers, payloads, strict=True):
        assert payload["body_sha256"] == hashlib.sha256(answer.content).hexdigest()
        assert payload["rows"] == payload["units"] == int(answer.headers["meter-charged"])
        assert payload["bytes"] == len(answer.content)
        assert payload["receipt"] == answer.headers["receipt-id"]
        assert payload["agreement"] == small.id
    for broken in (chained[1:], [chained[0], chained[2]], [chained[1], chained[0]]):
        with pytest.raises(ValueError, match="predecessor"):
            receipts.verify_chain(broken, kernel.keys.jwks())
    one = f"/v1/receipts/{answers[0].headers['receipt-id']}"
    assert (await client.get(one, headers=small.seller.headers())).status_code == 200
    stranger = await make_party(kernel, Role.BUYER)
    assert (await client.get(one, headers=stranger.headers())).status_code == 404
    usage = await client.get(f"/v1/grants/{small.grant}/usage", headers=small.buyer.headers())
    assert [item["units"] for item in usage.json()["items"]] == [3, 2, 1]
