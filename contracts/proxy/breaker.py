"""A circuit breaker per upstream, in the memory of each process.

Each worker learns for itself: shared state would cost a round trip per call and would let one
worker's network trouble stop all of them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

FAILURES_MAX: Final = 5
OPEN_S: Final = 30.0
# A probe whose end nobody reports must not keep the circuit open forever.
PROBE_S: Final = 90.0
KNOWN_MAX: Final = 10_000


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0


class Breakers:
    """Closed until FAILURES_MAX failures in a row, then open for OPEN_S, then one probe."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, _Circuit] = OrderedDict()

    def wait_s(self, key: Hashable, *, now: float | None = None) -> float:
        """0 when a call may go out, else the seconds until one may. ``now`` is monotonic."""
        moment = time.monotonic() if now is None else now
        circuit = self._known.get(key)
        if circuit is None or circuit.failures < FAILURES_MAX:
            return 0.0
        if moment < circuit.open_until:
            return circuit.open_until - moment
        # This caller is the probe; the others wait for what it finds.
        circuit.open_until = moment + PROBE_S
        return 0.0

    def succeeded(self, key: Hashable) -> None:
        """Close the circuit."""
        self._known.pop(key, None)

    def failed(self, key: Hashable, *, now: float | None = None) -> None:
        """Count one failure; the FAILURES_MAX-th in a row opens the circuit."""
        moment = time.monotonic() if now is None else now
        circuit = self._known.setdefault(key, _Circuit())
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        circuit.failures += 1
        if circuit.failures >= FAILURES_MAX:
            circuit.open_until = moment + OPEN_S
