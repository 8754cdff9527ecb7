"""One run of our book over a flow, printed as the peers do: ``batch`` or ``single`` FLOW.json.

``batch`` is the entry for logs (market.matching.replay); ``single`` calls the book operation by
operation through the same loop as the peers, who compare with plain integers, too.
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

_LIMIT, _CANCEL = int(Verb.LIMIT), int(Verb.CANCEL)
Plain = tuple[int, int, int, int, int, int, int]


class Single:
    """Our book behind the peers' face."""

    def __init__(self) -> None:
        self.books = [Book() for _ in range(INSTRUMENTS)]
        self.fills: list[Fill] = []

    def submit(
        self, verb: int, instrument: int, ref: int, party: int, side: int, price: int, lots: int
    ) -> None:
        tif = 0 if verb == _LIMIT else 1
        self.books[instrument].submit(ref, party, side, price, lots, tif, self.fills, party)

    def cancel(self, instrument: int, ref: int) -> None:
        self.books[instrument].cancel(ref)

    def step(self, operations: list[Plain]) -> None:
        submit, cancel = self.submit, self.cancel
        for number, (verb, instrument, ref, party, side, price, lots) in enumerate(operations, 1):
            if verb < _CANCEL:
                submit(verb, instrument, ref, party, side, price, lots)
            elif verb == _CANCEL:
                cancel(instrument, ref)
            else:
                self.books[instrument].amend(ref, number, price, lots, self.fills)


def main(entry: str, source: str) -> None:
    content = json.loads(Path(source).read_text())["operations"]
    flow: list[Plain] = [tuple(item) for item in content]
    single = Single()
    if entry == "batch":
        log = commands([Operation(*item) for item in content])
        gc.collect()
        start = time.thread_time()
        results = run(single.books, log)
        seconds = time.thread_time() - start
        done = traded(results)
    else:
        gc.collect()
        start = time.thread_time()
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
