"""A Valkey that can be killed and comes back empty, on the same port."""

import subprocess
import time

import redis

from market.kernel.embedded_valkey import server_binary
from tests.e2e.market_process import free_port

START_TIMEOUT_S = 60


class CacheServer:
    """Memory only, like the embedded one, so that a restart means empty and never stale."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers. Raises AssertionError."""
        lines = ("bind 127.0.0.1", f"port {self.port}", 'save ""', "appendonly no")
        self._process = subprocess.Popen(
            [str(server_binary()), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._process.stdin.write("\n".join(lines).encode() + b"\n")
        self._process.stdin.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.RedisError:
                time.sleep(0.02)
        raise AssertionError("Valkey did not start")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
