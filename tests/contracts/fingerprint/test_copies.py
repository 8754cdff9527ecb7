"""Marked copies in every way out, and whose a leaked sample is, through the real services."""

import asyncio
import csv
import dataclasses
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from contracts.copies.errors import CopyKeyMissing
from contracts.copies.opening import open_copy
from contracts.errors import PolicyRefused
from contracts.fingerprint.leaks import SampleUnreadable, trace_leak
from contracts.fingerprint.marks import BITS_MAX
from contracts.policy import Policy, parse_policy
from listings import offers
from listings.errors import FingerprintInvalid
from listings.policy_schemas import FingerprintClause
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.kernel.settings import Environment
from tests.contracts.factories import Trade, bearer, grant_of, make_agreement, mint
from tests.listings.factories import flights_table, listing_body, make_listing
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan

ROWS = 40_000
COMMAND_TIMEOUT_S = 90
MARKET = [sys.executable, "-m", "market.cli"]
CLAUSE: dict[str, Any] = {
    "keys": ["id"],
    "columns": [{"name": "delay", "tolerance": "1"}, {"name": "distance", "tolerance": "0.01"}],
}
NARROW = {"select": "id,delay,distance", "limit": "5000"}


@dataclasses.dataclass(frozen=True)
class Sold:
    """One product, sold twice, and its unmarked rows."""

    trades: tuple[Trade, Trade]
    tokens: tuple[str, str]
    product_id: Any
    original: pa.Table


@pytest.fixture(scope="module")
async def sold(kernel: Kernel) -> Sold:
    seller = await make_party(kernel, Role.SELLER)
    original = flights_table(ROWS, salt=77_001)
    policy = {**listing_body("")["policy"], "fingerprint": CLAUSE}
    listing = await make_listing(kernel, seller, table=original, policy=policy)
    plan = await make_plan(
        *(kernel, seller, listing.listing_id),
        kind="metered",
        price_minor=1_000,
        lot_units=1_000_000,
        unit="row",
    )
    made = []
    for _ in range(2):
        buyer = await make_party(kernel, Role.BUYER)
        agreement = await make_agreement(kernel, buyer, seller, plan)
        grant = await grant_of(kernel, agreement.id)
        made.append(Trade(buyer, seller, plan, agreement, grant.id))
    tokens = [await mint(kernel, trade) for trade in made]
    return Sold((made[0], made[1]), (tokens[0], tokens[1]), listing.product_id, original)


