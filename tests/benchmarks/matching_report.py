"""The table of ``make bench-matching``."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.benchmarks.matching_peers import Run

Traded = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one book; no runs: it is not installed."""

    name: str
    runs: Sequence[Run]
    total: int

    @property
    def rate(self) -> float:
        """Operations per processor second, median of the runs."""
        return median(run.rate for run in self.runs) if self.runs else 0.0

    @property
    def whole(self) -> bool:
        """Whether it went through the whole flow each time."""
        return bool(self.runs) and all(
            run.operations == self.total and not run.failed for run in self.runs
        )

    def verdict(self, expected: Sequence[Traded]) -> str:
        """Its trades against ours: with native amendments, or with amend = cancel, then limit."""
        if not self.runs:
            return "not installed"
        last = self.runs[-1]
        if last.failed:
            return last.failed.splitlines()[0][:60]
        if last.operations < self.total:
            return f"slow: did {last.operations:,} in its time"
        if last.traded is None:
            return "no trades reported"
        if last.traded in expected:
            return "trades and lots equal"
        return f"diverges: {last.traded[0]:,} trades, {last.traded[1]:,} lots"


def show(rows: Sequence[Row], expected: Sequence[Traded]) -> None:
    """Print all books, fastest first."""
    table = Table("book", "operations/s", "slowest … fastest", "checked", "expressed as")
    for row in sorted(rows, key=lambda row: -row.rate):
        rates = [run.rate for run in row.runs] or [0.0]
        table.add_row(
            row.name,
            f"{row.rate:,.0f}",
            f"{min(rates):,.0f} … {max(rates):,.0f}",
            row.verdict(expected),
            row.runs[-1].note if row.runs else "",
        )
    Console(width=180).print(table)
