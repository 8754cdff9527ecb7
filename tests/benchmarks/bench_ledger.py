"""The ledger: durable 3-leg transfers per second, beside two yardsticks on the same server.

(a) A SQL function per transfer with 16 connections: the usual way to put a ledger into Postgres
(account rows locked in id order, overdraft checked, key unique; no hash chain, no triggers, no
memory of refusals). (b) COPY of the very rows our run made, into tables of the same columns,
checks and indexes without triggers: the limit of this disk and processor.

2,000 accounts, one hot fee account in every transfer, 10 % refused for lack of money,
synchronous_commit on. Only booked transfers count, on both sides. ``BENCH_LEDGER_S`` sets the
seconds per run.
"""

import asyncio
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from rich.console import Console
from rich.table import Table

from market.kernel import migrations
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.embedded_postgres import APP_ROLE
from market.kernel.ids import new_id
from market.kernel.settings import load_settings
from settlement import ledger
from settlement.accounts import AccountRef
from settlement.commands import Applied, Transfer
from settlement.verify import verify_ledger
from settlement.writer import LedgerWriter

SEED = 20240607
ACCOUNTS = 2_000
FUNDS = 10**12
REFUSED_PER_10 = 1
PEER_CONNECTIONS = 16
CALLERS = (1, 64, 1_024)
RUN_S = float(os.environ.get("BENCH_LEDGER_S", "5"))
COPIED = ("batch", "transfer", "posting", "command")

