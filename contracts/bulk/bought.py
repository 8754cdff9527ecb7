"""What of a file has been paid for under one Delivery-Id, and what more of it costs.

Each record of a part keeps the bytes that it charged; rows are owed for the bytes that are covered,
begun rows counting. Sums over any sequence of records telescope: a part whose bytes arrived, in
however many pieces, costs exactly its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from contracts.bulk.ranges import Portion
from contracts.delivery.once import REPLAY_FREE
from contracts.errors import DeliveryIdExpired, DeliveryIdReused
from contracts.sharing.ranges import Range, add, size_of
from market.kernel.context import Kernel

# Records of one part that are asked for at once. Few downloads break twice within 4 MiB.
_LOOK = 4


@dataclass(slots=True)
class Bought:
    """The covered bytes, and how many records each part has; ``entered``: the id has its own."""

    covered: list[Range] = field(default_factory=list)
    records: dict[int, int] = field(default_factory=dict)
    entered: bool = False

    def has(self, portion: Portion) -> bool:
        """Whether all of its bytes are paid for."""
        return size_of(_within(self.covered, (portion.start, portion.stop))) == portion.size

    def bytes(self, portion: Portion, size: int) -> int:
        """How many of the first ``size`` of its bytes are not paid for yet."""
        span = (portion.start, portion.start + size)
        return size - size_of(_within(self.covered, span))

    def rows(self, portion: Portion, size: int) -> int:
        """Rows owed for the first ``size`` of its bytes, beyond what is paid for already."""
        part = portion.of_part
        before = _within(self.covered, part)
        after = add(before, (portion.start, portion.start + size))
        length = part[1] - part[0]
        return _owed(portion.rows, length, after) - _owed(portion.rows, length, before)


def _within(covered: Sequence[Range], span: Range) -> list[Range]:
    low, high = span
    cut = [(max(low, start), min(high, end)) for start, end in covered]
    return [(start, end) for start, end in cut if start < end]


def _owed(rows: int, size: int, covered: Sequence[Range]) -> int:
    return -(-rows * size_of(covered) // size)


def part_key(delivery_id: str, part: int, record: int) -> str:
    """The meter's id of one record of a part; no client can send it as a Delivery-Id."""
    return f"{delivery_id}/{part}/{record}"


async def bought(
    kernel: Kernel,
    grant_id: UUID,
    delivery_id: str,
    wanted: Sequence[Portion],
    *,
    query_sha256: str,
) -> Bought:
    """What is on record under the id about the parts of ``wanted``.

    Raises DeliveryIdReused (422) when the id is another delivery's, DeliveryIdExpired (409) when
    one of its records is older than 24 hours.
    """
    known = Bought()
    now = kernel.clock.now()
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()

        async def look(keys: Sequence[str]) -> set[str]:
            rows = await connection.fetch(
                "SELECT delivery_key, query_sha256, delivered_at, page_after, page_until"
                " FROM contracts.delivery WHERE grant_id = $1 AND delivery_key = ANY($2::text[])",
                *(grant_id, list(keys)),
            )
            for row in rows:
                if row["query_sha256"] != query_sha256:
                    raise DeliveryIdReused(param="Delivery-Id")
                if now - row["delivered_at"] > REPLAY_FREE:
                    raise DeliveryIdExpired(param="Delivery-Id")
                known.covered = add(known.covered, (row["page_after"], row["page_until"]))
            return {row["delivery_key"] for row in rows}

        known.entered = bool(await look([delivery_id]))
        open_ = [portion.part for portion in wanted]
        first = 0
        while open_:
            tried = range(first, first + _LOOK)
            found = await look([part_key(delivery_id, part, n) for part in open_ for n in tried])
            for part in open_:
                known.records[part] = first + sum(
                    part_key(delivery_id, part, n) in found for n in tried
                )
            first += _LOOK
            open_ = [part for part in open_ if known.records[part] == first]
    return known
