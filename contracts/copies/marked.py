"""An agreement's own copy of a version, with its marks on what the policy sells."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.dialects.postgresql import insert

from contracts.copies.keys import copy_key
from contracts.copies.making import Copy
from contracts.copies.models import MarkedCopy
from contracts.delivery.engine import ROW_GROUP_ROWS
from contracts.errors import PolicyRefused
from contracts.fingerprint.marks import Scheme, mark, scheme_of
from contracts.policy import Clause
from listings.models import ProductVersion
from listings.policy_schemas import FingerprintClause
from market.kernel.context import Kernel

BLOB_PREFIX = "fingerprint"


@dataclass(frozen=True, slots=True)
class MarkedRecipe:
    """An agreement's marks on ``source``, which has the rows of the version that it may read."""

    kernel: Kernel
    version_id: UUID
    source: ProductVersion | Copy
    agreement_id: UUID
    clause: FingerprintClause

    @property
    def stem(self) -> str:
        """See :class:`contracts.copies.making.Recipe`, as for the others."""
        return f"{BLOB_PREFIX}/{self.agreement_id.hex}/{self.version_id.hex}"

    async def find(self) -> Copy | None:
        """The copy, if it was made."""
        async with self.kernel.unit_of_work() as uow:
            row = await uow.session.get(MarkedCopy, (self.agreement_id, self.version_id))
        if row is None:
            return None
        return Copy(row.blob_key, self.source.row_count, row.byte_count, row.sha256)

    async def write(self, target: Path) -> int:
        """Rows keep their order.

        Raises PolicyRefused (403, clause ``fingerprint``) for a version without the agreed
        columns, CopyKeyMissing (503).
        """
        key = copy_key(self.kernel)
        source = await self.kernel.blobs.local_path(self.source.blob_key)
        scheme = scheme_of(self.clause)
        try:
            await asyncio.to_thread(write_marked, source, target, scheme, key, self.agreement_id)
        except (KeyError, ValueError, OverflowError, pa.ArrowException) as error:
            raise PolicyRefused(
                f"The version cannot be marked as agreed: {error}", clause=Clause.FINGERPRINT.value
            ) from error
        return self.source.row_count

    async def keep(self, made: Copy) -> None:
        """Record it, unless another process was first."""
        async with self.kernel.unit_of_work() as uow:
            values = {
                "agreement_id": self.agreement_id,
                "version_id": self.version_id,
                "blob_key": made.blob_key,
                "byte_count": made.byte_count,
                "sha256": made.sha256,
                "made_at": uow.now,
            }
            await uow.execute(insert(MarkedCopy).values(values).on_conflict_do_nothing())


def write_marked(
    source: Path, target: Path, scheme: Scheme, key: bytes, agreement_id: UUID
) -> None:
    """Write ``source`` marked, a row group in memory at a time. Raises as :func:`marks.mark`."""
    with (
        pq.ParquetFile(source) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
            table = pa.Table.from_batches([batch])
            writer.write_table(mark(table, scheme, key, agreement_id))
