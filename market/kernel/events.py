"""Transactional outbox: events are rows of the transaction that caused them.

Readers page by ``(txid, seq)`` and never past the oldest transaction still running: sequence
numbers commit out of order, so a plain ``seq > $1`` cursor would skip rows (ledger.md, pitfalls).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from market.kernel.bulk import COPY_FROM_ROWS
from market.kernel.ids import new_id

if TYPE_CHECKING:
    import asyncpg

_INSERT = """
INSERT INTO kernel.outbox (id, type, object_id, parties, data)
SELECT e.id, e.type, e.object_id, e.parties::uuid[], e.data::jsonb
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[])
     WITH ORDINALITY AS e(id, type, object_id, parties, data, n)
ORDER BY e.n
"""

_READ = """
SELECT seq, txid, id, type, object_id, parties, data, created_at
FROM kernel.outbox
WHERE (txid, seq) > ($1, $2)
  AND txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  AND ($3::uuid IS NULL OR parties @> ARRAY[$3::uuid])
ORDER BY txid, seq
LIMIT $4
"""


class Event(NamedTuple):
    """A fact about ``object_id``; ``parties`` are those who may read it."""

    id: UUID
    type: str
    object_id: UUID
    data: bytes
    parties: tuple[UUID, ...]

    @classmethod
    def of(
        cls, type_: str, object_id: UUID, data: Mapping[str, object], parties: Sequence[UUID]
    ) -> Event:
        """Serialize at once, so that a later change of ``data`` cannot alter the event."""
        return cls(new_id(), type_, object_id, orjson.dumps(data), tuple(dict.fromkeys(parties)))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as read back; ``(txid, seq)`` is its place in the stream."""

    seq: int
    txid: int
    id: UUID
    type: str
    object_id: UUID
    parties: list[UUID]
    data: dict[str, Any]
    created_at: datetime


async def write(connection: asyncpg.Connection[Any], batch: Sequence[Event]) -> None:
    """Insert in order, one statement; from ``COPY_FROM_ROWS`` events on by COPY."""
    if len(batch) >= COPY_FROM_ROWS:
        await connection.copy_records_to_table(
            "outbox",
            schema_name="kernel",
            columns=("id", "type", "object_id", "parties", "data"),
            records=[
                (event.id, event.type, event.object_id, event.parties, event.data.decode())
                for event in batch
            ],
        )
        return
    await connection.execute(
        _INSERT,
        [event.id for event in batch],
        [event.type for event in batch],
        [event.object_id for event in batch],
        # An array of arrays would have to be rectangular.
        ["{" + ",".join(str(party) for party in event.parties) + "}" for event in batch],
        [event.data.decode() for event in batch],
    )


async def read(
    connection: asyncpg.Connection[Any],
    after: tuple[int, int],
    *,
    party_id: UUID | None = None,
    limit: int = 200,
) -> list[StoredEvent]:
    """Events after the ``(txid, seq)`` position, in commit-safe order, at most ``limit``."""
    rows = await connection.fetch(_READ, after[0], after[1], party_id, limit)
    return [
        StoredEvent(
            seq=row["seq"],
            txid=row["txid"],
            id=row["id"],
            type=row["type"],
            object_id=row["object_id"],
            parties=list(row["parties"]),
            data=orjson.loads(row["data"]) if isinstance(row["data"], str) else row["data"],
            created_at=row["created_at"],
        )
        for row in rows
    ]
