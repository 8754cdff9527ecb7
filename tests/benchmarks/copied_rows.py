"""The yardstick of the durable engine: COPY (binary) of the very rows that its run wrote.

Into the same tables, in a database that was cloned just before the run: same columns, checks,
indexes and foreign keys. Triggers of our own are switched off there (the ledger's proofs and hash
chain), and updates of older rows are not repeated: both in favor of COPY.
"""

import io
import time
from dataclasses import dataclass

import asyncpg

# In the order that foreign keys demand.
TABLES = (
    "matching.order",
    "matching.trade",
    "matching.book",
    "matching.book_update",
    "settlement.account",
    "settlement.batch",
    "settlement.transfer",
    "settlement.posting",
    "settlement.command",
    "settlement.hold",
    "settlement.hold_resolution",
    "settlement.chain_link",
    "contracts.agreement",
    "contracts.agreement_step",
    "contracts.access_grant",
    "pricing.observation",
    "kernel.outbox",
    "kernel.idempotent_answer",
)


@dataclass(frozen=True, slots=True)
class Portion:
    """The rows of one table for one commit, in COPY's binary format."""

    table: str
    columns: tuple[str, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run wrote: its portions by commit, and the counts by table."""

    commits: list[list[Portion]]
    counts: dict[str, int]

    def in_one_commit(self) -> "Rows":
        """The same rows, portion by portion, table by table, in a single transaction."""
        portions = [portion for commit in self.commits for portion in commit]
        return Rows([sorted(portions, key=lambda one: TABLES.index(one.table))], self.counts)


def _quoted(table: str) -> str:
    schema, name = table.split(".")
    return f'{schema}."{name}"'


async def marker(owner_url: str) -> int:
    """A transaction number: rows of later transactions belong to the run."""
    connection = await asyncpg.connect(owner_url)
    number: int = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
    await connection.close()
    return number


async def rows_since(owner_url: str, after: int) -> Rows:
    """All rows made after ``after``, by the ledger batch that they were committed with."""
    connection = await asyncpg.connect(owner_url)
    batches = [
        row[0]
        for row in await connection.fetch(
            "SELECT xmin::text::bigint FROM settlement.batch WHERE xmin::text::bigint > $1"
            " ORDER BY 1",
            after,
        )
    ]
    portions: list[list[Portion]] = [[] for _ in batches]
    counts = {}
    for table in TABLES:
        columns = await _columns(connection, table)
        # Accounts that were there before were only updated.
        older = "true" if table != "settlement.account" else "kind = 'escrow'"
        await connection.execute("DROP TABLE IF EXISTS portion")
        await connection.execute("CREATE TEMP TABLE batches AS SELECT $1::bigint[] AS at", batches)
        await connection.execute(
            "CREATE TEMP TABLE portion AS SELECT greatest(1, "
            "width_bucket(t.xmin::text::bigint, batches.at)) AS batch_, t.* "
            f"FROM {_quoted(table)} t, batches WHERE t.xmin::text::bigint > {after} AND {older}"
        )
        await connection.execute("CREATE INDEX ON portion (batch_)")
        await connection.execute("DROP TABLE batches")
        counts[table] = await connection.fetchval("SELECT count(*) FROM portion")
        names = ", ".join(f'"{column}"' for column in columns)
        for index, commit in enumerate(portions, start=1):
            buffer = io.BytesIO()
            done = await connection.copy_from_query(
                f"SELECT {names} FROM portion WHERE batch_ = {index} ORDER BY ctid",
                output=buffer,
                format="binary",
            )
            if done != "COPY 0":
                commit.append(Portion(table, columns, buffer.getvalue()))
    await connection.close()
    return Rows(portions, counts)


async def _columns(connection: "asyncpg.Connection[asyncpg.Record]", table: str) -> tuple[str, ...]:
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        _quoted(table),
    )
    return tuple(row[0] for row in rows)


async def copy_s(owner_url: str, rows: Rows) -> float:
    """Seconds to copy the rows in, one transaction per commit, synchronously."""
    connection = await asyncpg.connect(owner_url)
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {_quoted(table)} DISABLE TRIGGER USER")
    begun = time.perf_counter()
    for commit in rows.commits:
        async with connection.transaction():
            for portion in commit:
                schema, name = portion.table.split(".")
                await connection.copy_to_table(
                    name,
                    schema_name=schema,
                    columns=portion.columns,
                    source=io.BytesIO(portion.data),
                    format="binary",
                )
    seconds = time.perf_counter() - begun
    await connection.close()
    return seconds
