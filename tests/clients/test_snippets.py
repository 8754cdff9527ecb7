"""docs/clients.md as its readers use it: every snippet but Spark's runs against a live market."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "clients.md"
NOT_RUN = ("PySpark", "A generated client")
TIMEOUT_S = 240
_SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets() -> dict[str, tuple[str, str]]:
    """Language and text of each section's snippet."""
    found = {}
    for title, text in _SECTION.findall(DOCUMENT.read_text()):
        blocks = _BLOCK.findall(text)
        if title not in NOT_RUN:
            assert len(blocks) == 1, f"{title}: one snippet a section"
            found[title] = blocks[0]
    return found


SEEN = {
    "curl": '"AA"',
    "Python: httpx": "40 rows, 60 left\n40 rows, 20 left\n",
    "pandas": "carrier",
    "NDJSON": "60 rows, longest delay",
    "Polars": "delay",
    "DuckDB": "carrier",
}


def test_every_section_is_run() -> None:
    assert list(snippets()) == list(SEEN)


@pytest.mark.parametrize("title", list(SEEN))
def test_the_snippet_does_what_it_says(shop: Shop, tmp_path: Path, title: str) -> None:
    language, text = snippets()[title]
    program = ["bash", "-euo", "pipefail"] if language == "sh" else [sys.executable]
    done = subprocess.run(
        [*program, "-c", text],
        env={**os.environ, **shop.environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SEEN[title] in done.stdout, done.stdout
