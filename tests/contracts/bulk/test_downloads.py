"""Whole-version downloads as buyers resume them, and as they break."""

import asyncio
import base64
import hashlib
import io
import math
import uuid
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from contracts import receipts
from contracts.bulk import ranges, response
from contracts.bulk.downloads import BulkRequest, download
from market.kernel.context import Kernel
from market.operations.sandbox import AdvanceClock, advance_clock
from tests.contracts.factories import Trade, bearer, grant_of, make_trade, mint, settled
from tests.listings.factories import any_operator

BULK = "/v1/delivery/bulk"
PART = 1_024
PIECE = 128


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", PART)
    monkeypatch.setattr(response, "CHUNK_BYTES", PIECE)


def _rows_of(start: int, stop: int, total: int) -> int:
    """What so many bytes of a version of 1,000 rows cost, if nothing of their part was paid."""
    cost = 0
    for begin in range(0, total, PART):
        end = min(begin + PART, total)
        rows = 1_000 * end // total - 1_000 * begin // total
        cost += math.ceil(rows * max(0, min(stop, end) - max(start, begin)) / (end - begin))
    return cost


@pytest.fixture
async def bulk(kernel: Kernel) -> Trade:
    """An agreement for 2,500 rows of a version of 1,000."""
    return await make_trade(kernel, lots=5, lot_units=500)


