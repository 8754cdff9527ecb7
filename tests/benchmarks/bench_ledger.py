"""The ledger: durable 3-leg transfers per second, beside two yardsticks on the same server.

2,000 accounts, one hot fee account in every transfer, 10 % refused for lack of money, fsync and
synchronous_commit on. Only booked transfers count, on both sides; callers run in the process of
the writer and are part of its cost. ``ratio_*`` take the best of our runs.

(a) A SQL function per transfer with 16 connections: the usual way to put a ledger into Postgres
(account rows locked in id order, overdraft checked, key unique; no hash chain, no triggers, no
memory of refusals).

(b) COPY of the very rows that our runs made, finished, in one transaction, into the ledger's own
tables in a fresh database: same indexes, checks and triggers, which there too check the postings
and move the balances. Nobody decides, hashes or encodes anything there, there are no callers and
one commit: the limit of this Postgres. ``copy_without_triggers_per_s`` is the same with them off.

Growth: a ledger of 10 k and one of 10 M postings on one server, driven in turns; the ratio is
cost per transfer, large to small. The large one is filled by the ledger writer itself, with a
full queue, so that it is what traffic leaves, hash chain included. ``market ledger verify`` then
proves it in a process of its own, whose peak resident memory is reported.

``BENCH_LEDGER_S`` sets the seconds per run, ``BENCH_LEDGER_POSTINGS`` the size of the large
ledger (the keys keep their names; ``large_postings`` tells).
"""

import asyncio
import io
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from market.kernel import migrations
from market.kernel.collector import tune_collector
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
# Two full batches wait in the last: one is written, the next decided meanwhile.
CALLERS = (1, 64, 1_024, 4_096, 8_192)
RUN_S = float(os.environ.get("BENCH_LEDGER_S", "5"))
POSTINGS = int(os.environ.get("BENCH_LEDGER_POSTINGS", "10_000_000"))
LOADERS = 4_096
GROWTH_CALLERS = 1_024
GROWTH_ROUNDS = 3
PEAK_POLL_S = 0.1
COPIED = ("batch", "transfer", "posting", "command")
ACCOUNT_COLUMNS = "id, kind, owner, currency, created_at"

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
    """The same random transfers for everybody. Cheap: its time is taken from what it drives."""

    def __init__(self, accounts: list[AccountRef]) -> None:
        self._random = random.Random(SEED).random
        self._numbers = itertools.count()
        self._prefix = f"sale:{new_id().hex}"
        self._accounts = accounts
        self._fees = AccountRef("fees", None, "CNY")
        self._poor = AccountRef("available", new_id(), "CNY")

    def next(self) -> Transfer:
        seller = self._any()
        buyer = self._poor if self._random() * 10 < REFUSED_PER_10 else self._any()
        while buyer is seller:
            buyer = self._any()
        legs = ((buyer, -1_000), (seller, 950), (self._fees, 50))
        return Transfer(f"{self._prefix}:{next(self._numbers)}", "sale", legs)

    def _any(self) -> AccountRef:
        return self._accounts[int(self._random() * ACCOUNTS)]

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


async def run_writer(kernel: Kernel, flow: Flow, callers: int) -> Run:
    async with LedgerWriter(kernel) as writer:

        async def one() -> bool:
            return isinstance(await writer.submit(flow.next()), Applied)

        return await drive(callers, one)


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


async def copy_out(owner_url: str) -> dict[str, bytes]:
    """The rows that our runs made, to be copied in again."""
    connection = await asyncpg.connect(owner_url)
    rows: dict[str, bytes] = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table, columns in (("account", ACCOUNT_COLUMNS), *((name, "*") for name in COPIED)):
            buffer = io.BytesIO()
            query = f"SELECT {columns} FROM settlement.{table}"
            await connection.copy_from_query(query, output=buffer, format="binary")
            rows[table] = buffer.getvalue()
    await connection.close()
    return rows


