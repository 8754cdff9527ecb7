"""How many messages a party sends per second: counted in the writer's memory, before its queue."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from uuid import UUID

from market.matching.control_errors import TooManyMessages

# Parties whose second is over are forgotten when this many are remembered.
_REMEMBERED_MIN = 1_024


class MessageMeter:
    """A bucket per party that holds a second's worth and refills evenly.

    The generic cell rate algorithm (ITU-T I.371): one number per party, the time at which its
    bucket would be full again. Remembers only parties of the last second.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at: dict[UUID, float] = {}
        self._sweep_at = _REMEMBERED_MIN

    def __len__(self) -> int:
        return len(self._full_at)

    def count(self, party_id: UUID, per_second: int, messages: int = 1) -> None:
        """Count messages. Raises TooManyMessages (429, Retry-After), and then counts nothing.

        More at once than a second's worth pass when the bucket is full, and empty it for longer.
        """
        now = self._clock()
        taken_s = messages / per_second
        room_s = max(1.0, taken_s)
        full_at = max(now, self._full_at.get(party_id, now)) + taken_s
        # A hair of tolerance: sums of binary fractions are not exact.
        if full_at - now > room_s + 1e-9:
            wait_s = max(1, ceil(full_at - now - room_s))
            raise TooManyMessages(
                f"At most {per_second} per second.", headers={"Retry-After": str(wait_s)}
            )
        self._full_at[party_id] = full_at
        if len(self._full_at) >= self._sweep_at:
            self._full_at = {party: at for party, at in self._full_at.items() if at > now}
            self._sweep_at = max(_REMEMBERED_MIN, 2 * len(self._full_at))
