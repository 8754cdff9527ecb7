"""Time: UTC, injected, and movable in the sandbox.

Deadlines compare with database time (``UnitOfWork.now``). This clock is for what has no
transaction at hand: token times, log lines. Its offset follows the database's sandbox offset,
which every unit of work reads at its start, so all processes agree on the moved time.
"""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """The process clock plus the sandbox offset (always zero in production)."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        """The current market time, timezone-aware UTC."""
        return datetime.now(UTC) + self.offset

    def timestamp_s(self) -> int:
        """Whole seconds since the epoch, for JWT claims."""
        return int(time.time() + self.offset.total_seconds())
