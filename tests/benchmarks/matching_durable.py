"""The durable matching engine, everything included, beside COPY of the rows that it wrote.

The real engine object with real servers: every answer comes after its batch's COMMIT with orders,
trades, holds, escrow, agreements, grants, events and remembered answers. The flow is that of
``durable_market.Flow``: operations, of which an amendment has two commands. The ratio is seconds
of COPY ÷ seconds of the run with 1,024 callers; ``copied_rows`` tells what is copied. The
headline copies with one commit per batch of ours, ``ratio_durable_vs_copy_one_commit`` with one
for all. At the end a fresh engine rebuilds a market of ``BENCH_MATCHING_OPEN`` resting orders.

``BENCH_MATCHING_OPERATIONS`` sets the length of the run with 1,024 callers, the others end with
it or after ``BENCH_MATCHING_S`` seconds.
"""

import asyncio
import contextvars
import gc
import json
import os
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from rich.console import Console
from rich.table import Table

from market.kernel import logging as market_logging, migrations
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import EmbeddedServers, start_embedded
from market.kernel.embedded_postgres import APP_ROLE
from market.kernel.ids import new_id
from market.kernel.settings import load_settings
from market.matching.commands import Cancel, Place
from market.matching.engine import MatchingEngine
from market.matching.marks import add_marks, order_mark
from market.matching.models import (
    OrderSide,
    OrderStatus,
    OrderType,
    SelfTradeMode,
    TimeInForceName,
)
from market.matching.sql import OrderRow
from settlement.verify import verify_ledger
from tests.benchmarks.copied_rows import Rows, copy_s, marker, rows_since
from tests.benchmarks.durable_market import MID, Flow, Market, seed
from tests.benchmarks.matching_waits import Waits

OPERATIONS = int(os.environ.get("BENCH_MATCHING_OPERATIONS", "200000"))
OPEN_ORDERS = int(os.environ.get("BENCH_MATCHING_OPEN", "1000000"))
RUN_S = float(os.environ.get("BENCH_MATCHING_S", "10"))
# The largest first: the yardstick copies its rows, so nothing may be written before it.
CALLERS = (1_024, 64, 1)
FIRST_RUN_MAX_S = 600
# More than a caller can do in its seconds.
PER_CALLER_MAX = 2_000
CLONES = ("copied", "copied_at_once", "rebuilt")


@dataclass(slots=True)
class Run(Waits):
    """What a number of callers did, and how long each command waited."""

    operations: int = 0
    refused: int = 0

    @property
    def commands(self) -> int:
        return len(self.times)


