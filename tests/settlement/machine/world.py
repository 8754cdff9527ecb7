"""The real ledger under test: a kernel behind a wire that can be cut, and a superuser's eye."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from market.kernel.context import Kernel, open_kernel
from market.kernel.db import Database, async_url
from market.kernel.settings import Settings
from settlement.verify import Report, verify_ledger
from tests.settlement.cutting_proxy import CuttingProxy
from tests.settlement.machine.invariants import VIOLATIONS
from tests.settlement.shadow import Tables

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

POOL_SIZE = 8
SMALL_POOL = 2
LOCK_MS = 2_000
SMALL_LOCK_MS = 60
WAIT_MS = 2
SMALL_POOL_WAIT_S = 0.05
# Longer than the test needs to close the circle, so that the ledger's side always finds it.
DEADLOCK_TIMEOUT = "120ms"

# Children first: the foreign keys stay on.
_LEDGER = [
    "chain_link",
    "command",
    "posting",
    "transfer",
    "hold_resolution",
    "hold",
    "batch",
    "account",
]
_BOOKED = """
SELECT c.key, l.number, c.ordinal, b.booked_at, c.code, c.transfer_id
FROM settlement.command c
JOIN settlement.batch b ON b.id = c.batch_id JOIN settlement.chain_link l ON l.batch_id = b.id
WHERE c.key = ANY($1::text[]) ORDER BY l.number, c.ordinal
"""


class Row(NamedTuple):
    """A command as the ledger keeps it; ``number`` of its batch in the chain."""

    key: str
    number: int
    ordinal: int
    at: datetime
    code: str | None
    transfer_id: UUID | None


@dataclass
class Tally:
    """What a run really did; the test asserts minima, so that it cannot shrink unseen."""

    steps: int = 0
    examples: int = 0
    commands: int = 0
    refused: int = 0
    replayed: int = 0
    reordered: int = 0
    unknown: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def rule(self, name: str) -> None:
        """Count a step by its rule."""
        self.steps += 1
        self.rules[name] = self.rules.get(name, 0) + 1


@dataclass
class LedgerWorld:
    """Kernels on one server: ``wired`` through the proxy, ``direct`` past it,
    ``serial`` REPEATABLE READ, ``small`` with two connections and short waits; ``admin`` is a
    superuser.
    """

    url: str
    direct: Kernel
    wired: Kernel
    serial: Kernel
    small: Kernel
    proxy: CuttingProxy
    admin: Connection
    guards: list[tuple[str, str]]
    tally: Tally
    _stack: AsyncExitStack

    @property
    def kernel(self) -> Kernel:
        """The faster one, unless a fault is waiting on the wire."""
        return self.wired if self.proxy.armed else self.direct

    async def close(self) -> None:
        """Give everything back."""
        await self._stack.aclose()

    async def reset(self) -> None:
        """An empty ledger and an unmoved clock, as in a new database."""
        async with self.admin.transaction():
            for table, name in self.guards:
                await self.admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
            for table in _LEDGER:
                await self.admin.execute(f"DELETE FROM settlement.{table}")
            await self.admin.execute(
                "UPDATE settlement.chain_head SET number = 0, hash = decode(repeat('00', 32),'hex')"
            )
            await self.admin.execute("UPDATE kernel.sandbox_clock SET ahead = '0'")
            for table, name in self.guards:
                await self.admin.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")

    async def tamper(self, statement: str) -> bool:
        """Change rows behind the guards' back; returns whether any row changed."""
        async with self.admin.transaction():
            for table, name in self.guards:
                await self.admin.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
            done = await self.admin.execute(statement)
            for table, name in self.guards:
                await self.admin.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
        return not done.endswith(" 0")

    async def now(self) -> datetime:
        """Market time."""
        moment: datetime = await self.admin.fetchval("SELECT kernel.market_now()")
        return moment

    async def move_clock(self, ahead: timedelta) -> None:
        """Into the future only, as operators may."""
        await self.admin.execute(
            "UPDATE kernel.sandbox_clock SET ahead = ahead + $1 WHERE id = 1", ahead
        )

    async def rows(self, keys: Sequence[str]) -> list[Row]:
        """Commands that were booked, in the order of the chain."""
        return [Row(*record) for record in await self.admin.fetch(_BOOKED, list(keys))]

    async def row(self, key: str) -> Row | None:
        """One of them."""
        return next(iter(await self.rows([key])), None)

    async def observe(self) -> Tables:
        """All rows of the ledger; accounts that never moved are left out."""
        fetch = self.admin.fetch
        accounts = await fetch(
            "SELECT id, posted, held, seq FROM settlement.account WHERE seq > 0 OR held > 0 "
            "OR id IN (SELECT account_id FROM settlement.hold)"
        )
        return Tables(
            accounts={r[0]: (r[1], r[2], r[3]) for r in accounts},
            postings={
                (r[0], r[1], r[2], r[3], r[4], r[5])
                for r in await fetch(
                    "SELECT account_id, seq, transfer_id, currency, amount, balance "
                    "FROM settlement.posting"
                )
            },
            transfers={
                r[0]: (r[1], r[2], r[3], r[4], r[5])
                for r in await fetch(
                    "SELECT id, kind, memo_id, reverses, event_at, booked_at "
                    "FROM settlement.transfer"
                )
            },
            holds={
                r[0]: (r[1], r[2], r[3], r[4])
                for r in await fetch(
                    "SELECT id, account_id, amount, expires_at, memo_id FROM settlement.hold"
                )
            },
            resolutions={
                r[0]: (r[1], r[2])
                for r in await fetch(
                    "SELECT hold_id, outcome, captured FROM settlement.hold_resolution"
                )
            },
            commands={
                r[0]: (r[1], r[2], r[3], r[4], r[5])
                for r in await fetch(
                    "SELECT key, type, code, transfer_id, hold_id, resolved_hold_id "
                    "FROM settlement.command"
                )
            },
        )

    async def violations(self) -> list[str]:
        """Names of the invariants that the rows break."""
        record = await self.admin.fetchrow(VIOLATIONS)
        assert record is not None
        return [f"{name}: {count} rows" for name, count in record.items() if count]

    async def waiting(self) -> None:
        """Returns once some transaction of the application waits for a lock."""
        # Not pg_stat_activity: within a transaction that always shows the same moment.
        for _ in range(LOCK_MS // WAIT_MS):
            if await self.admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                return
            await asyncio.sleep(WAIT_MS / 1000)
        raise AssertionError("nobody waits for a lock")

    async def verified(self) -> Report:
        """The ledger's own proof of its books and of its chain."""
        return await verify_ledger(self.url)


async def open_world(app_url: str, superuser_url: str, settings: Settings) -> LedgerWorld:
    """Connect to a migrated server; ``settings`` for everything but the database."""
    stack = AsyncExitStack()
    parts = urlsplit(app_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = await stack.enter_async_context(CuttingProxy(parts.hostname, parts.port))
    wire = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}"))
    admin = await asyncpg.connect(superuser_url, server_settings={"application_name": "test"})
    stack.push_async_callback(admin.close)
    await admin.execute(
        f"ALTER DATABASE {parts.path[1:]} SET deadlock_timeout = '{DEADLOCK_TIMEOUT}'"
    )
    direct, wired = (
        open_kernel(
            settings.model_copy(
                update={
                    "database_url": url,
                    "database_pool_size": POOL_SIZE,
                    "lock_timeout_ms": LOCK_MS,
                }
            )
        )
        for url in (app_url, urlunsplit(wire))
    )
    stack.push_async_callback(direct.close)
    stack.push_async_callback(wired.close)
    small = replace(direct, db=_small_database(app_url, direct))
    stack.push_async_callback(small.db.close)
    serial = replace(
        direct,
        db=Database(
            direct.db.engine.execution_options(isolation_level="REPEATABLE READ"),
            direct.clock,
            lock_ms=LOCK_MS,
            statement_ms=LOCK_MS * 2,
        ),
    )
    guards = await admin.fetch(
        "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger "
        "JOIN pg_class c ON c.oid = tgrelid WHERE tgenabled = 'A' "
        "AND c.relnamespace = 'settlement'::regnamespace"
    )
    return LedgerWorld(
        url=app_url,
        direct=direct,
        wired=wired,
        serial=serial,
        small=small,
        proxy=proxy,
        admin=admin,
        guards=[(table, name) for table, name in guards],
        tally=Tally(),
        _stack=stack,
    )


def _small_database(url: str, kernel: Kernel) -> Database:
    engine = create_async_engine(
        async_url(url),
        pool_size=SMALL_POOL,
        max_overflow=0,
        pool_timeout=SMALL_POOL_WAIT_S,
        connect_args={"server_settings": {"application_name": "market", "timezone": "UTC"}},
    )
    return Database(engine, kernel.clock, lock_ms=SMALL_LOCK_MS, statement_ms=LOCK_MS)
