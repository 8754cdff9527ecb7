"""kill -9 of the application, Valkey, PostgreSQL, and application with Valkey, under readers.

Readers write down every page that reached them and every request that was lost; afterwards that
is compared with the usage records, and those with the grant, its leases and the ledger. What is
allowed is stated in docs/metering.md. ``make chaos-meter`` kills each 30 times.
"""

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from contracts.metering_scripts import keys_of
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.settings import load_settings
from settlement.verify import verify_ledger
from tests.e2e.cache_server import CacheServer
from tests.e2e.kill_targets import Server
from tests.e2e.market_process import MarketProcess
from tests.e2e.meter_audit import DURABLE_S, Audit
from tests.e2e.meter_readers import Reader
from tests.e2e.meter_sides import LIMIT_S, Side, make_sides

KILLS = int(os.environ.get("MARKET_METER_KILLS", "1"))
SEED = int(os.environ.get("MARKET_KILL_SEED", "20132"))
KINDS = ("app", "postgres", "valkey", "app+valkey")
HOLD_S = 4
SWEEP_TIMEOUT_S = 90
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 2.5
QUIET_S = 90


@dataclass
class Scene:
    """Everything that can be killed, and everybody who reads."""

    server: Server
    cache: CacheServer
    market: MarketProcess
    sides: list[Side]
    left: set[tuple[str, str]] = field(default_factory=set)

    def kill(self, kind: str) -> float:
        """At once, whatever they are doing; gives the moment. Returns when all are back."""
        if kind == "valkey":
            self._wait_until_swept()
        at = time.time()
        if "app" in kind:
            self.market.kill()
        if kind == "app":
            self.left = self._holds()
        if "valkey" in kind:
            self.cache.kill()
            self.cache.start()
        if kind == "postgres":
            self.server.kill()
            self.server.start()
        if "app" in kind:
            self.market.start()
        self.market.wait_until_ready()
        return at

    def _holds(self) -> set[tuple[str, str]]:
        """What lies in Valkey of deliveries and blocks: (key, id)."""
        with redis.Redis.from_url(self.cache.url, decode_responses=True) as client:
            keys = [keys_of(side.trade.grant_id)[1] for side in self.sides]
            return {(key, name) for key in keys for name in cast(list[str], client.hkeys(key))}

    def _wait_until_swept(self) -> None:
        """What a dead process left lies in Valkey alone, until the sweeper has recorded it."""
        deadline = time.monotonic() + SWEEP_TIMEOUT_S
        while self.left & self._holds():
            assert time.monotonic() < deadline, "not swept"
            time.sleep(0.1)


class Readers(threading.Thread):
    """All readers on an event loop of their own."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(name="readers")
        self._readers = [
            Reader(
                *(scene.market.url, side.token, f"{side.name}-{n:02d}", side.book, SEED + n),
                names=side.names_ids,
            )
            for side in scene.sides
            for n in range(side.readers)
        ]
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()

    def run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(reader.run(self._ended) for reader in self._readers))

        self._loop.run_until_complete(all_of_them())

    def finish(self) -> None:
        """Every request in hand gets its answer."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join()
        self._loop.close()


async def _sell(kernel: Kernel) -> list[Side]:
    sides = await make_sides(kernel)
    await kernel.close()
    return sides


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    home = tmp_path / "market"
    home.mkdir()
    cache = CacheServer()
    cache.start()
    try:
        with start_embedded(tmp_path / "servers", want_redis=False) as servers:
            addresses = {
                "MARKET_DATABASE_URL": servers.database_url,
                "MARKET_OWNER_DATABASE_URL": servers.owner_database_url,
                "MARKET_REDIS_URL": cache.url,
                "MARKET_METER_HOLD_S": str(HOLD_S),
                "MARKET_DELIVERY_TIMEOUT_S": str(LIMIT_S),
                "MARKET_DELIVERY_RATE_PER_MINUTE": "100000000",
            }
            market = MarketProcess(home, addresses)
            market.start()
            settings = load_settings(
                database_url=servers.database_url, redis_url=cache.url, home=home
            )
            sides = asyncio.run(_sell(open_kernel(settings)))
            yield Scene(Server(servers, tmp_path / "servers"), cache, market, sides)
            market.stop()
    finally:
        cache.kill()


def test_kills_charge_for_what_was_delivered(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    kills: list[tuple[float, str]] = []
    readers = Readers(scene)
    readers.start()
    try:
        for number in range(KILLS * len(KINDS)):
            time.sleep(chance.uniform(PAUSE_MIN_S, PAUSE_MAX_S))
            kind = KINDS[number % len(KINDS)]
            kills.append((scene.kill(kind), kind))
            _tell(capsys, f"kill {number + 1}: {kind}")
        time.sleep(PAUSE_MIN_S)
    finally:
        readers.finish()
    audit = Audit(scene.server.url, scene.market.url, kills)
    _wait_until_quiet(audit)
    totals: dict[str, Any] = {"seed": SEED, **Counter(kind for _, kind in kills)}
    for side in scene.sides:
        totals[side.name] = audit.judge(side)
        audit.check_books(side)
    _tell(capsys, f"chaos-meter: {totals}")
    report = asyncio.run(verify_ledger(scene.server.url))
    assert report.findings == []


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()


def _wait_until_quiet(audit: Audit) -> None:
    """Until what the crashes left has been swept, recorded and turned into money."""
    time.sleep(HOLD_S + DURABLE_S)
    deadline = time.monotonic() + QUIET_S
    before: object = None
    while time.monotonic() < deadline:
        state = audit.query(
            "SELECT delivery_count, settled_units - accrued_units FROM contracts.access_grant "
            "ORDER BY id"
        )
        if state == before and all(waiting == 0 for _, waiting in state):
            return
        before = state
        time.sleep(DURABLE_S)
    raise AssertionError(f"usage is still moving: {before}")
