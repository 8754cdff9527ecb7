"""A whole market as its own process, to be killed: ``market up`` on a folder and a fixed port."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

START_TIMEOUT_S = 180


# Below what Linux lends to outgoing connections (32,768 and up): while a killed market is away, a
# client of another test must not be given its port.
PORTS = range(20_000, 32_000)
PORT_TRIES = 100


def free_port() -> int:
    """A port that was free a moment ago; the market must come back on the same one."""
    for _ in range(PORT_TRIES):
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"none of {PORT_TRIES} ports was free")


class MarketProcess:
    """Start, kill -9, start again. Data lives in ``home``; servers are the embedded ones, unless
    ``environment`` names others.
    """

    program: Sequence[str] = ("-m", "market.cli", "up")

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self._named = dict(environment or {})
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def _environment(self) -> dict[str, str]:
        # Without bytecode files each start compiles every module: 4.5 s instead of 2.
        unwanted = ("MARKET_", "PYTHONDONTWRITEBYTECODE")
        kept = {n: value for n, value in os.environ.items() if not n.startswith(unwanted)}
        return {**kept, **self._named, "MARKET_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}

    def start(self) -> None:
        """Start and wait until it is ready. Raises AssertionError with the log when it dies."""
        log = self.home / "process.log"
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, "--port", str(self.port)],
                env=self._environment(),
                stdout=sink,
                stderr=sink,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Returns once ``/readyz`` says so. Raises AssertionError with the log."""
        assert self._process is not None
        log = self.home / "process.log"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"market up ended: {log.read_text()[-3000:]}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"market up was not ready: {log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM and a clean end."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(60) == 0

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another ``market`` command on the same home."""
        return subprocess.run(
            [sys.executable, "-m", "market.cli", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def operator(self, *options: Sequence[str]) -> dict[str, str]:
        """The first operator's credential."""
        made = self.command("operator", "create", "Test Operator")
        assert made.returncode == 0, made.stderr
        credential: dict[str, str] = json.loads(made.stdout)
        return credential
