"""Files by link: ranges, repetition, exact charges, refusals, what a fault leaves."""

import asyncio
import io
import itertools
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

from contracts import grants as grant_service
from contracts.metering import meter_of
from contracts.sharing import files, jobs, queries
from contracts.sharing.models import ShareQuery
from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.contracts.sharing.conftest import charged

ROOT = "/v1/delta-sharing"


async def query(
    wire: httpx.AsyncClient, trade: Trade, token: str, delivery_id: str | None = None, **body: Any
) -> dict[str, Any]:
    """The file line of a query."""
    headers = bearer(token) | ({"Delivery-Id": delivery_id} if delivery_id else {})
    path = f"{ROOT}/shares/{trade.grant}/schemas/data/tables/flight_records/query"
    answer = await wire.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    file: dict[str, Any] = orjson.loads(answer.text.splitlines()[2])["file"]
    return file


async def test_pieces_add_up_and_repetitions_are_free(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=1_000)
    file = await query(wire, small, await mint(kernel, small), limitHint=900)
    size, url = file["size"], file["url"]
    head = await wire.head(url)
    assert (head.status_code, int(head.headers["content-length"])) == (200, size)
    units = 0
    assert await charged(kernel, small, units) == units
    half = size // 2
    for _ in range(3):
        answer = await wire.get(url, headers={"Range": f"bytes=0-{half - 1}"})
        assert (answer.status_code, len(answer.content)) == (206, half)
        assert answer.headers["content-range"] == f"bytes 0-{half - 1}/{size}"
        units = 900 * half // size
        assert await charged(kernel, small, units) == units
    await asyncio.gather(*(wire.get(url, headers={"Range": "bytes=-100"}) for _ in range(4)))
    whole = await wire.get(url)
    assert pq.read_table(io.BytesIO(whole.content)).num_rows == 900
    assert (await wire.get(url)).content == whole.content
    units = 900
    assert await charged(kernel, small, units) == units
    beyond = await wire.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.json()["errorCode"]) == (416, "INVALID_PARAMETER_VALUE")
    assert beyond.headers["content-range"] == f"bytes */{size}"


async def test_a_delivery_id_is_paid_once_and_outlives_the_quota(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=100)
    token = await mint(kernel, small)
    for _ in range(2):
        file = await query(wire, small, token, "monthly-load-1", limitHint=100)
        assert len((await wire.get(file["url"])).content) == file["size"]
        units = 100
        assert await charged(kernel, small, units) == units
    path = f"{ROOT}/shares/{small.grant}/schemas/data/tables/flight_records/query"
    reused = await wire.post(
        path, json={"limitHint": 1}, headers=bearer(token, **{"Delivery-Id": "monthly-load-1"})
    )
    assert (reused.status_code, reused.json()["code"]) == (422, "delivery_id_reused")
    over = await wire.post(path, json={"limitHint": 1}, headers=bearer(token))
    assert (over.status_code, over.json()["errorCode"]) == (402, "QUOTA_EXHAUSTED")
    assert over.json()["remaining"] == 0


async def test_two_files_of_one_quota_never_pass_it(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=100)
    token = await mint(kernel, small)
    first = await query(wire, small, token, limitHint=80)
    second = await query(wire, small, token, limitHint=81)
    assert (await wire.get(first["url"])).status_code == 200
    refused = await wire.get(second["url"])
    assert (refused.status_code, refused.json()["remaining"]) == (402, 20)
    units = 80
    assert await charged(kernel, small, units) == units


