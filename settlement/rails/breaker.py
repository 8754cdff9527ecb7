"""A circuit breaker: a provider that is down is left alone for a while, then tried by one call.

Pure but for the clock it is given. Refusing at once keeps workers and requests from waiting for
one timeout after the other, and lets the provider recover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

FAILURES_MAX = 8
OPEN_FOR = timedelta(seconds=20)
# A probe that never reports (its task was cancelled) must not block the next one for good.
PROBE_FOR = timedelta(seconds=90)


@dataclass
class Breaker:
    """``admit`` before a call, then ``succeeded`` or ``failed``. Any answer is a success: only
    silence, 5xx and refused connections count as failures."""

    now: Callable[[], datetime]
    failures: int = 0
    _blocked_until: datetime | None = field(default=None)

    def admit(self) -> float:
        """0 when the call may go; else the seconds until the next probe (it must not go)."""
        if self._blocked_until is None:
            return 0.0
        moment = self.now()
        # A clock that was set back must not prolong the wait.
        wait = min(self._blocked_until - moment, PROBE_FOR)
        if wait > timedelta(0):
            return wait.total_seconds()
        # This call is the probe; others wait for its outcome.
        self._blocked_until = moment + PROBE_FOR
        return 0.0

    def succeeded(self) -> None:
        """Close: all calls may go."""
        self.failures = 0
        self._blocked_until = None

    def failed(self) -> None:
        """Count; open after ``FAILURES_MAX`` in a row, and again after a failed probe."""
        self.failures += 1
        if self.failures >= FAILURES_MAX:
            self._blocked_until = self.now() + OPEN_FOR
