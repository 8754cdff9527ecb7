"""Marked copies of versions: one per agreement and version, made at its first use and kept.

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
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.dialects.postgresql import insert

from contracts.delivery.engine import ROW_GROUP_ROWS
from contracts.errors import PolicyRefused
from contracts.fingerprint.errors import CopyPreparing
from contracts.fingerprint.keys import fingerprint_key, scheme_of
from contracts.fingerprint.marks import Scheme, mark
from contracts.fingerprint.models import MarkedCopy
from listings.models import ProductVersion
from listings.policy_schemas import FingerprintClause
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.logging import get_logger

BLOB_PREFIX = "fingerprint"
# Copies that a process makes or that wait in it; more are refused.
WAITING_MAX = 8
_RETRY_S = 2
_READ_BYTES = 1 << 20

_log = get_logger("contracts.fingerprint")

_Which = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True)
class Copy:
    """A stored Parquet file with the version's rows in their order, marked."""

    blob_key: str
    byte_count: int
    sha256: str


class Copies:
    """Makes copies, one at a time in a process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._making: dict[_Which, asyncio.Task[Copy]] = {}
        self._turn = asyncio.Lock()

    async def open(
        self, version: ProductVersion, agreement_id: UUID, clause: FingerprintClause
    ) -> Copy:
        """The agreement's copy; waits for as long as a query may take.

        Raises CopyPreparing (503) when making it takes longer (it goes on), PolicyRefused (403,
        clause ``fingerprint``) for a version without the agreed columns, FingerprintKeyMissing
        (503).
        """
        which = (agreement_id, version.id)
        found = await self._find(which)
        if found is not None:
            return found
        task = self._making.get(which)
        if task is None:
            if len(self._making) >= WAITING_MAX:
                raise CopyPreparing("Other copies are first.", retry_after_s=_RETRY_S)
            task = asyncio.create_task(self._make(which, version.blob_key, clause))
            self._making[which] = task
            task.add_done_callback(lambda done: self._ended(which, done))
        try:
            async with asyncio.timeout(self._kernel.settings.delivery_timeout_s):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise CopyPreparing(retry_after_s=_RETRY_S) from error

    def _ended(self, which: _Which, done: asyncio.Task[Copy]) -> None:
        self._making.pop(which, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("copy_failed", agreement=which[0].hex, error=str(error))

    async def _find(self, which: _Which) -> Copy | None:
        async with self._kernel.unit_of_work() as uow:
            row = await uow.session.get(MarkedCopy, which)
        return None if row is None else Copy(row.blob_key, row.byte_count, row.sha256)

    async def _make(self, which: _Which, source_key: str, clause: FingerprintClause) -> Copy:
        kernel, (agreement_id, version_id) = self._kernel, which
        key = fingerprint_key(kernel)
        source = await kernel.blobs.local_path(source_key)
        blob_key = f"{BLOB_PREFIX}/{agreement_id.hex}/{version_id.hex}-{new_id().hex}.parquet"
        async with self._turn:
            with tempfile.TemporaryDirectory(prefix="copy-", dir=kernel.settings.home) as folder:
                target = Path(folder) / "copy.parquet"
                try:
                    await asyncio.to_thread(
                        write_copy, source, target, scheme_of(clause), key, agreement_id
                    )
                except (KeyError, ValueError, OverflowError, pa.ArrowException) as error:
                    raise PolicyRefused(
                        f"The version cannot be marked as agreed: {error}", clause="fingerprint"
                    ) from error
                made = Copy(
                    blob_key, target.stat().st_size, await asyncio.to_thread(_digest, target)
                )
                await kernel.blobs.put_file(blob_key, target)
        kept = await self._keep(which, made)
        if kept.blob_key != blob_key:
            await kernel.blobs.delete(blob_key)
        return kept

    async def _keep(self, which: _Which, made: Copy) -> Copy:
        async with self._kernel.unit_of_work() as uow:
            values = {
                "agreement_id": which[0],
                "version_id": which[1],
                "blob_key": made.blob_key,
                "byte_count": made.byte_count,
                "sha256": made.sha256,
                "made_at": uow.now,
            }
            await uow.execute(insert(MarkedCopy).values(values).on_conflict_do_nothing())
        # Another process may have been first.
        kept = await self._find(which)
        assert kept is not None
        return kept


def copies_of(kernel: Kernel) -> Copies:
    """This process's copies."""
    return kernel.service(Copies)


def write_copy(source: Path, target: Path, scheme: Scheme, key: bytes, agreement_id: UUID) -> None:
    """Write ``source`` marked, a row group in memory at a time. Raises as :func:`marks.mark`."""
    with (
        pq.ParquetFile(source) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
            table = pa.Table.from_batches([batch])
            writer.write_table(mark(table, scheme, key, agreement_id))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, _READ_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()
