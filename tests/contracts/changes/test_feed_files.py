"""What is kept of computed feeds."""

import os
import time
from pathlib import Path

import pytest

from contracts.changes import feeds


def _made(path: Path, *, age_s: float) -> Path:
    path.write_bytes(b"x" * 100)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_old_feeds_and_drafts_of_the_dead_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "FOLDER_MAX_BYTES", 250)
    oldest = _made(tmp_path / "a-key-1.parquet", age_s=9 * feeds.KEEP_S)
    old = _made(tmp_path / "b-row-1.parquet", age_s=5 * feeds.KEEP_S)
    used = _made(tmp_path / "c-row-1.parquet", age_s=0)
    dead = _made(tmp_path / ".d.1", age_s=3 * feeds.BUILD_MAX_S)
    alive = _made(tmp_path / ".e.1", age_s=0)
    feeds._evict(tmp_path)
    assert [path.exists() for path in (oldest, old, used, dead, alive)] == [
        False,
        True,
        True,
        False,
        True,
    ]
    monkeypatch.setattr(feeds, "FOLDER_MAX_BYTES", 0)
    feeds._evict(tmp_path)
    # One that may be being read stays, whatever its size.
    assert [path.exists() for path in (old, used)] == [False, True]