_PEER_SCHEMA = """
CREATE SCHEMA peer;
CREATE TABLE peer.account (
    id uuid PRIMARY KEY, balance bigint NOT NULL, seq bigint NOT NULL DEFAULT 0,
    allow_negative boolean NOT NULL, CHECK (allow_negative OR balance >= 0)
) WITH (fillfactor = 50);
CREATE TABLE peer.transfer (
    id uuid PRIMARY KEY, key text NOT NULL UNIQUE, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE peer.posting (
    account_id uuid, seq bigint, transfer_id uuid NOT NULL, amount bigint NOT NULL,
    balance bigint NOT NULL, PRIMARY KEY (account_id, seq));
CREATE INDEX ON peer.posting (transfer_id);
CREATE FUNCTION peer.transfer(the_key text, the_id uuid, ids uuid[], amounts bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM peer.account WHERE id = ANY(ids) ORDER BY id FOR UPDATE;
    IF EXISTS (SELECT 1 FROM unnest(ids, amounts) u(id, amount) JOIN peer.account a USING (id)
               WHERE NOT a.allow_negative AND a.balance + u.amount < 0) THEN
        RETURN false;
    END IF;
    INSERT INTO peer.transfer (id, key) VALUES (the_id, the_key);
    WITH moved AS (
        UPDATE peer.account a SET balance = a.balance + u.amount, seq = a.seq + 1
        FROM unnest(ids, amounts) u(id, amount) WHERE a.id = u.id
        RETURNING a.id, a.seq, u.amount, a.balance)
    INSERT INTO peer.posting SELECT id, seq, the_id, amount, balance FROM moved;
    RETURN true;
END $$;
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Booked transfers per second, and the callers' waiting times."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Flow:
    """The same random transfers for everybody."""

    def __init__(self, accounts: list[AccountRef]) -> None:
        self._random = random.Random(SEED)
        self._accounts = accounts
        self._fees = AccountRef("fees", None, "CNY")
        self._poor = AccountRef("available", new_id(), "CNY")

    def next(self) -> Transfer:
        seller = self._random.choice(self._accounts)
        buyer = self._poor
        if self._random.randrange(10) >= REFUSED_PER_10:
            buyer = self._random.choice(self._accounts)
        while buyer is seller:
            buyer = self._random.choice(self._accounts)
        legs = ((buyer, -1_000), (seller, 950), (self._fees, 50))
        return Transfer(f"sale:{new_id().hex}", "sale", legs)

    @property
    def refs(self) -> list[AccountRef]:
        return [*self._accounts, self._fees, self._poor]


async def drive(callers: int, one: Callable[[], Awaitable[bool]]) -> Run:
    """Let ``callers`` call as fast as they are answered for RUN_S seconds, after a warm-up."""
    waits: list[float] = []
    booked = 0
    start = time.perf_counter() + RUN_S / 4
    end = start + RUN_S

    async def caller() -> None:
        nonlocal booked
        while (begun := time.perf_counter()) < end:
            done = await one()
            now = time.perf_counter()
            if start <= now <= end:
                booked += done
                waits.append(now - begun)

    await asyncio.gather(*(caller() for _ in range(callers)))
    cuts = statistics.quantiles(waits, n=100)
    return Run(booked / RUN_S, 1_000 * statistics.median(waits), 1_000 * cuts[98])


async def fund(kernel: Kernel, refs: list[AccountRef]) -> None:
    clearing = AccountRef("clearing", None, "CNY")
    async with kernel.unit_of_work() as uow:
        await ledger.post_strict(
            uow,
            [
                Transfer(f"fund:{ref.id.hex}", "top_up", ((clearing, -FUNDS), (ref, FUNDS)))
                for ref in refs
            ],
        )


async def run_ours(kernel: Kernel, flow: Flow) -> dict[int, Run]:
    runs = {}
    for callers in CALLERS:
        async with LedgerWriter(kernel) as writer:

            async def one(writer: LedgerWriter = writer) -> bool:
                return isinstance(await writer.submit(flow.next()), Applied)

            runs[callers] = await drive(callers, one)
    return runs


async def run_units(kernel: Kernel, refs: list[AccountRef]) -> Run:
    """One unit of work per transfer, eight at once, on unrelated accounts.

    Nothing is shared but the head of the hash chain: what its lock costs at worst.
    """
    pairs = list(zip(refs[::2], refs[1::2], strict=False))
    free = asyncio.Queue[tuple[AccountRef, AccountRef]]()
    for pair in pairs[:64]:
        free.put_nowait(pair)

    async def one() -> bool:
        source, target = pair = await free.get()
        async with kernel.unit_of_work() as uow:
            command = Transfer(f"unit:{new_id().hex}", "sale", ((source, -1), (target, 1)))
            await ledger.post_strict(uow, [command])
        free.put_nowait(pair)
        return True

    return await drive(8, one)


async def run_peer(owner_url: str, flow: Flow) -> Run:
    pool = await asyncpg.create_pool(
        owner_url, min_size=PEER_CONNECTIONS, max_size=PEER_CONNECTIONS
    )
    async with pool.acquire() as connection:
        await connection.execute(_PEER_SCHEMA)
        await connection.executemany(
            "INSERT INTO peer.account (id, balance, allow_negative) VALUES ($1, $2, $3)",
            [
                (r.id, FUNDS if r in flow.refs[:ACCOUNTS] else 0, r.allow_negative)
                for r in flow.refs
            ],
        )

    async def one() -> bool:
        command = flow.next()
        ids: list[UUID] = [ref.id for ref, _ in command.legs]
        amounts = [amount for _, amount in command.legs]
        async with pool.acquire() as connection:
            done: bool = await connection.fetchval(
                "SELECT peer.transfer($1, $2, $3, $4)", command.key, new_id(), ids, amounts
            )
        return done

    run = await drive(PEER_CONNECTIONS, one)
    await pool.close()
    return run


async def run_copy(owner_url: str) -> float:
    """Transfers per second when their finished rows are only copied in, one commit for all."""
    connection = await asyncpg.connect(owner_url)
    await connection.execute("CREATE SCHEMA copied")
    rows: dict[str, bytes] = {}
    for table in COPIED:
        await connection.execute(
            f"CREATE TABLE copied.{table} (LIKE settlement.{table} INCLUDING ALL)"
        )
        buffer = io.BytesIO()
        await connection.copy_from_query(
            f"SELECT * FROM settlement.{table}", output=buffer, format="binary"
        )
        rows[table] = buffer.getvalue()
    begun = time.perf_counter()
    async with connection.transaction():
        for table in COPIED:
            await connection.copy_to_table(
                table, schema_name="copied", source=io.BytesIO(rows[table]), format="binary"
            )
    seconds = time.perf_counter() - begun
    transfers = await connection.fetchval("SELECT count(*) FROM copied.transfer")
    await connection.close()
    return float(transfers / seconds)


async def measure(folder: Path) -> dict[str, float]:
    servers = start_embedded(folder, want_redis=True)
    try:
        migrations.upgrade(servers.owner_database_url, APP_ROLE)
        kernel = open_kernel(
            load_settings(
                database_url=servers.database_url, redis_url=servers.redis_url, home=folder
            )
        )
        async with kernel.unit_of_work() as uow:
            assert await (await uow.raw()).fetchval("SHOW synchronous_commit") == "on"
            assert await (await uow.raw()).fetchval("SHOW fsync") == "on"
        flow = Flow([AccountRef("available", new_id(), "CNY") for _ in range(ACCOUNTS)])
        await fund(kernel, flow.refs[:ACCOUNTS])
        ours = await run_ours(kernel, flow)
        units = await run_units(kernel, flow.refs[:ACCOUNTS])
        copied_per_s = await run_copy(servers.owner_database_url)
        peer = await run_peer(servers.owner_database_url, flow)
        report = await verify_ledger(servers.database_url)
        assert report.ok, report.findings
        await kernel.close()
    finally:
        servers.stop()
    return _figures(ours, units, peer, copied_per_s)


def _figures(ours: dict[int, Run], units: Run, peer: Run, copied_per_s: float) -> dict[str, float]:
    best = max(run.per_s for run in ours.values())
    table = Table("what", "callers", "booked/s", "p50 ms", "p99 ms", title="Ledger")

    def line(what: str, callers: int, run: Run) -> None:
        numbers: list[Any] = [f"{run.per_s:,.0f}", f"{run.p50_ms:.1f}", f"{run.p99_ms:.1f}"]
        table.add_row(what, str(callers), *numbers)

    figures: dict[str, float] = {}
    for callers, run in ours.items():
        line("group commit", callers, run)
        figures[f"ledger_per_s_{callers}"] = run.per_s
        figures[f"ledger_p50_ms_{callers}"] = run.p50_ms
        figures[f"ledger_p99_ms_{callers}"] = run.p99_ms
    line("one unit of work each", 8, units)
    line("SQL function each", PEER_CONNECTIONS, peer)
    table.add_row("COPY of the same rows", "1", f"{copied_per_s:,.0f}", "", "")
    Console().print(table)
    figures |= {
        "ledger_units_per_s": units.per_s,
        "sql_function_per_s": peer.per_s,
        "copy_per_s": copied_per_s,
        "ratio_vs_sql_function": best / peer.per_s,
        "ratio_vs_copy": best / copied_per_s,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> dict[str, float]:
    """Measure, print the table and, as the last line, the figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as folder:
        figures = asyncio.run(measure(Path(folder)))
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
