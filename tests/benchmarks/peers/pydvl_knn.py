"""pyDVL's KNN-Shapley, timed in its own interpreter (it needs numpy < 2).

Usage: pydvl_knn.py IN.npz OUT.npz. Reads train_x, train_y, test_x, test_y, k and repeats; writes
the values and the seconds of the fastest run. Reading files and importing are not timed.
"""

import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")  # pyDVL 0.10.0 uses names that its own dependencies deprecate.

from pydvl.valuation import Dataset, KNNShapleyValuation  # type: ignore[import-not-found] # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-not-found] # noqa: E402


def run(source: str, target: str) -> None:
    """Time ``KNNShapleyValuation.fit`` on one problem."""
    problem = np.load(source)
    train = Dataset(problem["train_x"], problem["train_y"])
    test = Dataset(problem["test_x"], problem["test_y"])
    seconds = float("inf")
    for _ in range(int(problem["repeats"])):
        model = KNeighborsClassifier(n_neighbors=int(problem["k"]))
        valuation = KNNShapleyValuation(model, test, progress=False)
        start = time.perf_counter()
        valuation.fit(train)
        seconds = min(seconds, time.perf_counter() - start)
    np.savez(target, values=valuation.result.values, seconds=seconds)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2])
