"""Several ``market serve`` beside a ``market worker``, on the servers of the test run."""

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from market.kernel.context import Kernel
from market.kernel.settings import Settings
from tests.e2e.market_process import MarketProcess
from tests.market.matching.factories import scalar
from tests.market.parties.factories import Member

LATER = frozenset({502, 503, 504})
ATTEMPTS_MAX = 1_200
PAUSE_S = 0.1
# A writer that is silent in mid-transaction keeps the others out for 30 s; here for 3.
IMPATIENT = (
    "from market.matching import batch, engine; batch.FROZEN_WRITER_S = 3; "
    "engine.FROZEN_WRITER_S = 3; from market.cli import app; app()"
)


class ApiProcess(MarketProcess):
    """``market serve``."""

    program: Sequence[str] = ("-c", IMPATIENT, "serve")

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        psutil.Process(self.pid).send_signal(signal.SIGSTOP)
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            pass

    def thaw(self) -> None:
        """SIGCONT."""
        psutil.Process(self.pid).send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Not ended and not frozen."""
        assert self._process is not None
        return (
            self._process.poll() is None
            and psutil.Process(self.pid).status() != psutil.STATUS_STOPPED
        )

    def end(self) -> None:
        """Whatever its state."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self._process.kill()
            self._process.wait()

    def said(self, event: str) -> bool:
        """Whether a line of its log has this."""
        return event in (self.home / "process.log").read_text()


@dataclass
class Crew:
    """The processes, and a client that asks any of them."""

    kernel: Kernel
    processes: list[ApiProcess]
    client: httpx.AsyncClient
    turns: "itertools.count[int]" = field(default_factory=itertools.count)

    async def owner(self) -> ApiProcess:
        """The process that holds the lease now."""
        for _ in range(ATTEMPTS_MAX):
            holder = await scalar(
                self.kernel,
                "SELECT holder FROM matching.lease WHERE expires_at > clock_timestamp()",
            )
            for process in self.processes:
                if process.alive and holder and holder.split("/")[1] == str(process.pid):
                    return process
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("no process owns the engine")

    async def others(self) -> list[ApiProcess]:
        """All but the owner."""
        owner = await self.owner()
        return [process for process in self.processes if process is not owner]

    async def post(
        self, member: Member, body: Mapping[str, Any], *, key: str, at: ApiProcess | None = None
    ) -> httpx.Response:
        """POST /v1/orders, repeated under its key at the next process until it is answered."""
        headers = member.headers(key)
        for _ in range(ATTEMPTS_MAX):
            process = at or self.processes[next(self.turns) % len(self.processes)]
            try:
                answer = await self.client.post(
                    f"{process.url}/v1/orders", json=dict(body), headers=headers
                )
            except httpx.TransportError:
                at = None
            else:
                if answer.status_code not in LATER:
                    return answer
                assert "Retry-After" in answer.headers
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("the order was never answered")


def environment(settings: Settings) -> dict[str, str]:
    """What all processes are told."""
    assert settings.database_url is not None
    assert settings.owner_database_url is not None
    assert settings.redis_url is not None
    return {
        "MARKET_DATABASE_URL": settings.database_url,
        "MARKET_OWNER_DATABASE_URL": settings.owner_database_url,
        "MARKET_REDIS_URL": settings.redis_url,
        "MARKET_ENGINE_LEASE_TTL_S": "4",
        "MARKET_DATABASE_POOL_SIZE": "6",
        "MARKET_SIGNING_KEY_DIR": str(settings.home / "keys"),
    }


@asynccontextmanager
async def crew_of(kernel: Kernel, folder: Path, count: int) -> AsyncIterator[Crew]:
    """``count`` API processes and a worker; all are gone at the end."""
    named = environment(kernel.settings)
    processes = []
    for number in range(count):
        home = folder / f"api-{number}"
        home.mkdir(parents=True)
        processes.append(ApiProcess(home, named))
    worker = _start_worker(folder, processes[0])
    try:
        await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            yield Crew(kernel, processes, client)
    finally:
        for process in processes:
            process.end()
        worker.terminate()
        worker.wait(30)


def _start_worker(folder: Path, beside: ApiProcess) -> subprocess.Popen[bytes]:
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "market.cli", "worker"],
            env={**beside._environment(), "MARKET_HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
