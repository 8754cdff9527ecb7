"""Order matching, part 1: the book alone beside every peer that installs from PyPI or npm.

``make bench-matching`` makes the peers' environments first, each from its own lock. Every book gets
the same flow of integers (``matching_flow``) and runs in a process of its own; rounds are
interleaved, the median counts. Rates are operations per second of processor time of the matching
thread, so that other work on the machine does not decide. Reading the flow is not timed, choosing
the call for an operation is, for every book alike.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

from market.matching.book import Book
from market.matching.replay import Command, Kind, run, traded
from tests.benchmarks import matching_peers, matching_size
from tests.benchmarks.matching_flow import INSTRUMENTS, Operation, Verb, commands, operations
from tests.benchmarks.matching_report import Row, Traded, show

ROUNDS: Final = 3


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


def compare(flow: list[Operation]) -> dict[str, float]:
    """Run all books; the figures of ours and of the fastest peer."""
    peers = (*matching_peers.PYTHON_PEERS, *matching_peers.NODE_PEERS)
    names = (matching_peers.OURS, matching_peers.OURS_SINGLE, *peers)
    runs: dict[str, list[matching_peers.Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "flow.json"
        source.write_text(json.dumps({"operations": flow}))
        for _ in range(ROUNDS):
            for name in names:
                # What failed or was too slow once would be so again, and a hang costs a minute.
                if any(past.failed or past.operations < len(flow) for past in runs[name]):
                    continue
                found = matching_peers.run(name, source)
                if found is not None:
                    runs[name].append(found)
    rows = {name: Row(name, tuple(runs[name]), len(flow)) for name in names}
    show(list(rows.values()), expected(flow))
    ours, single = rows[matching_peers.OURS], rows[matching_peers.OURS_SINGLE]
    if not (ours.whole and single.whole):
        raise SystemExit("our own book did not finish")
    measured = [rows[name] for name in peers if rows[name].whole]
    if not measured:
        raise SystemExit("no peer is installed: run `make bench-matching`")
    fastest = max(measured, key=lambda row: row.rate)
    print(f"fastest peer: {fastest.name}")
    return {
        "ratio_book_vs_fastest_peer": round(ours.rate / fastest.rate, 2),
        "ratio_book_single_calls_vs_fastest_peer": round(single.rate / fastest.rate, 2),
        "book_ops_per_s": round(ours.rate),
        "book_single_calls_ops_per_s": round(single.rate),
        "fastest_peer_ops_per_s": round(fastest.rate),
        "matching_peers_measured": len(measured),
    }


def main() -> dict[str, float]:
    """Run, print the table and one JSON line; return its figures."""
    figures = compare(operations())
    figures["growth_1m_vs_1k"] = round(matching_size.growth(), 2)
    figures["bytes_per_resting_order"] = round(matching_size.bytes_per_order())
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
