"""A version as its policy sells it: fewer rows, less exact columns; one copy for equal terms."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
from sqlalchemy.dialects.postgresql import insert

from contracts.copies.errors import CopyPreparing
from contracts.copies.keys import pseudonym_key
from contracts.copies.making import Copy
from contracts.copies.models import MaskedCopy
from contracts.delivery.engine import engine_of
from contracts.delivery.sql import Query
from contracts.errors import PolicyRefused, QueryTimeout
from contracts.policy import Clause
from listings.errors import FilterInvalid, MaskInvalid
from listings.mask_schemas import Mask
from listings.masks import masked_columns, require_maskable, rows_of
from listings.models import ProductVersion
from market.kernel.context import Kernel
from market.kernel.security import canonical_json, sha256_hex

BLOB_PREFIX = "masked"
WRITE_MAX_S = 600


@dataclass(frozen=True, slots=True)
class MaskedRecipe:
    """The masks and row filter of a policy, on a version."""

    kernel: Kernel
    version: ProductVersion
    masks: Sequence[Mask]
    row_filter: str | None

    @property
    def digest(self) -> str:
        """Equal for equal terms; the order of masks has no meaning."""
        masks = sorted((mask.model_dump() for mask in self.masks), key=lambda mask: mask["column"])
        return sha256_hex(canonical_json({"masks": masks, "row_filter": self.row_filter}))

    @property
    def stem(self) -> str:
        """See :class:`contracts.copies.making.Recipe`, as for the others."""
        return f"{BLOB_PREFIX}/{self.version.id.hex}/{self.digest}"

    async def find(self) -> Copy | None:
        """The copy, if it was made."""
        async with self.kernel.unit_of_work() as uow:
            row = await uow.session.get(MaskedCopy, (self.version.id, self.digest))
        if row is None:
            return None
        return Copy(row.blob_key, row.row_count, row.byte_count, row.sha256)

    async def write(self, target: Path) -> int:
        """Rows keep their order.

        Raises PolicyRefused (403, clause ``masks`` or ``row_filter``) for a version without the
        agreed columns, CopyKeyMissing (503), PageTooLarge (413), CopyPreparing (503) after
        ``WRITE_MAX_S``.
        """
        kernel, columns = self.kernel, self.version.columns
        try:
            require_maskable(self.masks, self.row_filter, columns)
        except (MaskInvalid, FilterInvalid) as error:
            clause = Clause.MASKS if isinstance(error, MaskInvalid) else Clause.ROW_FILTER
            raise PolicyRefused(
                f"The version cannot be masked as agreed: {error.detail}", clause=clause.value
            ) from error
        key = pseudonym_key(kernel, self.version.product_id)
        masked, rows = masked_columns(self.masks, columns, key), rows_of(self.row_filter, columns)
        source = str(await kernel.blobs.local_path(self.version.blob_key))
        query = Query(
            f"SELECT {masked.sql} FROM read_parquet(?) t WHERE {rows.sql}",  # noqa: S608
            (*masked.parameters, source, *rows.parameters),
        )
        engine = engine_of(kernel.settings.delivery_memory_mb, WRITE_MAX_S)
        try:
            await engine.write_parquet(query, target)
        except QueryTimeout as error:
            raise CopyPreparing(f"It takes more than {WRITE_MAX_S} s.") from error
        written = await asyncio.to_thread(pyarrow.parquet.read_metadata, target)
        return int(written.num_rows)

    async def keep(self, made: Copy) -> None:
        """Record it, unless another process was first."""
        async with self.kernel.unit_of_work() as uow:
            values = {
                "version_id": self.version.id,
                "recipe": self.digest,
                "blob_key": made.blob_key,
                "row_count": made.row_count,
                "byte_count": made.byte_count,
                "sha256": made.sha256,
                "made_at": uow.now,
            }
            await uow.execute(insert(MaskedCopy).values(values).on_conflict_do_nothing())
