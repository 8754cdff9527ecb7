"""The command line as a user meets it: processes, exit codes, printed words."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from market.kernel import migrations

HELP_LIMIT_S = 1.0
COMMAND_TIMEOUT_S = 90
MARKET = [sys.executable, "-m", "market.cli"]


def environment(home: Path) -> dict[str, str]:
    """Ours without MARKET_ addresses, so that the embedded servers are used."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MARKET_")}
    return {**kept, "MARKET_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*MARKET, *arguments],
        capture_output=True,
        text=True,
        env=environment(home),
        timeout=COMMAND_TIMEOUT_S,
    )


@dataclass
class Running:
    home: Path
    url: str
    process: "subprocess.Popen[str]"


def start_up(home: Path) -> Running:
    log_path = home.with_name("up.log")
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [*MARKET, "up"], stdout=subprocess.PIPE, stderr=log, text=True, env=environment(home)
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("Ready at http://127.0.0.1:"):
        process.kill()
        process.communicate()
        pytest.fail(f"market up printed {line!r}, and: {log_path.read_text()[-2000:]}")
    return Running(home, line.split()[2], process)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_up(tmp_path_factory.mktemp("cli") / ".market")
    yield running
    assert end(running, signal.SIGTERM) == 0


def end(running: Running, how: signal.Signals) -> int:
    """Stop and return the exit code; no server state may be left."""
    running.process.send_signal(how)
    running.process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert list(running.home.glob("*/state.json")) == []
    return running.process.returncode


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(json.load(answer))


def test_help_is_quick_and_lists_the_commands(tmp_path: Path) -> None:
    run(tmp_path, "--help")  # Writes the bytecode.
    started_at = time.monotonic()
    done = run(tmp_path, "--help")
    elapsed_s = time.monotonic() - started_at
    assert done.returncode == 0
    commands = "up serve worker migrate demo openapi operator certificate ledger"
    assert [name for name in commands.split() if f" {name} " not in done.stdout] == []
    # Three times the house limit: the suite's other workers share the processors.
    assert elapsed_s < HELP_LIMIT_S * 3
    assert list(tmp_path.iterdir()) == []


def test_up_serves_and_reports_ready(up: Running) -> None:
    assert get(f"{up.url}/livez")["status"] == "ok"
    assert get(f"{up.url}/readyz")["cache"] == "up"


def test_first_operator_is_made_once(up: Running) -> None:
    made = run(up.home, "operator", "create", "Exchange")
    assert made.returncode == 0, made.stderr
    credential = json.loads(made.stdout)
    assert sorted(credential) == ["client_id", "client_secret"]
    assert credential["client_id"].startswith("crd_")

    again = run(up.home, "operator", "create", "Exchange")
    assert again.returncode == 1
    assert again.stdout == ""
    assert "Traceback" not in again.stderr


def test_an_empty_ledger_verifies_beside_the_running_api(up: Running) -> None:
    done = run(up.home, "ledger", "verify")
    assert done.returncode == 0, done.stderr
    assert "The ledger verifies" in done.stdout
    assert get(f"{up.url}/livez")["status"] == "ok"


def test_a_past_day_is_reconciled_and_an_unknown_webhook_named(up: Running) -> None:
    done = run(up.home, "settlement", "reconcile", "--day", "2026-01-31")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rail"], found["since"], found["difference_count"]) == (
        "sandbox",
        "2026-01-31T00:00:00Z",
        0,
    )
    early = run(up.home, "settlement", "reconcile", "--day", "2999-01-01")
    assert early.returncode == 1
    assert "Only a past day" in early.stderr
    assert "Traceback" not in early.stderr
    event = "00000000-0000-7000-8000-000000000000"
    missing = run(up.home, "settlement", "replay-webhook", event, "--reason", "a test")
    assert missing.returncode == 1
    assert "No such webhook event" in missing.stderr


def test_a_wrong_certificate_is_refused_offline(up: Running, tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(get(f"{up.url}/.well-known/jwks.json")))
    certificate = tmp_path / "certificate.jws"
    certificate.write_text("e30.e30.e30")
    home = tmp_path / "unused"
    done = run(home, "certificate", "verify", str(certificate), "--jwks", str(keys))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not home.exists()

    keys.write_text("not JSON")
    done = run(home, "certificate", "verify", str(certificate), "--jwks", str(keys))
    assert done.returncode == 1
    assert "is not JSON" in done.stderr


def test_a_taken_port_is_one_line(up: Running, tmp_path: Path) -> None:
    port = up.url.rsplit(":", 1)[1]
    done = run(tmp_path / "unused", "serve", "--port", port)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "unused").exists()


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MARKET, "migrate"],
        capture_output=True,
        text=True,
        env={**environment(tmp_path / "unused"), "MARKET_ENVIRONMENT": "production"},
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 1
    assert "production needs MARKET_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "unused").exists()


def test_ctrl_c_ends_orderly_and_the_next_command_finds_the_data(tmp_path: Path) -> None:
    running = start_up(tmp_path / ".market")
    assert len(list(running.home.glob("*/state.json"))) == 2
    assert end(running, signal.SIGINT) == 0
    done = run(running.home, "migrate")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"The schema is at revision {migrations.head()}.\n"
