"""Feeds of changes as files: computed once per question, in bounded memory, and read in pages.

A feed is a Parquet file under ``home/feeds``. Any process can compute it again with the same rows
in the same order, so files are dropped, the least recently used first, beyond FOLDER_MAX_BYTES.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow.parquet as pq

from contracts.changes.errors import ChangesPreparing
from contracts.changes.sql import Comparison, changes_query, repeated_key_query
from contracts.delivery.engine import Engine
from contracts.errors import PageTooLarge, QueryTimeout
from market.kernel.context import Kernel
from market.kernel.logging import get_logger
from market.kernel.security import canonical_json, sha256_hex

FOLDER_MAX_BYTES = 4 << 30
# A file that was opened so recently may be being read.
KEEP_S = 600
BUILD_MAX_S = 600
# Different feeds that wait for one another in a process; more are refused.
WAITING_MAX = 8
PARTS_MAX = 1_024
# Rows are wider in memory than in the file, where they are encoded; both sides and the result.
_WIDENING = 24
_RETRY_S = 2

_log = get_logger("contracts.changes")


@dataclass(frozen=True, slots=True)
class Feed:
    """``key`` is empty when rows were compared whole."""

    path: Path
    digest: str
    key: Sequence[str]


def digest_of(comparison: Comparison, versions: tuple[str, str]) -> str:
    """Names a feed: equal digests, equal rows in equal order.

    The order follows DuckDB's hash, which may change with its version.
    """
    only = comparison.after.only
    asked = {
        "versions": versions,
        "names": [list(comparison.before.names), list(comparison.names)],
        "key": list(comparison.key),
        "mark": comparison.mark,
        "only": [only.sql, [str(each) for each in only.parameters]],
        "duckdb": duckdb.__version__,
    }
    return sha256_hex(canonical_json(asked))


class Feeds:
    """The feeds of one process, one computed at a time."""

    def __init__(self, kernel: Kernel) -> None:
        self._folder = (kernel.settings.home / "feeds").resolve()
        self._memory_bytes = kernel.settings.delivery_memory_mb << 20
        self._wait_s = kernel.settings.delivery_timeout_s
        self._building: dict[str, asyncio.Task[Feed]] = {}
        self._turn = asyncio.Lock()

    async def open(self, engine: Engine, comparison: Comparison, versions: tuple[str, str]) -> Feed:
        """The feed; waits for as long as a query may take.

        Raises ChangesPreparing (503) when it takes longer (it goes on), PageTooLarge (413) when
        one key has too many rows for the memory, QueryTimeout (503).
        """
        digest = digest_of(comparison, versions)
        found = await asyncio.to_thread(_find, self._folder, digest, comparison.key)
        if found is not None:
            return found
        task = self._building.get(digest)
        if task is None:
            if len(self._building) >= WAITING_MAX:
                raise ChangesPreparing("Other feeds are first.", retry_after_s=_RETRY_S)
            task = asyncio.create_task(self._build(engine, comparison, digest))
            self._building[digest] = task
            task.add_done_callback(lambda done: self._ended(digest, done))
        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise ChangesPreparing(retry_after_s=_RETRY_S) from error

    def _ended(self, digest: str, done: asyncio.Task[Feed]) -> None:
        self._building.pop(digest, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("feed_failed", digest=digest, error=str(error))

    async def _build(self, engine: Engine, comparison: Comparison, digest: str) -> Feed:
        async with self._turn:
            try:
                async with asyncio.timeout(BUILD_MAX_S):
                    return await self._written(engine, comparison, digest)
            except TimeoutError as error:
                raise QueryTimeout(f"The limit is {BUILD_MAX_S} s.") from error

    async def _written(self, engine: Engine, comparison: Comparison, digest: str) -> Feed:
        parts = await asyncio.to_thread(parts_of, comparison, memory_bytes=self._memory_bytes)
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        while True:
            draft = self._folder / f".{digest}.{uuid4().hex}"
            try:
                keyed = await self._keyed(engine, comparison, parts)
                await write(engine, keyed, parts, draft)
            except PageTooLarge:
                if parts >= PARTS_MAX:
                    raise
                parts = min(PARTS_MAX, parts * 4)
                continue
            else:
                # A name of its own: readers of a dropped file with this digest are not disturbed.
                kind = "key" if keyed.key else "row"
                path = self._folder / f"{digest}-{kind}-{uuid4().hex}.parquet"
                await asyncio.to_thread(os.replace, draft, path)
                await asyncio.to_thread(_evict, self._folder)
                return Feed(path, digest, tuple(keyed.key))
            finally:
                await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def _keyed(self, engine: Engine, comparison: Comparison, parts: int) -> Comparison:
        """Without its key, where that does not tell the rows of one version apart."""
        if not comparison.key:
            return comparison
        for part in range(parts):
            if await engine.count(repeated_key_query(comparison, part, parts)):
                return Comparison(comparison.before, comparison.after, (), comparison.mark)
        return comparison


async def write(engine: Engine, comparison: Comparison, parts: int, target: Path) -> None:
    """Compute all parts into a Parquet file. Raises as :meth:`Engine.table`."""
    writer: pq.ParquetWriter | None = None
    try:
        for part in range(parts):
            table = await engine.table(changes_query(comparison, part, parts))
            if writer is None:
                writer = pq.ParquetWriter(target, table.schema, compression="zstd")
            if table.num_rows or part == 0:
                await engine.in_thread(partial(writer.write_table, table))
    finally:
        if writer is not None:
            writer.close()


def parts_of(comparison: Comparison, *, memory_bytes: int) -> int:
    """Into how many parts the comparison is cut so that each fits the memory."""
    size = 0
    for side in (comparison.before, comparison.after):
        metadata = pq.read_metadata(side.path)
        size += sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(PARTS_MAX, -(-size * _WIDENING // memory_bytes)))


def _find(folder: Path, digest: str, key: Sequence[str]) -> Feed | None:
    for path in sorted(folder.glob(f"{digest}-*.parquet")):
        try:
            os.utime(path)
        except FileNotFoundError:
            continue
        keyed = path.name.startswith(f"{digest}-key-")
        return Feed(path, digest, tuple(key) if keyed else ())
    return None


def _evict(folder: Path) -> None:
    for draft in folder.glob(".*"):
        # Of a process that died: no build takes so long. Another may be removing it too.
        with contextlib.suppress(FileNotFoundError):
            if draft.stat().st_mtime < time.time() - 2 * BUILD_MAX_S:
                draft.unlink()
    found = [(path, path.stat()) for path in folder.glob("*.parquet")]
    total = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda item: item[1].st_mtime):
        if total <= FOLDER_MAX_BYTES or stat.st_mtime > time.time() - KEEP_S:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


def feeds_of(kernel: Kernel) -> Feeds:
    """This process's feeds."""
    return kernel.service(Feeds)
