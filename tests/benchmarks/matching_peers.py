"""Runs of the peers' books, and of ours, each in a process of its own with a limit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent / "peers"
ENVIRONMENTS: Final = Path(os.environ.get("PEERS", ".venv/peers"))
PYTHON_PEERS: Final = (
    "limit-order-book",
    "litebook",
    "liquibook",
    "orderly-chaos",
    "akhil4n-orderbook",
    "cython-orderbook",
    "lightmatchingengine",
    "pyorderbook",
    "obook",
    "manticore-orderbook",
    "fastlob",
    "order-matching",
    "nanobook",
)
NODE_PEERS: Final = ("hft-limit-order-book", "nodejs-order-book")
OURS: Final = "ours (batch entry)"
OURS_SINGLE: Final = "ours (call by call)"
# Processor seconds after which a book stops by itself, and wall seconds after which it is ended.
RUN_LIMIT_S: Final = 6
WALL_LIMIT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one book: how far it came, in processor time, and what it traded."""

    operations: int
    seconds: float
    traded: tuple[int, int] | None
    note: str
    failed: str

    @property
    def rate(self) -> float:
        """Operations per processor second, over the part that was done."""
        return self.operations / self.seconds if self.seconds else 0.0


def command(name: str, flow: Path) -> list[str] | None:
    """How to run a book; None when it is not installed here."""
    limit = str(RUN_LIMIT_S)
    if name in (OURS, OURS_SINGLE):
        entry = "batch" if name == OURS else "single"
        return [sys.executable, "-m", "tests.benchmarks.matching_ours", entry, str(flow)]
    if name in NODE_PEERS:
        module = ENVIRONMENTS / name / "node_modules" / name
        node = shutil.which("node")
        if node is None or not module.exists():
            return None
        return [node, str(HERE / "matching_peer.cjs"), str(module), str(flow), limit]
    python = ENVIRONMENTS / name / "bin" / "python"
    if not (ENVIRONMENTS / name / ".installed").exists():
        return None
    return [str(python), str(HERE / "matching_peer.py"), name, str(flow), limit]


def run(name: str, flow: Path) -> Run | None:
    """One run; None when the book is not installed. What hangs or crashes is a result, too."""
    words = command(name, flow)
    if words is None:
        return None
    failed = ""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    )
    try:
        output, _ = process.communicate(timeout=WALL_LIMIT_S)
        if process.returncode:
            failed = f"crashed with {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        failed = f"hung: ended after {WALL_LIMIT_S} s"
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    last: dict[str, Any] = json.loads(lines[-1]) if lines else {"operations": 0, "seconds": 0.0}
    traded = last.get("traded")
    return Run(
        operations=last["operations"],
        seconds=last["seconds"],
        traded=None if traded is None else (int(traded[0]), int(traded[1])),
        note=last.get("note", ""),
        failed=failed or last.get("failed", ""),
    )


def _environment() -> dict[str, str]:
    """Ours, without what would make a peer import our packages."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
