"""DuckDB in threads: bounded memory, threads and time; no network, no extensions.

One database per process and setting; each query has its own cursor and can be interrupted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from contracts.delivery.sql import Query
from contracts.errors import PageTooLarge, QueryTimeout

WORKERS = 4
DUCKDB_THREADS = 2
ROW_GROUP_ROWS = 122_880
# A page beyond this is refused while it is read; several of them fit a worker's memory.
TABLE_MAX_BYTES = 64 << 20
# Read at once: half of DuckDB's vector, so that long values are noticed before there are many.
BATCH_ROWS = 1_024
# Of larger pages more, or Arrow takes a fifth longer. They need a setting that allows them.
BATCHES = 10

T = TypeVar("T")


class Engine:
    """Runs queries over Parquet files."""

    def __init__(self, *, memory_mb: int, timeout_s: int) -> None:
        self.timeout_s = timeout_s
        self._database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_mb}MB",
                "threads": DUCKDB_THREADS,
                # Pages without an order and limited files rely on it.
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                # Spilling would let a query fill the disk instead of failing at its limit.
                "temp_directory": "",
            },
        )
        # Versions never change, so their footers may be kept; then nothing more can be set.
        self._database.execute("SET parquet_metadata_cache = true")
        self._database.execute("SET lock_configuration = true")
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="delivery")
        self._opening = threading.Lock()

    async def table(self, query: Query) -> pa.Table:
        """Run ``query``. Raises QueryTimeout (503) and PageTooLarge (413)."""
        return (await self._run(query, lambda relation: relation.to_arrow_table()))[0]

    async def timed_table(
        self, query: Query, *, rows: int, limit_s: float | None = None
    ) -> tuple[pa.Table, int]:
        """As :meth:`table`, with the nanoseconds that DuckDB took, waiting for a thread left out.

        PageTooLarge also beyond ``TABLE_MAX_BYTES``. ``rows`` is about how many there will be.
        ``limit_s`` lowers the engine's own limit.
        """
        at_once = max(BATCH_ROWS, rows // BATCHES)
        return await self._run(query, partial(_bounded_table, at_once=at_once), limit_s=limit_s)

    async def count(self, query: Query) -> int:
        """The single number that ``query`` gives. Raises as :meth:`table`."""
        return (await self._run(query, lambda relation: int(relation.fetchall()[0][0])))[0]

    async def write_parquet(self, query: Query, target: Path) -> None:
        """Write what ``query`` gives to a new file. Raises as :meth:`table`."""
        await self._run(
            query,
            lambda relation: relation.write_parquet(
                str(target), compression="zstd", row_group_size=ROW_GROUP_ROWS
            ),
        )

    async def in_thread(self, work: Callable[[], T]) -> T:
        """CPU-bound work beside the queries."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _run(
        self,
        query: Query,
        fetch: Callable[[duckdb.DuckDBPyRelation], T],
        *,
        limit_s: float | None = None,
    ) -> tuple[T, int]:
        allowed_s = self.timeout_s if limit_s is None else min(limit_s, self.timeout_s)
        with self._opening:
            cursor = self._database.cursor()
        running = asyncio.get_running_loop().run_in_executor(
            self._pool, _execute, cursor, query, fetch
        )
        try:
            async with asyncio.timeout(allowed_s):
                return await asyncio.shield(running)
        except TimeoutError as error:
            raise QueryTimeout(f"The limit is {allowed_s:g} s.") from error
        except duckdb.OutOfMemoryException as error:
            raise PageTooLarge("The query needs too much memory.") from error
        finally:
            if not running.done():
                cursor.interrupt()
                running.add_done_callback(lambda done: done.exception())


def _execute(
    cursor: duckdb.DuckDBPyConnection,
    query: Query,
    fetch: Callable[[duckdb.DuckDBPyRelation], T],
) -> tuple[T, int]:
    begun = time.monotonic_ns()
    try:
        fetched = fetch(cursor.sql(query.sql, params=list(query.parameters)))
        return fetched, time.monotonic_ns() - begun
    finally:
        cursor.close()


def _bounded_table(relation: duckdb.DuckDBPyRelation, *, at_once: int) -> pa.Table:
    """What the relation gives. DuckDB's limit does not count what it has handed over.

    Raises PageTooLarge (413) beyond ``TABLE_MAX_BYTES``.
    """
    reader = relation.to_arrow_reader(at_once)
    batches, size = [], 0
    try:
        for batch in reader:
            size += batch.nbytes
            if size > TABLE_MAX_BYTES:
                raise PageTooLarge(f"A page has at most {TABLE_MAX_BYTES} bytes.", param="limit")
            batches.append(batch)
    except (OSError, pa.ArrowException) as error:
        # Through the stream's interface DuckDB's exceptions are only text.
        if "Out of Memory" in str(error):
            raise PageTooLarge("The query needs too much memory.") from error
        raise
    return pa.Table.from_batches(batches, reader.schema)


@lru_cache(maxsize=8)
def engine_of(memory_mb: int, timeout_s: int) -> Engine:
    """This process's engine for the given limits."""
    return Engine(memory_mb=memory_mb, timeout_s=timeout_s)