async def run_copy(owner_url: str, rows: dict[str, bytes], *, triggers: bool) -> float:
    """Transfers per second when finished rows are only copied in, one commit for all.

    Into the ledger's own tables of a fresh database, with their indexes, checks and, if asked,
    triggers (which move the balances). The empty accounts stand ready, they are not timed.
    """
    connection = await asyncpg.connect(owner_url)
    await connection.copy_to_table(
        "account",
        schema_name="settlement",
        columns=ACCOUNT_COLUMNS.split(", "),
        source=io.BytesIO(rows["account"]),
        format="binary",
    )
    if not triggers:
        for table in COPIED:
            await connection.execute(f"ALTER TABLE settlement.{table} DISABLE TRIGGER USER")
    begun = time.perf_counter()
    async with connection.transaction():
        for table in COPIED:
            await connection.copy_to_table(
                table, schema_name="settlement", source=io.BytesIO(rows[table]), format="binary"
            )
    seconds = time.perf_counter() - begun
    transfers = await connection.fetchval("SELECT count(*) FROM settlement.transfer")
    await connection.close()
    return float(transfers / seconds)


async def load(kernel: Kernel, flow: Flow, postings: int) -> float:
    """Let the ledger itself book until it has ``postings``; returns the seconds.

    The writer, with a full queue: the rows are the ones that real traffic leaves, hash chain
    included, in the order in which it leaves them.
    """
    async with kernel.unit_of_work() as uow:
        booked: int = await (await uow.raw()).fetchval("SELECT count(*) FROM settlement.posting")
    left = max(0, postings - booked) // 3
    begun = time.perf_counter()

    async def caller(writer: LedgerWriter) -> None:
        nonlocal left
        while left > 0:
            booked = isinstance(await writer.submit(flow.next()), Applied)
            left -= booked

    async with LedgerWriter(kernel) as writer:
        await asyncio.gather(*(caller(writer) for _ in range(LOADERS)))
    return time.perf_counter() - begun


async def run_growth(small: Kernel, large: Kernel, flows: tuple[Flow, Flow]) -> list[float]:
    """Transfers per second of a small and a large ledger on one server, in turns.

    In turns because a machine is not equally fast all the time; the median of each counts.
    """
    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(GROWTH_ROUNDS):
        for kernel, flow, found in zip((small, large), flows, speeds, strict=True):
            found.append((await run_writer(kernel, flow, GROWTH_CALLERS)).per_s)
    return [statistics.median(found) for found in speeds]


def run_verify(settings: dict[str, str]) -> tuple[float, float]:
    """``market ledger verify`` in a process of its own: seconds, and peak resident MiB."""
    environment = {**os.environ, **settings}
    command = [str(Path(sys.executable).with_name("market")), "ledger", "verify"]
    begun = time.perf_counter()
    peak_kib = 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        # Not ru_maxrss of the child: that begins with the size of whoever started it.
        while process.poll() is None:
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            time.sleep(PEAK_POLL_S)
        output.seek(0)
        text = output.read().decode(errors="replace")
    assert process.returncode == 0, text[-2_000:]
    return time.perf_counter() - begun, peak_kib / 1024


