"""All benchmarks in one run: ``python -m tests.benchmarks [name ...]``.

Convention: ``bench_<name>.py`` has ``main() -> dict[str, float]`` that prints its table and, as its
last line, its figures as JSON under stable snake_case keys. Each runs in a process of its own, so
that none warms or burdens another; the last line of this run holds the figures of all. Exit
code 1 when a benchmark failed or two of them use one key.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# The ledger fills itself with ten million postings, and proves them.
BENCH_TIMEOUT_S = 3_600


def names() -> list[str]:
    """The benchmarks of this folder, sorted."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def run_one(name: str) -> dict[str, float]:
    """Run one benchmark, passing its output on. Raises when it fails or ends without figures."""
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=BENCH_TIMEOUT_S
    )
    print(f"\n== {name} ==\n{done.stdout.rstrip()}", flush=True)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main(wanted: list[str]) -> int:
    """Run the named benchmarks, or all; print all figures as the last line."""
    known = names()
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    figures: dict[str, float] = {}
    failed = False
    for name in wanted or known:
        try:
            found = run_one(name)
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            print(f"\n== {name} == failed: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        if figures.keys() & found.keys():
            print(f"{name} reuses keys of another benchmark", file=sys.stderr)
            failed = True
        figures.update(found)
    print(json.dumps(figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
