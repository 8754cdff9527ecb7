"""How much of a file is sent under one reservation: more to clients that take it quickly.

Each reservation costs some 15 ms of round trips, which a fast client waits for; a slow one must
be able to take its piece before the hold ends.
"""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

PIECE_BYTES = 16 << 20
PIECE_MAX_BYTES = 64 << 20
# A piece may take this part of the hold's time at the pace that was seen.
HOLD_PART = 1 / 8
QUERIES_MAX = 1_000


class Paces:
    """Sizes of the next pieces by query, for the queries seen last by this process."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[UUID, int] = OrderedDict()

    def piece_bytes(self, query_id: UUID) -> int:
        """Bytes of the query's next piece: ``PIECE_BYTES`` to ``PIECE_MAX_BYTES``."""
        return self._sizes.get(query_id, PIECE_BYTES)

    def note(self, query_id: UUID, *, sent: int, seconds: float, hold_s: float) -> None:
        """``sent`` bytes took so long. Smaller pieces than the first may lie in the kernel."""
        if sent < PIECE_BYTES:
            return
        fitting = int(sent / max(seconds, 1e-6) * hold_s * HOLD_PART)
        self._sizes[query_id] = max(PIECE_BYTES, min(PIECE_MAX_BYTES, fitting))
        self._sizes.move_to_end(query_id)
        if len(self._sizes) > QUERIES_MAX:
            self._sizes.popitem(last=False)


paces = Paces()