async def test_links_are_for_one_file_and_end_with_the_grant(
    wire: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await make_trade(kernel)
    token = await mint(kernel, small)
    one = await query(wire, small, token, limitHint=5)
    other = await query(wire, small, token, limitHint=6)
    mixed = one["url"].split("?")[0] + "?" + other["url"].split("?")[1]
    for wrong in (
        mixed,
        one["url"][:-4] + "AAAA",
        one["url"].split("?")[0] + f"?signature={token}",
    ):
        answer = await wire.get(wrong)
        assert (answer.status_code, answer.json()["code"]) == (403, "file_link_invalid")
    unsigned = await wire.get(one["url"].split("?")[0])
    assert (unsigned.status_code, unsigned.json()["code"]) == (400, "sharing_request_invalid")
    now_s = kernel.clock.timestamp_s
    with monkeypatch.context() as later:
        later.setattr(kernel.clock, "timestamp_s", lambda: now_s() + 3_601)
        assert (await wire.get(one["url"])).json()["detail"] == "The link has expired."
    assert (await wire.get(one["url"])).status_code == 200
    async with kernel.unit_of_work() as uow:
        await grant_service.revoke(uow, kernel, small.agreement.id)
    # Also what has been paid for: access has ended.
    for url in (one["url"], other["url"]):
        answer = await wire.get(url)
        assert (answer.status_code, answer.json()["errorCode"]) == (410, "ACCESS_ENDED")
    units = 5
    assert await charged(kernel, small, units) == units


async def test_only_the_tokens_own_names_exist(
    wire: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    shares = await wire.get(f"{ROOT}/shares?maxResults=0", headers=bearer(token))
    assert shares.json() == {"items": [], "nextPageToken": "at-0"}
    paged = await wire.get(f"{ROOT}/shares?pageToken=at-0", headers=bearer(token))
    assert [item["name"] for item in paged.json()["items"]] == [trade.grant]
    foreign = await wire.get(f"{ROOT}/shares?pageToken=x", headers=bearer(token))
    assert (foreign.status_code, foreign.json()["errorCode"]) == (400, "INVALID_PARAMETER_VALUE")
    for path in ("shares/other", f"shares/{trade.grant}/schemas/x/tables", "shares/x/all-tables"):
        answer = await wire.get(f"{ROOT}/{path}", headers=bearer(token))
        assert answer.status_code == 404
        assert {answer.json()["errorCode"], answer.json()["code"]} == {
            "RESOURCE_DOES_NOT_EXIST",
            "share_not_found",
        }
    nobody = await wire.get(f"{ROOT}/shares")
    assert (nobody.status_code, nobody.json()["errorCode"]) == (401, "UNAUTHENTICATED")


async def test_a_piece_whose_sender_died_is_seller_safes_and_paid_once(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    safe = await make_trade(kernel, lots=1, lot_units=50, meter_side="seller_safe")
    file = await query(wire, safe, await mint(kernel, safe), limitHint=50)
    made = await files.find(kernel, _id_of(file))
    piece = await files.reserve(kernel, made, (0, made.byte_count))
    assert piece.hold is not None
    assert piece.fact is not None
    # As the sweeper does for a hold that nobody ended.
    fact = piece.fact._replace(lease_id=piece.hold.lease_id, assumed=True)
    await meter_of(kernel).settle(piece.hold, fact)
    units = 50
    assert await charged(kernel, safe, units) == units
    for _ in range(2):
        assert len((await wire.get(file["url"])).content) == file["size"]
    units = 50
    assert await charged(kernel, safe, units) == units


def _id_of(file: dict[str, Any]) -> UUID:
    return UUID(hex=file["url"].split("/")[-1].split(".")[0])


@pytest.mark.parametrize("parts", [2, 4, 7])
async def test_pieces_at_the_same_time_cost_the_whole_file(
    wire: httpx.AsyncClient, kernel: Kernel, parts: int
) -> None:
    # 7 rows in 4 equal pieces: each is 1 by itself, all are 7.
    small = await make_trade(kernel, lots=1, lot_units=50)
    file = await query(wire, small, await mint(kernel, small), limitHint=7)
    made = await files.find(kernel, _id_of(file))
    edges = [made.byte_count * at // parts for at in range(parts + 1)]
    pieces = [await files.reserve(kernel, made, span) for span in itertools.pairwise(edges)]
    for piece in pieces:
        await files.settle(kernel, made, piece, piece.span[1] - piece.span[0], "0" * 64)
    units = 7
    assert await charged(kernel, small, units) == units


async def test_the_last_units_of_a_grant_are_enough_for_its_last_piece(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=8)
    token = await mint(kernel, small)
    made, beside = [
        await files.find(kernel, _id_of(await query(wire, small, token, limitHint=rows)))
        for rows in (7, 4)
    ]
    size, other = made.byte_count * 6 // 7 - 1, beside.byte_count * 3 // 4 - 1
    piece = await files.reserve(kernel, made, (0, size))
    # A unit more than it costs is set aside for the first, and none is left for the second.
    rest = await files.reserve(kernel, beside, (0, other))
    for one, of in ((piece, made), (rest, beside)):
        await files.settle(kernel, of, one, one.span[1] - one.span[0], "0" * 64)
    owed = 5 + 2
    assert await charged(kernel, small, owed) == owed


async def test_what_cannot_be_repeated_any_more_is_swept(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    small = await make_trade(kernel)
    file = await query(wire, small, await mint(kernel, small), limitHint=3)
    made = await files.find(kernel, _id_of(file))
    assert made.blob_key is not None
    assert made.blob_key.startswith(f"{queries.BLOB_PREFIX}/")
    assert await jobs.sweep_shared_files(kernel) == 0
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(ShareQuery, made.id)
        assert found is not None
        found.expires_at -= timedelta(days=3)
    assert await jobs.sweep_shared_files(kernel) == 1
    assert (await wire.get(file["url"])).status_code == 403
    stored = {key for key, _ in await kernel.blobs.list_keys(queries.BLOB_PREFIX)}
    assert made.blob_key not in stored
