"""One run of one order book over a flow, in the interpreter of its own environment.

Usage: matching_peer.py NAME FLOW.json SECONDS. Prints a JSON line after every 200 operations,
so that whoever started it knows how far a book came that hangs or crashes: ``operations``,
``seconds`` (processor time of this thread), and at the end ``trades`` and ``lots`` or null. Stops
by itself after SECONDS.
"""

# mypy: ignore-errors

import json
import os
import sys
import time

from matching_books import PEERS

CHUNK = 200
CANCEL, AMEND = 3, 4


def step(peer, operations):
    """Carry out some operations; every book is called from here the same way."""
    submit, cancel, amend = peer.submit, peer.cancel, peer.amend
    for verb, instrument, ref, _, side, price, lots in operations:
        if verb < CANCEL:
            submit(verb, instrument, ref, side, price, lots)
        elif verb == CANCEL:
            cancel(instrument, ref)
        else:
            amend(instrument, ref, side, price, lots)


def main(name, source, limit_s):
    with open(source) as file:
        flow = json.load(file)
    peer = PEERS[name](1 + max(operation[1] for operation in flow["operations"]))
    operations = [tuple(operation) for operation in flow["operations"]]
    done, seconds, failed = 0, 0.0, ""
    while done < len(operations) and seconds < limit_s:
        chunk = operations[done : done + CHUNK]
        start = time.thread_time()
        try:
            step(peer, chunk)
        except Exception as error:  # noqa: BLE001 - whatever a book raises ends its run
            failed = f"{type(error).__name__}: {error}"
            break
        seconds += time.thread_time() - start
        done += len(chunk)
        print(json.dumps({"operations": done, "seconds": seconds}), flush=True)
    traded = peer.traded()
    result = {
        "operations": done,
        "seconds": seconds,
        "traded": traded,
        "failed": failed,
        "note": peer.NOTE,
    }
    print(json.dumps(result), flush=True)
    # Threads that a book has left behind must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