def with_database(url: str, name: str) -> str:
    """The same server and role, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def drive(
    engine: MatchingEngine, flow: Flow, callers: int, *, operations: int, seconds: float
) -> Run:
    """Let ``callers`` submit as fast as they are answered until either bound is reached."""
    run = Run()
    begun = time.perf_counter()
    end = begun + seconds

    async def submit(command: Place | Cancel) -> None:
        sent = time.perf_counter()
        reply = await engine.submit(command)
        run.note(time.perf_counter() - sent)
        if reply.answer.status >= 400:
            run.refused += 1
        elif isinstance(command, Place) and b'"status":"open"' in reply.answer.body:
            flow.rests(command)

    async def caller() -> None:
        while run.operations < operations and time.perf_counter() < end:
            run.operations += 1
            for command in flow.next():
                await submit(command)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller(), context=contextvars.Context())
    run.seconds = time.perf_counter() - begun
    return run


async def _kernel(servers: EmbeddedServers, folder: Path, database: str = "") -> Kernel:
    url = with_database(servers.database_url, database) if database else servers.database_url
    kernel = open_kernel(load_settings(database_url=url, redis_url=servers.redis_url, home=folder))
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SHOW fsync") == "on"
    return kernel


async def _clone(owner_url: str) -> None:
    connection = await asyncpg.connect(with_database(owner_url, "postgres"))
    name = urlsplit(owner_url).path.removeprefix("/")
    for clone in CLONES:
        await connection.execute(f'CREATE DATABASE "{clone}" TEMPLATE "{name}"')
    await connection.close()


async def run_engine(kernel: Kernel, market: Market, owner_url: str) -> tuple[dict[int, Run], Rows]:
    """Drive the engine with each number of callers; the rows are those of the first."""
    most = {callers: min(OPERATIONS, PER_CALLER_MAX * callers) for callers in CALLERS}
    flow = Flow(market, sum(most.values()))
    runs = {}
    rows: Rows | None = None
    async with MatchingEngine(kernel) as engine:
        for callers in CALLERS:
            seconds = FIRST_RUN_MAX_S if callers == CALLERS[0] else RUN_S
            after = await marker(owner_url)
            runs[callers] = await drive(
                engine, flow, callers, operations=most[callers], seconds=seconds
            )
            if rows is None:
                rows = await rows_since(owner_url, after)
    assert rows is not None
    return runs, rows


async def fill(owner_url: str, market: Market) -> None:
    """``OPEN_ORDERS`` resting asks at 1,000 prices, and the book states that they add up to."""
    connection = await asyncpg.connect(owner_url)
    now = datetime.now(UTC)
    states = {item.plan_id: [0, 0] for item in market.instruments}
    plans = await connection.fetch("SELECT id, listing_id FROM pricing.plan")
    listings = {row["id"]: row["listing_id"] for row in plans}
    rows = []
    for seq in range(1, OPEN_ORDERS + 1):
        item = market.instruments[seq % len(market.instruments)]
        price, lots = MID + seq * 7_919 % 1_000, 1 + seq % 20
        state = states[item.plan_id]
        state[0] = add_marks(state[0], order_mark(seq, 1, price, lots))
        state[1] += 1
        row = OrderRow(
            id=new_id(),
            seq=seq,
            plan_id=item.plan_id,
            listing_id=listings[item.plan_id],
            party_id=item.seller_id,
            side=OrderSide.SELL,
            type=OrderType.LIMIT,
            time_in_force=TimeInForceName.GTC,
            post_only=False,
            price_minor=price,
            currency="CNY",
            lots=lots,
            filled_lots=0,
            filled_amount_minor=Decimal(0),
            status=OrderStatus.OPEN,
            reason=None,
            hold_id=None,
            client_order_id=None,
            conflict_group=item.seller_id,
            expires_at=None,
            created_at=now,
            updated_at=now,
            closed_at=None,
            closed_seq=None,
            min_lots=None,
            self_trade_mode=SelfTradeMode.CANCEL_NEWEST,
            grant_id=None,
        )
        rows.append(row)
    await connection.copy_records_to_table(
        "order", schema_name="matching", columns=OrderRow._fields, records=rows
    )
    await connection.executemany(
        "INSERT INTO matching.book (plan_id, sequence, checksum, orders, updated_at)"
        " VALUES ($1, 1, $2, $3, $4)",
        [(plan_id, *state, now) for plan_id, state in states.items()],
    )
    await connection.execute("UPDATE matching.lease SET last_seq = $1", OPEN_ORDERS)
    await connection.execute("ANALYZE")
    await connection.close()


async def rebuild_s(kernel: Kernel, market: Market) -> float:
    """Seconds until a fresh engine is ready; then it must trade on every book."""
    gc.collect()
    begun = time.perf_counter()
    async with MatchingEngine(kernel) as engine:
        seconds = time.perf_counter() - begun
        assert engine.is_owner
        assert engine.shard.open_orders == OPEN_ORDERS
        for order in Flow(market, 4 * len(market.instruments)).orders:
            reply = await engine.submit(order)
            assert reply.answer.status == 201, reply.answer.body
    return seconds


async def measure(folder: Path) -> dict[str, float]:
    servers = start_embedded(folder, want_redis=True)
    try:
        owner_url = servers.owner_database_url
        migrations.upgrade(owner_url, APP_ROLE)
        kernel = await _kernel(servers, folder)
        market = await seed(kernel)
        await kernel.close()
        await _clone(owner_url)
        kernel = await _kernel(servers, folder)
        runs, rows = await run_engine(kernel, market, owner_url)
        await kernel.close()
        per_batch = await copy_s(with_database(owner_url, "copied"), rows)
        at_once = await copy_s(with_database(owner_url, "copied_at_once"), rows.in_one_commit())
        await fill(with_database(owner_url, "rebuilt"), market)
        kernel = await _kernel(servers, folder, "rebuilt")
        restart = await rebuild_s(kernel, market)
        await kernel.close()
        report = await verify_ledger(servers.database_url)
        assert report.ok, report.findings
    finally:
        servers.stop()
    return _figures(runs, rows, per_batch=per_batch, at_once=at_once, restart=restart)


def _figures(
    runs: dict[int, Run], rows: Rows, *, per_batch: float, at_once: float, restart: float
) -> dict[str, float]:
    run = runs[CALLERS[0]]
    table = Table("callers", "commands/s", "p50 ms", "p99 ms", title="Durable matching engine")
    figures: dict[str, float] = {}
    for callers, one in runs.items():
        table.add_row(str(callers), f"{one.per_s:,.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}")
        figures[f"durable_per_s_{callers}"] = one.per_s
        figures[f"durable_p50_ms_{callers}"] = one.p50_ms
        figures[f"durable_p99_ms_{callers}"] = one.p99_ms
    console = Console()
    console.print(table)
    total = sum(rows.counts.values())
    console.print(
        f"{run.operations:,} operations = {run.commands:,} commands ({run.refused:,} refused), "
        f"{rows.counts['matching.trade']:,} trades, {len(rows.commits):,} batches, "
        f"{total:,} rows: {run.seconds:.1f} s; COPY {per_batch:.2f} s (a commit per batch), "
        f"{at_once:.2f} s (one commit)"
    )
    console.print(", ".join(f"{table}: {count:,}" for table, count in rows.counts.items()))
    console.print(f"rebuilt {OPEN_ORDERS:,} open orders in {restart:.1f} s")
    figures |= {
        "durable_orders_per_s": run.per_s,
        "durable_trades_per_s": rows.counts["matching.trade"] / run.seconds,
        "durable_rows_per_s": total / run.seconds,
        "copy_rows_per_s": total / per_batch,
        "ratio_durable_vs_copy": per_batch / run.seconds,
        "ratio_durable_vs_copy_one_commit": at_once / run.seconds,
        "restart_orders": OPEN_ORDERS,
        "restart_1m_s": restart,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> dict[str, float]:
    """Measure, print the tables and, as the last line, the figures as JSON."""
    market_logging.configure(json=True, level="INFO")
    with tempfile.TemporaryDirectory(prefix="bench-matching-") as folder:
        figures = asyncio.run(measure(Path(folder)))
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
