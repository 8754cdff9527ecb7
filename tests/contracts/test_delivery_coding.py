"""Coded pages: the way is shorter, what is charged and signed is the body before coding."""

import asyncio
import gzip
import hashlib
import uuid
import zlib
from typing import Any

import httpx
import pyarrow as pa
import pytest

from contracts import receipts
from contracts.delivery import response
from contracts.delivery.requests import RowsRequest
from contracts.delivery.rows import rows_service
from contracts.token_limits import WayOut
from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, make_trade, mint, settled
from tests.pricing.factories import MeteredUnit

ROWS = "/v1/delivery/rows"
PARQUET = "application/vnd.apache.parquet"


async def fetch(
    client: httpx.AsyncClient,
    token: str,
    coding: str,
    limit: int = 300,
    *,
    key: str | None = None,
    **headers: str,
) -> tuple[httpx.Response, bytes]:
    """An answer and its bytes as they came."""
    if key is not None:
        headers["Delivery-Id"] = key
    request = client.build_request(
        "GET",
        ROWS,
        params={"limit": limit},
        headers=bearer(token, **{"Accept-Encoding": coding, **headers}),
    )
    answer = await client.send(request, stream=True)
    try:
        return answer, b"".join([piece async for piece in answer.aiter_raw()])
    finally:
        await answer.aclose()


def decoded(coding: str | None, data: bytes) -> bytes:
    """The body before its coding."""
    if coding == "gzip":
        return gzip.decompress(data)
    if coding == "zstd":
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            return bytes(stream.read())
    assert coding is None
    return data


async def proofs(client: httpx.AsyncClient, kernel: Kernel, trade: Trade) -> list[dict[str, Any]]:
    """The receipts' payloads, checked."""
    await settled(kernel, trade)
    listed = await client.get(f"/v1/agreements/{trade.id}/receipts", headers=trade.buyer.headers())
    return receipts.verify_chain(
        [item["jws"] for item in listed.json()["items"]], kernel.keys.jwks()
    )


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/x-ndjson",
        "text/csv",
        "application/vnd.apache.arrow.stream",
    ],
)
async def test_a_coded_page_is_the_same_page(
    client: httpx.AsyncClient, token: str, accept: str
) -> None:
    plain, body = await fetch(client, token, "identity", Accept=accept)
    assert "content-encoding" not in plain.headers
    for coding in ("gzip", "zstd"):
        answer, data = await fetch(client, token, f"{coding}, br", Accept=accept)
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["content-type"] == plain.headers["content-type"]
        assert int(answer.headers["content-length"]) == len(data) < len(body)
        assert decoded(coding, data) == body
        assert answer.headers["meter-charged"] == plain.headers["meter-charged"] == "300"
    for each in (plain, answer):
        assert each.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    ("coding", "limit", "accept", "used"),
    [
        ("gzip, zstd", 5, "application/json", None),
        ("gzip, zstd", 300, PARQUET, None),
        ("gzip, identity;q=0", 5, "application/json", "gzip"),
        ("identity;q=0, *", 300, PARQUET, "gzip"),
        ("br", 300, "application/json", None),
        ("", 300, "application/json", None),
    ],
)
async def test_what_gains_nothing_is_sent_as_it_is_unless_that_is_refused(
    client: httpx.AsyncClient, token: str, coding: str, limit: int, accept: str, used: str | None
) -> None:
    plain = await fetch(client, token, "identity", limit, Accept=accept)
    answer, data = await fetch(client, token, coding, limit, Accept=accept)
    assert answer.headers.get("content-encoding") == used
    assert decoded(used, data) == plain[1]


async def test_several_headers_are_one_list(client: httpx.AsyncClient, token: str) -> None:
    headers = [*bearer(token).items(), ("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]
    answer = await client.get(ROWS, params={"limit": 300}, headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.json()["items"]) == 300


async def test_a_coding_that_is_not_offered_is_refused_and_free(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    before = await settled(kernel, trade)
    for coding in ("identity;q=0", "br, *;q=0"):
        headers = bearer(token, **{"Accept-Encoding": coding})
        for path in (ROWS, "/v1/delivery/changes?since=1"):
            answer = await client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (406, "coding_not_offered")
    assert await settled(kernel, trade) == before


@pytest.mark.parametrize("unit", ["row", "mib"])
async def test_receipts_are_of_the_body_before_coding(
    client: httpx.AsyncClient, kernel: Kernel, unit: MeteredUnit
) -> None:
    trade = await make_trade(kernel, unit=unit, lots=1)
    token = await mint(kernel, trade)
    key = uuid.uuid4().hex
    _, data = await fetch(client, token, "zstd", key=key)
    body = decoded("zstd", data)
    # The same delivery on another way: free, and the receipt is still right.
    again, data = await fetch(client, token, "gzip", key=key)
    assert (decoded("gzip", data), again.headers["meter-charged"]) == (body, "0")
    (proof,) = await proofs(client, kernel, trade)
    assert proof["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert (proof["rows"], proof["bytes"]) == (300, len(body))
    assert proof["units"] == (len(body) if unit == "mib" else 300)


async def cut(kernel: Kernel, token: str, coding: str, *, after: int) -> tuple[bytes, int]:
    """What a client has that leaves after so many bytes, and how many were announced."""
    asked = RowsRequest(
        token=token, limit=900, accept_encoding=coding, operation=WayOut.ROWS, accept="text/csv"
    )
    answer = await rows_service(kernel).deliver(asked)
    left, got = asyncio.Event(), bytearray()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        got.extend(message.get("body", b"") if not left.is_set() else b"")
        if len(got) >= after:
            left.set()

    scope = {"type": "http", "method": "GET", "path": ROWS, "headers": []}
    await answer(scope, receive, send)
    return bytes(got), int(answer.headers["content-length"])


@pytest.mark.parametrize("unit", ["row", "mib"])
async def test_a_cut_page_costs_what_can_be_read_of_it(
    client: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, unit: MeteredUnit
) -> None:
    monkeypatch.setattr(response, "CHUNK_BYTES", 1_000)
    trade = await make_trade(kernel, unit=unit, lots=1)
    token = await mint(kernel, trade)
    got, announced = await cut(kernel, token, "gzip", after=3_000)
    assert len(got) < announced
    begun = zlib.decompressobj(31).decompress(got)
    (proof,) = await proofs(client, kernel, trade)
    assert proof["complete"] is False
    assert 0 < proof["bytes"] <= len(begun)
    assert proof["body_sha256"] == hashlib.sha256(begun[: proof["bytes"]]).hexdigest()
    assert 0 < proof["rows"] <= begun.count(b"\n")
    assert proof["units"] == (proof["bytes"] if unit == "mib" else proof["rows"])
    assert await settled(kernel, trade) == proof["units"]


async def test_of_a_cut_zstd_block_nothing_is_charged(
    client: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "CHUNK_BYTES", 1_000)
    trade = await make_trade(kernel)
    token = await mint(kernel, trade)
    got, announced = await cut(kernel, token, "zstd", after=3_000)
    assert 3_000 <= len(got) < announced
    assert await proofs(client, kernel, trade) == []
    got, announced = await cut(kernel, token, "zstd", after=announced)
    assert len(got) == announced
    (proof,) = await proofs(client, kernel, trade)
    assert (proof["rows"], proof["units"]) == (900, 900)
    assert proof["body_sha256"] == hashlib.sha256(decoded("zstd", got)).hexdigest()
