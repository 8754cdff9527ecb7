"""Order matching, all parts: the book beside its peers, the durable engine, HTTP.

``make bench-matching`` makes the peers' environments first. Each part is a module with a table of
its own, run in a process of its own, and can be run alone (``python -m tests.benchmarks.<part>``);
what it measures, and the variables that shrink it, are said there. The last line holds all
figures as JSON: `ratio_book_vs_fastest_peer`, `ratio_durable_vs_copy`, `growth_1m_vs_1k` and
`bytes_per_resting_order` are the ones with a target.
"""

import json
import subprocess
import sys
from typing import Final

PARTS: Final = ("matching_alone", "matching_durable", "matching_http")
PART_TIMEOUT_S: Final = 1_200


def main() -> dict[str, float]:
    """Run the parts one after the other; return the figures of all. A part that fails ends it."""
    figures: dict[str, float] = {}
    for part in PARTS:
        command = [sys.executable, "-m", f"tests.benchmarks.{part}"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=PART_TIMEOUT_S
        )
        print(f"== {part} ==\n{done.stdout.rstrip()}\n", flush=True)
        figures |= json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
