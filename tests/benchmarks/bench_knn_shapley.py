"""KNN-Shapley: seconds of pyDVL divided by ours, on the same machine, in the same run.

``make bench-knn-shapley`` makes pyDVL's own environment first. Both compute exact values of the
same problems (K = 5, 16 features, two classes, no ties); the run fails when they differ. Each
uses one processor, as it comes.
"""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pricing.contribution import Floats, knn_shapley

PEER_PYTHON = Path(os.environ.get("PYDVL_PYTHON", ".venv/peers/pydvl/bin/python"))
PEER_SCRIPT = Path(__file__).parent / "peers" / "pydvl_knn.py"
SEED = 20240607
K, FEATURES = 5, 16
# Training rows, test rows, runs of which the fastest counts.
SIZES = ((1_000, 100, 5), (20_000, 200, 3))
DIFFERENCE_MAX = 1e-12
PEER_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Row:
    """One problem size, fastest run of each side."""

    train_rows: int
    test_rows: int
    ours_s: float
    pydvl_s: float
    difference: float

    @property
    def ratio(self) -> float:
        return self.pydvl_s / self.ours_s


def problem(train_rows: int, test_rows: int) -> dict[str, Any]:
    """Two noisy classes in 16 dimensions; continuous coordinates, so no two distances tie."""
    generator = np.random.default_rng(SEED)
    rows = train_rows + test_rows
    labels = generator.integers(0, 2, rows)
    points = generator.normal(size=(rows, FEATURES)) + 0.5 * labels[:, np.newaxis]
    return {
        "train_x": points[:train_rows],
        "train_y": labels[:train_rows],
        "test_x": points[train_rows:],
        "test_y": labels[train_rows:],
    }


def measure_ours(data: dict[str, Any], repeats: int) -> tuple[Floats, float]:
    """Our values and the seconds of the fastest run."""
    seconds = float("inf")
    values: Floats = np.zeros(0)
    for _ in range(repeats):
        start = time.perf_counter()
        values = knn_shapley(**data, k=K)
        seconds = min(seconds, time.perf_counter() - start)
    return values, seconds


def measure_pydvl(data: dict[str, Any], repeats: int) -> tuple[Floats, float]:
    """pyDVL's values and the seconds of its fastest run. Raises when its environment is missing."""
    if not PEER_PYTHON.exists():
        raise SystemExit("pyDVL's environment is missing: run `make bench-knn-shapley`")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **data, k=K, repeats=repeats)
        command = [str(PEER_PYTHON), str(PEER_SCRIPT), str(source), str(target)]
        subprocess.run(command, check=True, timeout=PEER_TIMEOUT_S)
        with np.load(target) as result:
            return result["values"], float(result["seconds"])


def main() -> dict[str, float]:
    """Run, print the table and one JSON line; return its figures."""
    rows = []
    for train_rows, test_rows, repeats in SIZES:
        data = problem(train_rows, test_rows)
        ours, ours_s = measure_ours(data, repeats)
        theirs, pydvl_s = measure_pydvl(data, repeats)
        difference = float(np.abs(ours - theirs).max())
        if difference > DIFFERENCE_MAX:
            raise SystemExit(f"values differ by {difference:g}")
        rows.append(Row(train_rows, test_rows, ours_s, pydvl_s, difference))

    table = Table("train × test", "ours, s", "pyDVL, s", "ratio", "largest difference")
    for row in rows:
        table.add_row(
            f"{row.train_rows} × {row.test_rows}",
            f"{row.ours_s:.4f}",
            f"{row.pydvl_s:.3f}",
            f"{row.ratio:.1f}",
            f"{row.difference:.1e}",
        )
    Console().print(table)
    small, large = rows
    figures = {
        "ratio_knn_shapley_vs_pydvl": round(large.ratio, 2),
        "ratio_knn_shapley_vs_pydvl_1k": round(small.ratio, 2),
        "knn_shapley_20k_s": round(large.ours_s, 4),
        "knn_shapley_20k_pydvl_s": round(large.pydvl_s, 3),
        "knn_shapley_difference_max": max(row.difference for row in rows),
    }
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
