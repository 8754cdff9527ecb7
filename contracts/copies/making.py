"""Copies of versions, each made once, at its first use, and kept.

What hands out rows reads the copy in the place of the version's file, so filters, orders, cursors,
ranges and digests are those of what the buyer gets, in every way out alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from contracts.copies.errors import CopyPreparing
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.logging import get_logger

# Copies that a process makes or that wait in it; more are refused.
WAITING_MAX = 8
_RETRY_S = 2
_READ_BYTES = 1 << 20

_log = get_logger("contracts.copies")


@dataclass(frozen=True, slots=True)
class Copy:
    """A stored Parquet file."""

    blob_key: str
    row_count: int
    byte_count: int
    sha256: str


class Recipe(Protocol):
    """How one copy is found, made and kept."""

    @property
    def stem(self) -> str:
        """The blob's key without its last part; no two recipes have the same."""

    async def find(self) -> Copy | None:
        """The copy, if it was made."""

    async def write(self, target: Path) -> int:
        """Make it as ``target``; gives the number of its rows."""

    async def keep(self, made: Copy) -> None:
        """Record it, unless another process was first."""


class Copies:
    """Makes copies, one at a time in a process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._making: dict[str, asyncio.Task[Copy]] = {}
        self._turn = asyncio.Lock()

    async def open(self, recipe: Recipe) -> Copy:
        """The copy; waits for as long as a query may take.

        Raises CopyPreparing (503) when making it takes longer (it goes on), and what
        ``recipe.write`` does.
        """
        found = await recipe.find()
        if found is not None:
            return found
        task = self._making.get(recipe.stem)
        if task is None:
            if len(self._making) >= WAITING_MAX:
                raise CopyPreparing("Other copies are first.", retry_after_s=_RETRY_S)
            task = asyncio.create_task(self._make(recipe))
            self._making[recipe.stem] = task
            task.add_done_callback(lambda done: self._ended(recipe.stem, done))
        try:
            async with asyncio.timeout(self._kernel.settings.delivery_timeout_s):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise CopyPreparing(retry_after_s=_RETRY_S) from error

    def _ended(self, stem: str, done: asyncio.Task[Copy]) -> None:
        self._making.pop(stem, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("copy_failed", copy=stem, error=str(error))

    async def _make(self, recipe: Recipe) -> Copy:
        kernel = self._kernel
        blob_key = f"{recipe.stem}-{new_id().hex}.parquet"
        async with self._turn:
            with tempfile.TemporaryDirectory(prefix="copy-", dir=kernel.settings.home) as folder:
                target = Path(folder) / "copy.parquet"
                rows = await recipe.write(target)
                digest = await asyncio.to_thread(_digest, target)
                made = Copy(blob_key, rows, target.stat().st_size, digest)
                await kernel.blobs.put_file(blob_key, target)
        await recipe.keep(made)
        kept = await recipe.find()
        assert kept is not None
        if kept.blob_key != blob_key:
            await kernel.blobs.delete(blob_key)
        return kept


def copies_of(kernel: Kernel) -> Copies:
    """This process's copies."""
    return kernel.service(Copies)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, _READ_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()
