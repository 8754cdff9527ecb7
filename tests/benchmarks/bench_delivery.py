"""Delivery beside what it competes with; loopback only.

(a) A table of ``BENCH_DELIVERY_MB`` MB (500) loaded by the official Delta Sharing client from the
real application, metered by rows, and the very same Parquet file read by pyarrow over HTTP from a
plain static server that uses ``sendfile``. Both in the client's own environment, both into pandas.
As a third way the client's own reader is given the static file's address instead of ours: what the
client does beyond reading (another look at the footer, a copy of the frame) bounds the ratio.
(b) Pages of the rows API as Arrow and as JSON, received but not decoded (which favors JSON): the
largest that the setting allows, and, as ``_default_page``, the largest without a setting.

Rounds take turns in one run, so that a busy machine burdens all alike; a ratio is of the medians
over the rounds. At the end the meter is compared with what was loaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from contracts.metering import meter_of
from listings import offers
from market.kernel import migrations
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.embedded_postgres import APP_ROLE
from market.kernel.security import Role
from market.kernel.settings import load_settings
from tests.benchmarks.http_load import Connection
from tests.contracts.factories import Trade, bearer, grant_of, make_agreement, mint
from tests.contracts.sharing.official_client import PYTHON
from tests.e2e.market_process import MarketProcess, free_port
from tests.listings.factories import make_listing
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan

MEGABYTES = int(os.environ.get("BENCH_DELIVERY_MB", "500"))
ROUNDS = int(os.environ.get("BENCH_DELIVERY_ROUNDS", "5"))
COLUMNS = 10
# Random doubles do not shrink, so that the file has the size that was asked for.
ROW_BYTES = 8 * COLUMNS
# The default maximum of a page, and the largest that the setting allows; pages of a round.
PAGE_ROWS = {10_000: 10, 100_000: 2}
LOT_UNITS = 1_000_000_000
LOAD_TIMEOUT_S = 1_800

# Runs in the official client's environment: three ways to the same frame, in turns.
_LOADS = """
import json, sys, time
import delta_sharing, fsspec, pandas, pyarrow.parquet
from delta_sharing.protocol import AddFile
from delta_sharing.reader import DeltaSharingReader

profile, table, static, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def sharing():
    return delta_sharing.load_as_pandas(f"{profile}#{table}")

def plain():
    found = pyarrow.parquet.read_table(static, filesystem=fsspec.filesystem("http"))
    return found.to_pandas(
        date_as_object=True, use_threads=False, split_blocks=False, self_destruct=True
    )

def client():
    # As its to_pandas goes on after the protocol's answer.
    names = [f"v{at}" for at in range(int(sys.argv[5]))]
    file = AddFile(url=static, id="0", partition_values={}, size=0)
    found = DeltaSharingReader._to_pandas(file, dict.fromkeys(names), False, None, False)
    return pandas.concat([found], axis=0, ignore_index=True, copy=False)[names]

ways = [("sharing", sharing), ("static", plain), ("client", client)]
seconds, rows = {name: [] for name, _ in ways}, set()
for number in range(1 + rounds):
    for name, way in ways if number % 2 else ways[::-1]:
        begun = time.perf_counter()
        frame = way()
        seconds[name].append(time.perf_counter() - begun)
        rows.add((len(frame), float(frame["v0"].sum())))
        del frame
assert len(rows) == 1, rows
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Offered:
    """A bought table: its trade, token and stored file."""

    trade: Trade
    token: str
    rows: int
    file: Path


async def offer(kernel: Kernel) -> Offered:
    """Upload the table, sell it by the row, mint a token: by the real services."""
    rows = MEGABYTES * 1_000_000 // ROW_BYTES
    numbers = np.random.default_rng(7)
    table = pa.table({f"v{at}": numbers.random(rows) for at in range(COLUMNS)})
    seller, buyer = await make_party(kernel, Role.SELLER), await make_party(kernel, Role.BUYER)
    listing = await make_listing(kernel, seller, table=table)
    plan = await make_plan(
        kernel,
        seller,
        listing.listing_id,
        kind="metered",
        price_minor=LOT_UNITS,
        lot_units=LOT_UNITS,
        unit="row",
    )
    agreement = await make_agreement(kernel, buyer, seller, plan)
    trade = Trade(buyer, seller, plan, agreement, (await grant_of(kernel, agreement.id)).id)
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, listing.version_id)
    token = await mint(kernel, trade, ttl_s=20_000)
    return Offered(trade, token, rows, await kernel.blobs.local_path(version.blob_key))