async def _bulk(client: httpx.AsyncClient, token: str) -> bytes:
    answer = await client.get("/v1/delivery/bulk", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.headers["fingerprinted"] == "true"
    return answer.content


async def test_each_buyer_gets_the_same_copy_by_every_way(
    client: httpx.AsyncClient, sold: Sold
) -> None:
    files = [await _bulk(client, token) for token in sold.tokens]
    assert files[0] == await _bulk(client, sold.tokens[0])
    tables = [pq.read_table(io.BytesIO(file)) for file in files]
    for table in tables:
        assert table.schema.names == sold.original.schema.names
        assert table.schema.types == sold.original.schema.types
        for name in ("id", "carrier", "day"):
            assert table[name].to_pylist() == sold.original[name].to_pylist()
    assert not tables[0]["delay"].equals(tables[1]["delay"])
    for name, most in (("delay", 1), ("distance", 0.01)):
        pairs = zip(sold.original[name].to_pylist(), tables[0][name].to_pylist(), strict=True)
        steps = {round(abs(after - before), 6) for before, after in pairs}
        assert steps == {0, most}
    for token, table in zip(sold.tokens, tables, strict=True):
        page = await client.get("/v1/delivery/rows", params=NARROW, headers=bearer(token))
        assert page.headers["fingerprinted"] == "true"
        columns = ("id", "delay", "distance")
        assert page.json()["items"] == table.select(columns).slice(0, 5_000).to_pylist()
        # What is asked about is what is given.
        asked = {"filter": "delay = 57"}
        count = await client.get("/v1/delivery/rows/count", params=asked, headers=bearer(token))
        assert count.json()["count"] == table["delay"].to_pylist().count(57)
    manifest = await client.get("/v1/delivery/bulk/manifest", headers=bearer(sold.tokens[1]))
    assert (manifest.json()["bytes"], manifest.json()["rows"]) == (len(files[1]), ROWS)


async def test_delta_sharing_reads_the_same_copy(
    kernel: Kernel, client: httpx.AsyncClient, sold: Sold
) -> None:
    for trade, token in zip(sold.trades, sold.tokens, strict=True):
        table = f"/v1/delta-sharing/shares/{trade.grant}/schemas/data/tables/flight_records"
        for body in ({}, {"limitHint": 100}):
            answer = await client.post(f"{table}/query", json=body, headers=bearer(token))
            assert answer.status_code == 200, answer.text
            assert answer.headers["fingerprinted"] == "true"
            url = orjson.loads(answer.text.splitlines()[2])["file"]["url"]
            path = httpx.URL(url).raw_path.decode()
            assert (await client.head(path)).headers["fingerprinted"] == "true"
            answer = await client.get(path, headers={"Range": "bytes=0-3"})
            assert (answer.status_code, answer.headers["fingerprinted"]) == (206, "true")
            answer = await client.get(path)
            assert answer.headers["fingerprinted"] == "true"
            file = answer.content
            whole = await _bulk(client, token)
            if body:
                expected = pq.read_table(io.BytesIO(whole)).slice(0, 100)
                assert pq.read_table(io.BytesIO(file)).to_pylist() == expected.to_pylist()
            else:
                assert file == whole


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", ["parquet", "csv"])
async def test_one_percent_of_the_rows_names_the_agreement(
    kernel: Kernel, client: httpx.AsyncClient, sold: Sold, tmp_path: Path, number: int, form: str
) -> None:
    table = pq.read_table(io.BytesIO(await _bulk(client, sold.tokens[number])))
    chosen = random.Random(number).sample(range(ROWS), ROWS // 100)
    # Shuffled, without most columns, in another order.
    sample = table.take(chosen).select(["distance", "id", "delay"])
    path = tmp_path / f"leak.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, sample.column_names)
            writer.writeheader()
            writer.writerows(sample.to_pylist())
    else:
        pq.write_table(sample, path)
    found = await trace_leak(kernel, sold.product_id, path)
    assert found is not None
    assert found.named
    assert (found.agreement_id, found.candidates) == (sold.trades[number].agreement.id, 2)
    assert found.buyer_id == sold.trades[number].buyer.party_id
    assert found.agreeing == found.bits > 50
    assert found.chance < 1e-6


async def test_the_command_names_the_agreement(
    kernel: Kernel, client: httpx.AsyncClient, sold: Sold, tmp_path: Path
) -> None:
    path = tmp_path / "leak.parquet"
    path.write_bytes(await _bulk(client, sold.tokens[1]))

    def run(product: str) -> "subprocess.CompletedProcess[str]":
        settings = kernel.settings
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MARKET_")}
        addresses = {
            "MARKET_DATABASE_URL": str(settings.database_url),
            "MARKET_REDIS_URL": str(settings.redis_url),
            "MARKET_HOME": str(settings.home),
        }
        return subprocess.run(
            [*MARKET, "fingerprint", "detect", str(path), "--product", product],
            capture_output=True,
            text=True,
            env={**kept, **addresses},
            timeout=COMMAND_TIMEOUT_S,
        )

    done = await asyncio.to_thread(run, show("prd", sold.product_id))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["agreement"], report["named"]) == (sold.trades[1].id, True)
    # Marks beyond these make no verdict surer.
    assert report["agreeing"] == report["marks"] == BITS_MAX
    other = await asyncio.to_thread(run, show("prd", uuid4()))
    assert other.returncode == 1
    assert "no agreement on this product carries marks" in other.stderr


async def test_nobody_is_named_for_rows_that_were_never_marked(
    kernel: Kernel, sold: Sold, tmp_path: Path
) -> None:
    path = tmp_path / "original.parquet"
    pq.write_table(sold.original, path)
    found = await trace_leak(kernel, sold.product_id, path)
    assert found is not None
    assert not found.named
    pq.write_table(sold.original.slice(0, 0), path)
    assert await trace_leak(kernel, sold.product_id, path) is None
    pq.write_table(sold.original.drop_columns(["id"]), path)
    with pytest.raises(SampleUnreadable, match="key column 'id'"):
        await trace_leak(kernel, sold.product_id, path)
    (tmp_path / "no.csv").write_bytes(b"id,delay\nx,y\n")
    with pytest.raises(SampleUnreadable, match="conversion error"):
        await trace_leak(kernel, sold.product_id, tmp_path / "no.csv")


async def test_readers_at_once_have_one_copy_and_what_cannot_be_marked_is_refused(
    kernel: Kernel, client: httpx.AsyncClient, sold: Sold
) -> None:
    seller, trade = sold.trades[0].seller, sold.trades[0]
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, trade.agreement.version_id)
    buyer = await make_party(kernel, Role.BUYER)
    other = await make_agreement(kernel, buyer, seller, trade.plan)
    policy = Policy(fingerprint=FingerprintClause.model_validate(CLAUSE))
    opened = await asyncio.gather(
        *(
            open_copy(process, version, other.id, policy)
            for process in (kernel, kernel, dataclasses.replace(kernel))
        )
    )
    assert len(set(opened)) == 1
    broken = parse_policy({"fingerprint": {**CLAUSE, "keys": ["flight"]}})
    third = await make_agreement(kernel, buyer, seller, trade.plan)
    with pytest.raises(PolicyRefused, match="marked as agreed"):
        await open_copy(kernel, version, third.id, broken)
    settings = kernel.settings.model_copy(
        update={
            "copy_key_file": kernel.settings.home / "absent" / "x",
            "environment": Environment.PRODUCTION,
        }
    )
    keyless = dataclasses.replace(kernel, settings=settings)
    with pytest.raises(CopyKeyMissing):
        await open_copy(keyless, version, third.id, policy)


@pytest.mark.parametrize(
    ("keys", "column", "tolerance"),
    [
        (["id"], "carrier", "1"),
        (["id"], "delay", "0.5"),
        (["id"], "altitude", "1"),
        (["flight"], "delay", "1"),
        (["distance"], "delay", "1"),
    ],
)
async def test_a_listing_cannot_promise_marks_that_its_columns_do_not_take(
    kernel: Kernel, keys: list[str], column: str, tolerance: str
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    clause = {"keys": keys, "columns": [{"name": column, "tolerance": tolerance}]}
    policy = {**listing_body("")["policy"], "fingerprint": clause}
    with pytest.raises(FingerprintInvalid):
        await make_listing(kernel, seller, rows=50, policy=policy)
