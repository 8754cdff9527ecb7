"""The meter beside nothing: a page of ten rows as JSON, bare, exactly metered, and by sub-leases.

All give the same bytes from memory, served by the real application with real PostgreSQL (durable)
and Valkey. With the meter each request also has its token checked, its rate counted, its units
admitted, reserved and settled, and its usage record and signed receipt made durable; with
sub-leases the units come out of a block that the process holds. Rounds take turns in one run, so
that a busy machine burdens all; a ratio is of the medians over the rounds. ``cpu_us`` is what the
workers' processors spent on a request, which a busy machine disturbs less. One worker has a
processor of its own, two share all.

``BENCH_METER_ROUNDS`` and ``BENCH_METER_S`` shrink it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
from rich.console import Console
from rich.table import Table

from market.kernel import migrations
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.embedded_postgres import APP_ROLE
from market.kernel.settings import load_settings
from tests.benchmarks.page_load import Load, get, load
from tests.contracts.factories import Trade, make_trade, mint
from tests.e2e.market_process import free_port

ROUNDS = int(os.environ.get("BENCH_METER_ROUNDS", "9"))
ROUND_S = float(os.environ.get("BENCH_METER_S", "2"))
CONNECTIONS = {1: 32, 2: 64}
ROWS = 10
START_TIMEOUT_S = 120
LOT_UNITS = 1_000_000_000
# Units of a process's block, by name.
MODES = {"exact": 0, "sublease": 10_000}


@contextmanager
def workers(count: int, addresses: dict[str, str]) -> Iterator[dict[int, int]]:
    """Their processes by port, once all are ready. One worker is alone on the first processor."""
    unwanted = ("MARKET_", "PYTHONDONTWRITEBYTECODE")
    kept = {n: value for n, value in os.environ.items() if not n.startswith(unwanted)}
    ports = [free_port() for _ in range(count)]
    cpu = "0" if count == 1 and (os.cpu_count() or 1) > 1 else "-1"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.metered_app", str(port), cpu],
            env={**kept, **addresses},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        for port in ports:
            _wait_until_ready(port)
        yield {port: process.pid for port, process in zip(ports, started, strict=True)}
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("a worker did not start")


def _cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds that the processes have used, by Linux' ``/proc/PID/stat``."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


async def take_turns(started: dict[int, int], requests: dict[str, bytes]) -> dict[str, list[Load]]:
    """Rounds of each request in turns, the order turned around every time; the first warms up."""
    ports = list(started)
    connections = CONNECTIONS[len(ports)]
    loads: dict[str, list[Load]] = {name: [] for name in requests}
    for number in range(1 + ROUNDS):
        for name in sorted(requests, reverse=number % 2 == 1):
            before = _cpu_s(started.values())
            one = await load(ports, requests[name], connections=connections, seconds=ROUND_S)
            one.cpu_s = _cpu_s(started.values()) - before
            loads[name].append(one)
    return loads


def figures_of(loads: dict[str, list[Load]], count: int) -> dict[str, float]:
    """Medians over the rounds but the first, and their ratios."""
    rate = {name: statistics.median(one.per_s for one in of[1:]) for name, of in loads.items()}
    p99 = {name: statistics.median(one.p99_s for one in of[1:]) for name, of in loads.items()}
    cpu_us = {
        name: 1e6 * sum(one.cpu_s for one in of[1:]) / sum(len(one.waits) for one in of[1:])
        for name, of in loads.items()
    }
    tail = "" if count == 1 else "_two_workers"
    metered = [name for name in loads if name != "bare"]
    return {
        **{f"meter_{name}_per_s{tail}": round(rate[name], 1) for name in loads},
        **{f"meter_{name}_p99_ms{tail}": round(1_000 * p99[name], 2) for name in loads},
        **{f"meter_{name}_cpu_us{tail}": round(cpu_us[name]) for name in loads},
        **{f"ratio_{n}_vs_bare{tail}": round(rate[n] / rate["bare"], 3) for n in metered},
        **{f"p99_ratio_{n}{tail}": round(p99[n] / p99["bare"], 2) for n in metered},
    }


async def _trade(kernel: Kernel, sub_lease_units: int) -> Trade:
    return await make_trade(
        kernel, lot_units=LOT_UNITS, price_minor=LOT_UNITS, sub_lease_units=sub_lease_units
    )


async def _check(kernel: Kernel, agreement_id: UUID, answered: int) -> None:
    """Every answered request has its usage record, so nothing was measured that did not count."""
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        row = await connection.fetchrow(
            "SELECT count(*), sum(units) AS units FROM contracts.delivery WHERE agreement_id = $1",
            agreement_id,
        )
    assert row is not None
    assert (row["count"], row["units"]) == (answered, ROWS * answered), (row, answered)


async def _run(folder: Path) -> dict[str, float]:
    with start_embedded(folder) as servers:
        migrations.upgrade(servers.owner_database_url, APP_ROLE)
        addresses = {
            "MARKET_DATABASE_URL": servers.database_url,
            "MARKET_REDIS_URL": servers.redis_url,
            "MARKET_HOME": str(folder),
            "MARKET_DELIVERY_RATE_PER_MINUTE": "1000000000",
        }
        kernel = open_kernel(
            load_settings(
                database_url=servers.database_url, redis_url=servers.redis_url, home=folder
            )
        )
        figures: dict[str, float] = {}
        for count in CONNECTIONS:
            trades = {name: await _trade(kernel, units) for name, units in MODES.items()}
            requests = {"bare": get(f"/bare?limit={ROWS}")}
            for name, trade in trades.items():
                token = await mint(kernel, trade, ttl_s=20_000)
                requests[name] = get(
                    f"/v1/delivery/rows?limit={ROWS}",
                    Authorization=f"Bearer {token}",
                    Accept="application/json",
                )
            with workers(count, addresses) as started:
                loads = await take_turns(started, requests)
            figures |= figures_of(loads, count)
            for name, trade in trades.items():
                await _check(kernel, trade.agreement.id, sum(len(one.waits) for one in loads[name]))
        await kernel.close()
        return figures


def main() -> dict[str, float]:
    """Print the table and, last, the figures as JSON."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(_run(Path(folder)))
    table = Table("figure", "value", title="A page of ten rows as JSON")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