async def test_the_file_arrives_with_its_checksums_and_receipts(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    token = await mint(kernel, bulk)
    shown = (await client.get(f"{BULK}/manifest", headers=bearer(token))).json()
    assert (shown["rows"], shown["units"], shown["part_bytes"]) == (1_000, 1_000, PART)
    assert await settled(kernel, bulk) == 0
    answer = await client.get(BULK, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    digest = hashlib.sha256(answer.content)
    assert digest.hexdigest() == shown["sha256"] == answer.headers["etag"].strip('"')
    assert len(answer.content) == shown["bytes"] == int(answer.headers["content-length"])
    assert pq.read_table(io.BytesIO(answer.content)).num_rows == 1_000
    encoded = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["repr-digest"] == answer.headers["content-digest"] == encoded
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert (answer.headers["meter-charged"], answer.headers["meter-remaining"]) == ("1000", "1500")
    assert await settled(kernel, bulk) == 1_000
    listed = await client.get(f"/v1/agreements/{bulk.id}/receipts", headers=bulk.seller.headers())
    chain = [item["jws"] for item in listed.json()["items"]]
    proofs = receipts.verify_chain(chain, kernel.keys.jwks())
    assert len(proofs) == shown["parts"] >= 2
    sent = [answer.content[i : i + PART] for i in range(0, shown["bytes"], PART)]
    assert [p["body_sha256"] for p in proofs] == [hashlib.sha256(s).hexdigest() for s in sent]
    assert [p["bytes"] for p in proofs] == [len(part) for part in sent]
    assert sum(p["units"] for p in proofs) == 1_000
    assert all(p["complete"] and p["format"] == "bulk" for p in proofs)


async def test_a_resumed_delivery_is_charged_once(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    token = await mint(kernel, bulk)
    headers = bearer(token, **{"Delivery-Id": uuid.uuid4().hex})
    cut = PART + 100
    first = await client.get(BULK, headers={**headers, "Range": f"bytes=0-{cut - 1}"})
    assert first.status_code == 206
    tag, total = first.headers["etag"], int(first.headers["content-range"].partition("/")[2])
    assert "content-digest" not in first.headers
    charged = int(first.headers["meter-charged"])
    assert await settled(kernel, bulk) == charged == _rows_of(0, cut, total) < 1_000
    resumed = {**headers, "Range": f"bytes={cut}-", "If-Range": tag}
    second = await client.get(BULK, headers=resumed)
    assert second.headers["content-range"] == f"bytes {cut}-{total - 1}/{total}"
    assert int(second.headers["meter-charged"]) == 1_000 - charged
    whole = first.content + second.content
    assert f'"{hashlib.sha256(whole).hexdigest()}"' == tag
    assert await settled(kernel, bulk) == 1_000
    again = await client.get(BULK, headers=headers)
    assert (again.content, again.headers["meter-charged"]) == (whole, "0")
    stale = await client.get(BULK, headers={**resumed, "If-Range": '"another"'})
    assert (stale.status_code, stale.content) == (200, whole)
    assert await settled(kernel, bulk) == 1_000
    tail = await client.get(BULK, headers=bearer(token, Range="bytes=-8"))
    assert tail.content == whole[-8:]
    assert tail.headers["meter-charged"] == str(_rows_of(total - 8, total, total))
    assert await settled(kernel, bulk) == 1_000 + int(tail.headers["meter-charged"])


async def test_what_cannot_be_paid_or_read_is_refused_and_free(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=999)
    token = await mint(kernel, small)
    refused = await client.get(BULK, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (402, "quota_exhausted")
    assert refused.json()["remaining"] == 999
    for text, status, code in (
        ("bytes=999999999-", 416, "range_unsatisfiable"),
        ("bytes=0-1,5-6", 422, "range_invalid"),
    ):
        answer = await client.get(BULK, headers=bearer(token, Range=text))
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await client.get(BULK)).status_code == 401
    assert (await client.get(f"{BULK}/manifest")).status_code == 401
    assert await settled(kernel, small) == 0
    assert (await grant_of(kernel, small.agreement.id)).status == "active"


async def test_used_up_units_leave_what_was_bought_free_to_fetch(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    exact = await make_trade(kernel, lots=1, lot_units=1_000)
    headers = bearer(await mint(kernel, exact), **{"Delivery-Id": uuid.uuid4().hex})
    first = await client.get(BULK, headers=headers)
    assert first.headers["meter-remaining"] == "0"
    assert await settled(kernel, exact) == 1_000
    again = await client.get(BULK, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    other = await client.get(BULK, headers={**headers, "Delivery-Id": uuid.uuid4().hex})
    assert other.status_code == 402
    assert await settled(kernel, exact) == 1_000


async def test_a_call_plan_counts_one_call_per_delivery_id(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    calls = await make_trade(kernel, unit="call", lots=2, lot_units=1)
    token = await mint(kernel, calls)
    headers = bearer(token, **{"Delivery-Id": uuid.uuid4().hex})
    first = await client.get(BULK, headers={**headers, "Range": "bytes=0-9"})
    assert first.headers["meter-charged"] == "1"
    rest = await client.get(BULK, headers={**headers, "Range": "bytes=10-"})
    assert (rest.status_code, rest.headers["meter-charged"]) == (206, "0")
    assert await settled(kernel, calls) == 1
    last = await client.get(BULK, headers=bearer(token))
    assert (last.content, last.headers["meter-charged"]) == (first.content + rest.content, "1")
    assert (await client.get(BULK, headers=bearer(token))).status_code == 402
    again = await client.get(BULK, headers=headers)
    assert (again.status_code, again.headers["meter-charged"]) == (200, "0")
    assert await settled(kernel, calls) == 2


async def test_many_at_once_under_one_id_are_charged_once(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    headers = bearer(await mint(kernel, bulk), **{"Delivery-Id": uuid.uuid4().hex})
    ranged = {**headers, "Range": f"bytes=0-{PART - 1}"}
    answers = await asyncio.gather(*(client.get(BULK, headers=ranged) for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {206, 409}
    charged = sorted(int(a.headers.get("meter-charged", "0")) for a in answers)
    assert charged[-1] > 0 == charged[-2]
    assert await settled(kernel, bulk) == charged[-1]


async def _broken_after(kernel: Kernel, request: BulkRequest, accepted: int) -> bytes:
    """Send an answer to a client that leaves with ``accepted`` bytes or a little more: those."""
    got = b""
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal got
        got += message.get("body", b"")
        if len(got) >= accepted:
            gone.set()

    answer = await download(kernel, request)
    await answer({"type": "http"}, receive, send)
    return got


async def test_a_download_cut_in_a_part_costs_what_arrived_and_is_resumed(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    token = await mint(kernel, bulk)
    shown = (await client.get(f"{BULK}/manifest", headers=bearer(token))).json()
    total, key, got = shown["bytes"], uuid.uuid4().hex, b""
    # Cut within a part, at its end, at once, and again within the part that was cut before.
    for accepted in (PART + 1, PART, 1, 1, 1, 1, PIECE):
        request = BulkRequest(token, f"bytes={len(got)}-", f'"{shown["sha256"]}"', key)
        got += await _broken_after(kernel, request, accepted)
        assert await settled(kernel, bulk) == _rows_of(0, len(got), total)
    assert len(got) % PART
    assert (await grant_of(kernel, bulk.agreement.id)).settled_units == await settled(kernel, bulk)
    headers = bearer(token, **{"Delivery-Id": key})
    rest = await client.get(BULK, headers={**headers, "Range": f"bytes={len(got)}-"})
    assert hashlib.sha256(got + rest.content).hexdigest() == shown["sha256"]
    assert int(rest.headers["meter-charged"]) == 1_000 - _rows_of(0, len(got), total)
    assert await settled(kernel, bulk) == 1_000
    again = await client.get(BULK, headers=headers)
    assert (again.content, again.headers["meter-charged"]) == (got + rest.content, "0")
    assert await settled(kernel, bulk) == 1_000


async def test_a_client_that_leaves_before_the_first_byte_pays_nothing(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    token = await mint(kernel, bulk)
    assert await _broken_after(kernel, BulkRequest(token), 0) == b""
    assert await settled(kernel, bulk) == 0
    listed = await client.get(f"/v1/agreements/{bulk.id}/receipts", headers=bulk.seller.headers())
    assert listed.json()["items"] == []


async def test_an_id_is_for_one_file_and_for_a_day(
    client: httpx.AsyncClient, kernel: Kernel, bulk: Trade
) -> None:
    token = await mint(kernel, bulk)
    rows = bearer(token, **{"Delivery-Id": uuid.uuid4().hex})
    page = await client.get("/v1/delivery/rows?limit=5", headers=rows)
    assert page.status_code == 200
    reused = await client.get(BULK, headers=rows)
    assert (reused.status_code, reused.json()["code"]) == (422, "delivery_id_reused")
    headers = bearer(token, **{"Delivery-Id": uuid.uuid4().hex})
    assert (await client.get(BULK, headers=headers)).status_code == 200
    assert await settled(kernel, bulk) == 1_005
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=24 * 3_600 + 1))
    token = await mint(kernel, bulk)
    late = await client.get(BULK, headers={**headers, **bearer(token)})
    assert (late.status_code, late.json()["code"]) == (409, "delivery_id_expired")
    anew = await client.get(BULK, headers=bearer(token))
    assert (anew.status_code, anew.headers["meter-charged"]) == (200, "1000")
    assert await settled(kernel, bulk) == 2_005
