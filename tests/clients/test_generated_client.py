"""The published description makes a client that works, with a stock generator."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / ".venv" / "clients" / "generator" / "bin"
HERE = Path(__file__).parent
TIMEOUT_S = 300
# What the generator may leave out: it cannot send files of several types.
UPLOADS = {
    "POST /v1/products/{product_id}/versions",
    "POST /v1/disputes/{dispute_id}/evidence/files",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the client, made from the committed description, and what was said."""
    assert GENERATOR.exists(), "run `make generated-client` once"
    folder = tmp_path_factory.mktemp("generated")
    done = subprocess.run(
        [
            str(GENERATOR / "openapi-python-client"),
            "generate",
            *("--path", str(ROOT / "openapi" / "market.json")),
            *("--config", str(HERE / "generator.yaml")),
            *("--meta", "none", "--output-path", str(folder / "market_client")),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


def test_nothing_but_uploads_is_left_out(generated: tuple[Path, str]) -> None:
    folder, said = generated
    left_out = re.findall(r"WARNING parsing (\S+ \S+) within", said)
    assert set(left_out) <= UPLOADS, said
    assert "Unable to" not in said
    document = json.loads((ROOT / "openapi" / "market.json").read_text())
    operations = sum(len(item) for item in document["paths"].values())
    made = [path for path in folder.glob("market_client/api/*/*.py") if path.stem != "__init__"]
    assert operations - len(UPLOADS) <= len(made) <= operations


def test_a_buyer_trades_and_reads_with_it(generated: tuple[Path, str], shop: Shop) -> None:
    folder, _ = generated
    done = subprocess.run(
        [
            str(GENERATOR / "python"),
            str(HERE / "generated_walk.py"),
            *(shop.url, shop.client_id, shop.client_secret, shop.plan),
        ],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert shop.listing in seen["listings"]
    assert (seen["order"], seen["agreement"]) == ("filled", "active")
    assert len(seen["rows"]) == 5
    assert all(sorted(row) == ["carrier", "id"] for row in seen["rows"])
    assert (seen["has_more"], seen["refused"]) == (True, "column_unknown")


def test_the_generators_names_are_ours_alone() -> None:
    document = json.loads((ROOT / "openapi" / "market.json").read_text())
    assert not [name for name in document["components"]["schemas"] if "__" in name]
