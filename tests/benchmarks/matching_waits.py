"""How long callers waited, and how many were answered per second."""

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True)
class Waits:
    """Times of one run, in seconds."""

    seconds: float = 0
    times: list[float] = field(default_factory=list)

    def note(self, seconds: float) -> None:
        """Somebody was answered."""
        self.times.append(seconds)

    @property
    def per_s(self) -> float:
        return len(self.times) / self.seconds

    @property
    def p50_ms(self) -> float:
        return 1_000 * statistics.median(self.times)

    @property
    def p99_ms(self) -> float:
        if len(self.times) < 2:
            return self.p50_ms
        return 1_000 * statistics.quantiles(self.times, n=100)[98]