def _peak_kib(pid: int) -> int:
    """The most memory that a process has had resident since its program began (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) if found else 0


class Bench:
    """One server with one database per yardstick."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers = start_embedded(folder, want_redis=True)

    async def database(self, name: str) -> str:
        """A fresh migrated ledger; returns its owner's address."""
        owner_url = self._servers.owner_database_url
        connection = await asyncpg.connect(owner_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        url = _named(owner_url, name)
        migrations.upgrade(url, APP_ROLE)
        return url

    def app_url(self, name: str) -> str:
        return _named(self._servers.database_url, name)

    def owner_url(self, name: str) -> str:
        return _named(self._servers.owner_database_url, name)

    def verify(self, name: str) -> tuple[float, float]:
        """Seconds and peak resident MiB of ``market ledger verify``."""
        return run_verify(
            {
                "MARKET_HOME": str(self._folder),
                "MARKET_DATABASE_URL": self.app_url(name),
                "MARKET_OWNER_DATABASE_URL": self.owner_url(name),
                "MARKET_REDIS_URL": self._servers.redis_url,
            }
        )

    async def ledger(self, name: str) -> tuple[Kernel, Flow]:
        """A fresh ledger, open, with funded accounts and their traffic."""
        await self.database(name)
        kernel = open_kernel(
            load_settings(
                database_url=self.app_url(name),
                redis_url=self._servers.redis_url,
                home=self._folder,
            )
        )
        async with kernel.unit_of_work() as uow:
            assert await (await uow.raw()).fetchval("SHOW synchronous_commit") == "on"
            assert await (await uow.raw()).fetchval("SHOW fsync") == "on"
        flow = Flow([AccountRef("available", new_id(), "CNY") for _ in range(ACCOUNTS)])
        await fund(kernel, flow.refs[:ACCOUNTS])
        return kernel, flow

    def stop(self) -> None:
        self._servers.stop()


def _named(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def measure(folder: Path) -> dict[str, float]:
    bench = Bench(folder)
    try:
        kernel, flow = await bench.ledger("speed")
        ours = {callers: await run_writer(kernel, flow, callers) for callers in CALLERS}
        units = await run_units(kernel, flow.refs[:ACCOUNTS])
        peer = await run_peer(await bench.database("peer"), flow)
        report = await verify_ledger(bench.app_url("speed"))
        assert report.ok, report.findings
        await kernel.close()
        rows = await copy_out(bench.owner_url("speed"))
        copies = {
            on: await run_copy(await bench.database(f"copied_{int(on)}"), rows, triggers=on)
            for on in (True, False)
        }
        del rows
        small, small_flow = await bench.ledger("small")
        await load(small, small_flow, 10_000)
        large, large_flow = await bench.ledger("large")
        load_s = await load(large, large_flow, POSTINGS)
        speeds = await run_growth(small, large, (small_flow, large_flow))
        await small.close()
        await large.close()
        verify_s, verify_mib = bench.verify("large")
    finally:
        bench.stop()
    return figures(ours, units, peer, copies) | {
        "growth_10m_vs_10k": speeds[0] / speeds[1],
        "growth_small_per_s": speeds[0],
        "growth_large_per_s": speeds[1],
        "large_postings": float(POSTINGS),
        "large_load_s": load_s,
        "verify_10m_s": verify_s,
        "verify_10m_rss_mib": verify_mib,
    }


def figures(
    ours: dict[int, Run], units: Run, peer: Run, copies: dict[bool, float]
) -> dict[str, float]:
    """The speeds, and their ratios to the yardsticks."""
    best = max(run.per_s for run in ours.values())
    found: dict[str, float] = {}
    for callers, run in ours.items():
        found[f"ledger_per_s_{callers}"] = run.per_s
        found[f"ledger_p50_ms_{callers}"] = run.p50_ms
        found[f"ledger_p99_ms_{callers}"] = run.p99_ms
    return found | {
        "ledger_units_per_s": units.per_s,
        "sql_function_per_s": peer.per_s,
        "sql_function_p50_ms": peer.p50_ms,
        "sql_function_p99_ms": peer.p99_ms,
        "copy_per_s": copies[True],
        "copy_without_triggers_per_s": copies[False],
        "ratio_vs_sql_function": best / peer.per_s,
        "ratio_vs_copy": best / copies[True],
        "ratio_vs_copy_without_triggers": best / copies[False],
    }


def show(found: dict[str, float]) -> None:
    """The same figures as a table."""
    table = Table("what", "callers", "booked/s", "p50 ms", "p99 ms", title="Ledger")

    def line(what: str, callers: int, *figures: float) -> None:
        table.add_row(what, str(callers), *(f"{figure:,.1f}" for figure in figures))

    for callers in CALLERS:
        speed = (found[f"ledger_{name}_{callers}"] for name in ("per_s", "p50_ms", "p99_ms"))
        line("group commit", callers, *speed)
    line("one unit of work each", 8, found["ledger_units_per_s"])
    peer = (found[f"sql_function_{name}"] for name in ("per_s", "p50_ms", "p99_ms"))
    line("SQL function each", PEER_CONNECTIONS, *peer)
    line("COPY of the same rows", 1, found["copy_per_s"])
    line("COPY, triggers off", 1, found["copy_without_triggers_per_s"])
    line("group commit, 10 k postings", GROWTH_CALLERS, found["growth_small_per_s"])
    line(f"group commit, {POSTINGS:,} postings", GROWTH_CALLERS, found["growth_large_per_s"])
    console = Console()
    console.print(table)
    console.print(
        f"verify of {POSTINGS:,} postings: {found['verify_10m_s']:.0f} s, "
        f"{found['verify_10m_rss_mib']:.0f} MiB"
    )


def main() -> dict[str, float]:
    """Measure, print the table and, as the last line, the figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as folder:
        # As the server runs.
        tune_collector()
        measured = uvloop.run(measure(Path(folder)))
    show(measured)
    rounded = {name: round(value, 4) for name, value in measured.items()}
    print(json.dumps(rounded))
    return rounded


if __name__ == "__main__":
    main()
