"""One run of our book over a flow, printed as the peers do: ``batch`` or ``single`` FLOW.json.

``batch`` is the entry for logs (market.matching.replay); ``single`` calls the book operation by
operation through the same loop as the peers.
"""

import gc
import json
import sys
import time
from pathlib import Path

from market.matching.book import Book
from market.matching.replay import run, traded
from market.matching.terms import Fill
from tests.benchmarks.matching_flow import INSTRUMENTS, Operation, Verb, commands


class Single:
    """Our book behind the peers' face."""

    def __init__(self) -> None:
        self.books = [Book() for _ in range(INSTRUMENTS)]
        self.fills: list[Fill] = []
        self.rank = 0

    def submit(
        self, verb: int, instrument: int, ref: int, party: int, side: int, price: int, lots: int
    ) -> None:
        self.rank = ref
        tif = 0 if verb == Verb.LIMIT else 1
        self.books[instrument].submit(ref, party, side, price, lots, tif, self.fills, party)

    def step(self, operations: list[Operation]) -> None:
        for number, (verb, instrument, ref, party, side, price, lots) in enumerate(operations, 1):
            if verb < Verb.CANCEL:
                self.submit(verb, instrument, ref, party, side, price, lots)
            elif verb == Verb.CANCEL:
                self.books[instrument].cancel(ref)
            else:
                self.books[instrument].amend(ref, number, price, lots, self.fills)


def main(entry: str, source: str) -> None:
    flow = [Operation(*item) for item in json.loads(Path(source).read_text())["operations"]]
    log = commands(flow)
    single = Single()
    gc.collect()
    start = time.thread_time()
    if entry == "batch":
        results = run(single.books, log)
        seconds = time.thread_time() - start
        done = traded(results)
    else:
        single.step(flow)
        seconds = time.thread_time() - start
        done = len(single.fills), sum(fill[3] for fill in single.fills)
    note = "amend: native, fewer lots keep priority"
    print(
        json.dumps({"operations": len(flow), "seconds": seconds, "traded": done, "note": note}),
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
