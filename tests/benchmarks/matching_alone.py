"""The book alone beside every peer that installs from PyPI or npm; what a full book costs.

``make bench-matching`` makes the peers' environments first, each from its own lock. Every book gets
the same flow of integers (``matching_flow``) and runs in a process of its own; rounds are
interleaved. Rates are operations per second of processor time of the matching thread, so that
other work on the machine does not decide as much. Reading the flow is not timed, choosing the call
for an operation is, for every book alike.

The ratio compares our book called operation by operation, as the peers are, with the fastest of
them: the median over rounds, each of which runs both. The entry for logs is reported beside it.
``BENCH_MATCHING_ROUNDS`` sets the rounds of those; the other books have three.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from market.matching.book import Book
from market.matching.replay import Command, Kind, run, traded
from tests.benchmarks import matching_peers, matching_size
from tests.benchmarks.matching_flow import INSTRUMENTS, Operation, Verb, commands, operations
from tests.benchmarks.matching_report import Row, Traded, show

ROUNDS: Final = 3
LAST_ROUNDS: Final = int(os.environ.get("BENCH_MATCHING_ROUNDS", "9"))


def expected(flow: list[Operation]) -> list[Traded]:
    """(trades, lots) of the flow, and of the flow with amend = cancel, then limit."""
    native = traded(run([Book() for _ in range(INSTRUMENTS)], commands(flow)))
    books = [Book() for _ in range(INSTRUMENTS)]
    log: list[Command] = []
    # Under which ref an amended order rests now: a book takes each ref once.
    newest: dict[int, int] = {}
    trades = lots = 0
    for item, command in zip(flow, commands(flow), strict=True):
        ref = newest.get(item.ref, item.ref)
        log = [(*command[:3], ref, *command[4:])]
        if item.verb == Verb.AMEND:
            log = []
            if books[item.instrument].cancel(ref):
                newest[item.ref] = fresh = len(flow) + command[2]
                log = [(int(Kind.SUBMIT), *command[1:3], fresh, *command[4:])]
        done = traded(run(books, log))
        trades, lots = trades + done[0], lots + done[1]
    return [native, (trades, lots)]


Runs = dict[str, list[matching_peers.Run]]


def run_round(runs: Runs, names: Sequence[str], source: Path, total: int) -> None:
    """Each book once more. What failed or was too slow once would be so again: a hang costs."""
    for name in names:
        if any(past.failed or past.operations < total for past in runs[name]):
            continue
        found = matching_peers.run(name, source)
        if found is not None:
            runs[name].append(found)


def paired(runs: Runs, name: str, peer: str) -> float:
    """How much faster than a peer: the median over rounds."""
    pairs = zip(runs[name], runs[peer], strict=True)
    return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)


def compare(flow: list[Operation]) -> dict[str, float]:
    """Run all books; the figures of ours and of the fastest peer."""
    peers = (*matching_peers.PYTHON_PEERS, *matching_peers.NODE_PEERS)
    ours = (matching_peers.OURS_SINGLE, matching_peers.OURS)
    total = len(flow)
    runs: Runs = {name: [] for name in (*ours, *peers)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "flow.json"
        source.write_text(json.dumps({"operations": flow}))
        for _ in range(ROUNDS):
            run_round(runs, (*ours, *peers), source, total)
        measured = [row for row in _rows(runs, total) if row.whole and row.name in peers]
        if not measured:
            raise SystemExit("no peer is installed: run `make bench-matching`")
        fastest = max(measured, key=lambda row: row.rate).name
        for _ in range(ROUNDS, LAST_ROUNDS):
            run_round(runs, (*ours, fastest), source, total)
    rows = {row.name: row for row in _rows(runs, total)}
    show(list(rows.values()), expected(flow))
    if not all(rows[name].whole for name in ours):
        raise SystemExit("our own book did not finish")
    print(f"fastest peer: {fastest}, {len(runs[fastest])} rounds")
    return {
        "ratio_book_vs_fastest_peer": round(paired(runs, ours[0], fastest), 2),
        "ratio_book_batch_entry_vs_fastest_peer": round(paired(runs, ours[1], fastest), 2),
        "book_ops_per_s": round(rows[ours[0]].rate),
        "book_batch_entry_ops_per_s": round(rows[ours[1]].rate),
        "fastest_peer_ops_per_s": round(rows[fastest].rate),
        "matching_peers_measured": len(measured),
    }


def _rows(runs: Runs, total: int) -> list[Row]:
    return [Row(name, tuple(done), total) for name, done in runs.items()]


def main() -> dict[str, float]:
    """Run, print the table and one JSON line; return its figures."""
    figures = compare(operations())
    figures["growth_1m_vs_1k"] = round(matching_size.growth(), 2)
    figures["bytes_per_resting_order"] = round(matching_size.bytes_per_order())
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
