"""What the database holds: for "nothing changed" and for the events of an object."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson

from market.kernel.context import Kernel

_TABLES = (
    "parties.party",
    "parties.credential",
    "parties.decision",
    "parties.rules_acceptance",
    "kernel.outbox",
)
_SUMS = " UNION ALL ".join(
    f"SELECT '{table}' AS name, count(*) AS rows, "
    f"coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) AS content FROM {table} t"
    for table in _TABLES
)


async def snapshot(kernel: Kernel) -> dict[str, tuple[int, int]]:
    """Row count and order-free content hash of every table of parties, and of the outbox."""
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_SUMS)
    return {row["name"]: (row["rows"], int(row["content"])) for row in rows}


@asynccontextmanager
async def unchanged(kernel: Kernel) -> AsyncIterator[None]:
    """Asserts that the block wrote nothing."""
    before = await snapshot(kernel)
    yield
    assert await snapshot(kernel) == before


async def events_of(kernel: Kernel, object_id: UUID) -> list[tuple[str, dict[str, Any]]]:
    """The events about one object, oldest first."""
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT type, data FROM kernel.outbox WHERE object_id = $1 ORDER BY seq", object_id
        )
    return [
        (row["type"], orjson.loads(row["data"]) if isinstance(row["data"], str) else row["data"])
        for row in rows
    ]
