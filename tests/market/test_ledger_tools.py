"""``market ledger`` as its users run it: prove, check-proof, export, verify --since."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from settlement.checkpoints import write_checkpoint
from settlement.commands import Applied
from tests.settlement.factories import available, book, fund, transfer


@pytest.fixture(scope="module")
async def proved(kernel: Kernel) -> str:
    source = await fund(kernel, new_id(), 1_000)
    (done,) = await book(kernel, transfer(source, available(new_id()), 250))
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    await write_checkpoint(kernel)
    return show("txn", done.transfer_id)


async def market(
    kernel: Kernel, *arguments: str, offline: bool = False
) -> "subprocess.CompletedProcess[str]":
    """The command on this test's database; ``offline``: with addresses where nothing listens."""
    settings = kernel.settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MARKET_")},
        "MARKET_HOME": str(settings.home),
        "MARKET_DATABASE_URL": nowhere if offline else settings.database_url,
        "MARKET_REDIS_URL": "redis://127.0.0.1:1" if offline else settings.redis_url,
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "market.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
    )


async def test_a_proof_is_written_and_checked_without_any_server(
    kernel: Kernel, proved: str, tmp_path: Path
) -> None:
    proof, jwks = tmp_path / "proof.json", tmp_path / "jwks.json"
    done = await market(kernel, "ledger", "prove", proved, "--out", str(proof))
    assert (done.returncode, done.stdout) == (0, "")
    printed = await market(kernel, "ledger", "prove", proved)
    assert printed.stdout.encode() == proof.read_bytes() + b"\n"
    jwks.write_text(json.dumps(kernel.keys.jwks()))
    for keys in ((), ("--jwks", str(jwks))):
        checked = await market(kernel, "ledger", "check-proof", str(proof), *keys, offline=True)
        assert checked.returncode == 0, checked.stderr
        shown = json.loads(checked.stdout)
        assert shown["transfer_id"] == proved
        assert sorted(leg["amount_minor"] for leg in shown["postings"]) == [-250, 250]
    proof.write_bytes(proof.read_bytes().replace(b"250", b"251", 1))
    forged = await market(kernel, "ledger", "check-proof", str(proof), offline=True)
    assert (forged.returncode, forged.stdout) == (1, "")
    assert forged.stderr.startswith("Not proved: ")
    jwks.write_text("{")
    unreadable = await market(
        kernel, "ledger", "check-proof", str(proof), "--jwks", str(jwks), offline=True
    )
    assert (unreadable.returncode, unreadable.stderr[:13]) == (1, "There are no ")


async def test_unknown_transfers_are_not_proved(kernel: Kernel, proved: str) -> None:
    unknown = await market(kernel, "ledger", "prove", show("txn", new_id()))
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "No such transfer" in unknown.stderr
    malformed = await market(kernel, "ledger", "prove", "txn_1")
    assert malformed.returncode == 1
    assert "txn_" in malformed.stderr


async def test_the_ledger_is_exported(kernel: Kernel, proved: str, tmp_path: Path) -> None:
    path = tmp_path / "books.beancount"
    done = await market(kernel, "ledger", "export", "--out", str(path))
    assert done.returncode == 0, done.stderr
    assert "4 postings of 3 accounts, links 1 to 2." in done.stdout.replace("\n", "")
    assert f'transfer-id: "{proved}"' in path.read_text()
    wrong = await market(kernel, "ledger", "export", "--out", str(path), "--format", "xls")
    assert (wrong.returncode, "beancount, csv, json, parquet" in wrong.stderr) == (1, True)


async def test_verify_since_says_what_it_left_out(kernel: Kernel, proved: str) -> None:
    part = await market(kernel, "ledger", "verify", "--since", "1")
    assert part.returncode == 0, part.stderr
    assert "Read 1 batches" in part.stdout
    assert "Not checked: batches 1 to 1: their link is trusted as it stands." in part.stdout
    late = await market(kernel, "ledger", "verify", "--since", "2999-01-01")
    assert (late.returncode, "Read 0 batches" in late.stdout) == (0, True)
    whole = await market(kernel, "ledger", "verify", "--since", "2000-01-01T00:00:00+00:00")
    assert (whole.returncode, "Not checked" in whole.stdout) == (0, False)
    wrong = await market(kernel, "ledger", "verify", "--since", "yesterday")
    assert (wrong.returncode, "--since is a link number" in wrong.stderr) == (1, True)