@contextmanager
def static_server(folder: Path) -> Iterator[str]:
    """Its address, once it answers."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.static_files", str(folder), str(port)]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.head(f"{url}/none", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def load_in_turns(market: str, offered: Offered, static: str, folder: Path) -> dict[str, Any]:
    """Seconds of each load by name, the warm-up first."""
    answer = httpx.get(
        f"{market}/v1/delta-sharing/profile", headers=bearer(offered.token), timeout=60
    )
    profile = folder / "bench.share"
    profile.write_text(json.dumps(answer.raise_for_status().json()))
    share = answer.json()["endpoint"]
    tables = httpx.get(
        f"{share}/shares/{offered.trade.grant}/all-tables",
        headers=bearer(offered.token),
        timeout=60,
    ).json()["items"]
    name = ".".join(tables[0][part] for part in ("share", "schema", "name"))
    done = subprocess.run(
        [PYTHON, "-c", _LOADS, profile, name, static, str(ROUNDS), str(COLUMNS)],
        env={"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        timeout=LOAD_TIMEOUT_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def pages_in_turns(port: int, offered: Offered, page_rows: int) -> dict[str, list[float]]:
    """Rows per second of each round by format, the warm-up first."""
    accepts = {"json": "application/json", "arrow": "application/vnd.apache.arrow.stream"}
    rates: dict[str, list[float]] = {name: [] for name in accepts}
    async with await Connection.open(port) as connection:
        for number in range(1 + ROUNDS):
            for name in sorted(accepts, reverse=number % 2 == 1):
                headers = bearer(offered.token, Accept=accepts[name])
                begun = time.perf_counter()
                for _ in range(PAGE_ROWS[page_rows]):
                    path = f"/v1/delivery/rows?limit={page_rows}"
                    answer = await connection.request("GET", path, headers)
                    assert answer.status == 200, answer.body[:600]
                rows = PAGE_ROWS[page_rows] * page_rows
                rates[name].append(rows / (time.perf_counter() - begun))
    return rates


def load_figures(megabytes: float, loads: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds but the first, and their ratios."""
    speed = {name: megabytes / statistics.median(of[1:]) for name, of in loads.items()}
    return {
        "delivery_file_mb": round(megabytes, 1),
        **{f"delivery_{name}_mb_per_s": round(value, 1) for name, value in speed.items()},
        "ratio_sharing_vs_static": round(speed["sharing"] / speed["static"], 3),
        "ratio_client_alone_vs_static": round(speed["client"] / speed["static"], 3),
        "ratio_sharing_vs_client_alone": round(speed["sharing"] / speed["client"], 3),
    }


def page_figures(page_rows: int, rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds but the first, and their ratio."""
    tail = "" if page_rows == max(PAGE_ROWS) else "_default_page"
    rate = {name: statistics.median(of[1:]) for name, of in rates.items()}
    return {
        **{f"delivery_{name}_rows_per_s{tail}": round(value) for name, value in rate.items()},
        f"ratio_arrow_vs_json{tail}": round(rate["arrow"] / rate["json"], 2),
    }


async def _check(kernel: Kernel, offered: Offered) -> None:
    """Each load and each page was charged with exactly its rows."""
    paged = 2 * sum(rows * count for rows, count in PAGE_ROWS.items())
    due = (1 + ROUNDS) * (offered.rows + paged)
    settled = -1
    for _ in range(600):
        await meter_of(kernel).flush()
        settled = (await grant_of(kernel, offered.trade.agreement.id)).settled_units
        if settled == due:
            return
        await asyncio.sleep(0.1)
    raise AssertionError((settled, due))


async def _run(folder: Path) -> dict[str, float]:
    with start_embedded(folder) as servers:
        migrations.upgrade(servers.owner_database_url, APP_ROLE)
        kernel = open_kernel(
            load_settings(
                database_url=servers.database_url, redis_url=servers.redis_url, home=folder
            )
        )
        offered = await offer(kernel)
        addresses = {
            "MARKET_DATABASE_URL": servers.database_url,
            "MARKET_OWNER_DATABASE_URL": servers.owner_database_url,
            "MARKET_REDIS_URL": servers.redis_url,
            "MARKET_DELIVERY_RATE_PER_MINUTE": "1000000000",
            "MARKET_DELIVERY_PAGE_MAX_ROWS": str(max(PAGE_ROWS)),
        }
        market = MarketProcess(folder, addresses)
        market.start()
        try:
            with static_server(offered.file.parent) as static:
                loads = await asyncio.to_thread(
                    load_in_turns, market.url, offered, f"{static}/{offered.file.name}", folder
                )
            figures = load_figures(offered.file.stat().st_size / 1e6, loads)
            for page_rows in PAGE_ROWS:
                rates = await pages_in_turns(market.port, offered, page_rows)
                figures |= page_figures(page_rows, rates)
            await _check(kernel, offered)
        finally:
            market.stop()
        await kernel.close()
        return figures


def main() -> dict[str, float]:
    """Print the table and, last, the figures as JSON. Needs ``make sharing-client``."""
    folder = Path(tempfile.mkdtemp(prefix="bench-delivery-"))
    try:
        figures = asyncio.run(_run(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("figure", "value", title="Delivery: a table by Delta Sharing, pages of rows")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
