"""What the kill test kills, and the clients that post money meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from market.demo.client import Participant
from market.kernel.embedded import EmbeddedServers
from market.kernel.embedded_postgres import start_postgres
from tests.e2e.ledger_client import Record

TOP_UP_MINOR = 137
CLIENT_END_TIMEOUT_S = 90


class Server:
    """PostgreSQL of our own, durable as in production, so that it can die alone."""

    def __init__(self, servers: EmbeddedServers, home: Path) -> None:
        self._servers = servers
        self._folder = home / "postgres"
        self.url = servers.database_url

    def kill(self) -> None:
        """SIGKILL to the postmaster and to all of its backends, as when the machine stops."""
        state = json.loads((self._folder / "state.json").read_text())
        postmaster = psutil.Process(state["pid"])
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=60)

    def start(self) -> None:
        """Recover, on the same port."""
        assert self._servers.postgres is not None
        self._servers.postgres.stop()
        self._servers.postgres = start_postgres(self._folder, database="market")
        found = self._servers.postgres.port
        assert f":{found}/" in self.url, "came back on another port"


class LedgerClient:
    """``tests.e2e.ledger_client`` as a process that can be killed and started again."""

    def __init__(self, url: str, home: Path, lanes: int) -> None:
        self._command = [sys.executable, "-m", "tests.e2e.ledger_client", url]
        self._path = home / "direct.jsonl"
        self._lanes = lanes
        self._log = home / "client.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.record = Record(self._path)

    def start(self) -> None:
        """Go on where the record ends."""
        unwanted = ("MARKET_", "PYTHONDONTWRITEBYTECODE")
        kept = {n: value for n, value in os.environ.items() if not n.startswith(unwanted)}
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*self._command, str(self._path), str(self._lanes)],
                env=kept,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        self._process.kill()
        self._process.communicate()

    def finish(self) -> None:
        """Every command in hand gets its answer, then the process ends."""
        assert self._process is not None
        self._process.communicate(b"end\n", timeout=CLIENT_END_TIMEOUT_S)
        assert self._process.returncode == 0, self._log.read_text()[-3000:]


class Payer(threading.Thread):
    """Tops up over HTTP, again and again, and records each answer before the next request."""

    def __init__(self, url: str, home: Path, name: str, rules: str) -> None:
        super().__init__(name=name)
        self._person = Participant(url, "kills", name)
        party = {"name": name, "kind": "company", "jurisdiction": "CN", "roles": ["buyer"]}
        self._person.sign_up({**party, "rules_version": rules})
        self._ended = threading.Event()
        self.record = Record(home / f"{name}.jsonl")
        self.failure: BaseException | None = None

    @property
    def party_id(self) -> str:
        """Whose balance grows."""
        return self._person.party_id

    def run(self) -> None:
        money = {"amount_minor": TOP_UP_MINOR, "currency": "CNY"}
        body: Mapping[str, object] = {"money": money, "card": "tok_success"}
        number = 0
        try:
            with self.record.opened():
                while not self._ended.is_set():
                    answer = self._person.post("/v1/top-ups", body, step=f"top-up {number}")
                    self.record.add({"id": answer["id"], "status": answer["status"]})
                    number += 1
        except BaseException as error:  # noqa: BLE001 - reported by the test
            self.failure = error
        finally:
            self._person.close()

    def finish(self) -> None:
        """Wait for the answer to the request in hand."""
        self._ended.set()
        self.join()
