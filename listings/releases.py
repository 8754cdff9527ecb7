"""Certified versions of products, as those who deliver or follow them ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from market.kernel.db import UnitOfWork

_COLUMNS = """
v.id, v.product_id, v.number, v.columns, v.row_count, v.byte_count, v.sha256, v.blob_key,
c.issued_at AS certified_at
"""
_FROM = """
FROM listings.product_version v JOIN listings.certificate c ON c.version_id = v.id
"""
_PAGE = f"""
SELECT {_COLUMNS} {_FROM}
WHERE v.product_id = $1 AND v.number >= $2 AND v.number < $3
ORDER BY v.number DESC LIMIT $4
"""
_ONE = f"SELECT {_COLUMNS} {_FROM} WHERE v.product_id = $1 AND v.number = $2"
_ISSUED = f"""
SELECT v.id, v.product_id, v.number, c.issued_at {_FROM}
WHERE c.issued_at > $1 ORDER BY c.issued_at, v.id LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A certified version; ``columns`` are its stored ``[{name, type, nullable}]``."""

    id: UUID
    product_id: UUID
    number: int
    columns: Sequence[dict[str, Any]]
    row_count: int
    byte_count: int
    sha256: str
    blob_key: str
    certified_at: datetime


async def page(
    uow: UnitOfWork, product_id: UUID, *, number: int, below: int, limit: int
) -> list[Release]:
    """Versions from ``number`` on and ``below`` another number, newest first."""
    rows = await (await uow.raw()).fetch(_PAGE, product_id, number, below, limit)
    return [_release(row) for row in rows]


async def find(uow: UnitOfWork, product_id: UUID, number: int) -> Release | None:
    """A certified version by its number."""
    row = await (await uow.raw()).fetchrow(_ONE, product_id, number)
    return None if row is None else _release(row)


async def issued_after(
    uow: UnitOfWork, moment: datetime, *, limit: int
) -> list[tuple[UUID, UUID, int, datetime]]:
    """Version, product, number and time of what was certified after ``moment``, in that order."""
    rows = await (await uow.raw()).fetch(_ISSUED, moment, limit)
    return [(row["id"], row["product_id"], row["number"], row["issued_at"]) for row in rows]


def _release(row: Any) -> Release:
    values = dict(row)
    columns = values["columns"]
    values["columns"] = orjson.loads(columns) if isinstance(columns, str) else columns
    return Release(**values)
