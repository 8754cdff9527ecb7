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
from uuid import UUID

import httpx
import psycopg
import pytest
import redis

from contracts.metering_scripts import keys_of
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.settings import load_settings
from settlement.verify import verify_ledger
from tests.contracts.factories import Trade, make_trade, mint
from tests.e2e.cache_server import CacheServer
from tests.e2e.kill_targets import Server
from tests.e2e.market_process import MarketProcess
from tests.e2e.meter_readers import PAGE_MAX, Book, Reader, fetch

KILLS = int(os.environ.get("MARKET_METER_KILLS", "1"))
SEED = int(os.environ.get("MARKET_KILL_SEED", "20132"))
KINDS = ("app", "postgres", "valkey", "app+valkey")
READERS = {"exact": 8, "sub_lease": 8, "seller_safe": 4}
BLOCK_UNITS = 200
TERMS: dict[str, dict[str, Any]] = {
    "exact": {"meter_side": "buyer_safe"},
    "sub_lease": {"meter_side": "buyer_safe", "sub_lease_units": BLOCK_UNITS},
    "seller_safe": {"meter_side": "seller_safe"},
}
HOLD_S = 4
SWEEP_TIMEOUT_S = 90
# An answer may arrive this long after the kill: it was in a socket.
ARRIVAL_S = 0.5
# A settled page is durable after the flusher's pause and a commit; on a busy machine, this.
DURABLE_S = 3.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 2.5
QUIET_S = 90
LOT_UNITS = 10_000_000


@dataclass
class Side:
    """A grant of one side of the flag, and its readers' book."""

    trade: Trade
    token: str
    book: Book = field(default_factory=Book)


@dataclass
class Scene:
    """Everything that can be killed, and everybody who reads."""

    server: Server
    cache: CacheServer
    market: MarketProcess
    sides: dict[str, Side]
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
            keys = [keys_of(side.trade.grant_id)[1] for side in self.sides.values()]
            return {(key, name) for key in keys for name in cast(list[str], client.hkeys(key))}

    def _wait_until_swept(self) -> None:
        """What a dead process left lies in Valkey alone, until the sweeper has recorded it."""
        deadline = time.monotonic() + SWEEP_TIMEOUT_S
        while self.left & self._holds():
            assert time.monotonic() < deadline, "not swept"
            time.sleep(0.1)

    def query(self, text: str, *values: object) -> list[Any]:
        """Rows, read as the application."""
        with psycopg.connect(self.server.url) as connection:
            return list(connection.execute(text.encode(), values))


class Readers(threading.Thread):
    """All readers on an event loop of their own."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(name="readers")
        self._readers = [
            Reader(
                *(scene.market.url, side.token, f"{name}-{n:02d}", side.book, SEED + n),
                names=name != "sub_lease",
            )
            for name, side in scene.sides.items()
            for n in range(READERS[name])
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


async def _make_sides(kernel: Kernel) -> dict[str, Side]:
    sides = {}
    for name in READERS:
        trade = await make_trade(kernel, lot_units=LOT_UNITS, price_minor=LOT_UNITS, **TERMS[name])
        sides[name] = Side(trade, await mint(kernel, trade, ttl_s=20_000))
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
                "MARKET_DELIVERY_RATE_PER_MINUTE": "100000000",
            }
            market = MarketProcess(home, addresses)
            market.start()
            settings = load_settings(
                database_url=servers.database_url, redis_url=cache.url, home=home
            )
            sides = asyncio.run(_make_sides(open_kernel(settings)))
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
    _wait_until_quiet(scene)
    totals: dict[str, Any] = {"seed": SEED, **Counter(kind for _, kind in kills)}
    for name, side in scene.sides.items():
        totals[name] = _judge(scene, name, side, kills)
        _check_books(scene, side)
    _tell(capsys, f"chaos-meter: {totals}")
    report = asyncio.run(verify_ledger(scene.server.url))
    assert report.findings == []


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()


def _wait_until_quiet(scene: Scene) -> None:
    """Until what the crashes left has been swept, recorded and turned into money."""
    time.sleep(HOLD_S + DURABLE_S)
    deadline = time.monotonic() + QUIET_S
    before: object = None
    while time.monotonic() < deadline:
        state = scene.query(
            "SELECT delivery_count, settled_units - accrued_units FROM contracts.access_grant "
            "ORDER BY id"
        )
        if state == before and all(waiting == 0 for _, waiting in state):
            return
        before = state
        time.sleep(DURABLE_S)
    raise AssertionError(f"usage is still moving: {before}")


def _judge(scene: Scene, name: str, side: Side, kills: list[tuple[float, str]]) -> dict[str, Any]:
    """The readers' book against the usage records."""
    book = side.book
    bound = PAGE_MAX * READERS[name] + (BLOCK_UNITS if name == "sub_lease" else 0)
    assert book.wrong == [], book.wrong[:5]
    rows = scene.query(
        "SELECT delivery_key, units, assumed FROM contracts.delivery WHERE grant_id = %s",
        side.trade.grant_id,
    )
    billed = {key: units for key, units, _ in rows}
    known = book.received | book.lost
    if name != "sub_lease":
        assert set(billed) <= set(known), "billed what nobody asked for"
    assert all(units == known[key][0] for key, units in billed.items() if key in known)
    undelivered = {key: billed[key] for key in billed if key not in book.received}
    unbilled = [(key, *book.received[key]) for key in book.received if key not in billed]
    after: Counter[int] = Counter()
    units_after: Counter[int] = Counter()
    by_kind: Counter[str] = Counter()
    for key, units, at in unbilled:
        number = _kill_after(kills, at)
        moment, kind = kills[number]
        if kind == "valkey":
            # Its second copy died with Valkey; then the application did, before Postgres had it.
            gone = _app_kill_after(kills, at)
            assert gone - at < DURABLE_S, f"{key}: {kind} lost it, {gone - at} s before the app"
            by_kind["valkey, then app"] += units
            continue
        after[number] += 1
        units_after[number] += units
        by_kind[kind] += units
        assert "app" in kind, f"{key}: {kind} lost it"
        if kind == "app+valkey":
            assert moment - at < DURABLE_S, f"{key} waited {moment - at} s for Postgres"
    for number, count in after.items():
        if kills[number][1] == "app":
            assert name != "seller_safe"
            assert name == "sub_lease" or count <= READERS[name]
            assert units_after[number] <= bound
    if name != "seller_safe":
        assert undelivered == {}
    else:
        assert {key for key, _, assumed in rows if assumed} >= set(undelivered)
        app_kills = sum("app" in kind for _, kind in kills)
        assert len(undelivered) <= READERS[name] * app_kills
        asyncio.run(_fetch_again(scene, side, undelivered))
    return {
        "deliveries": len(book.received),
        "units": sum(units for units, _ in book.received.values()),
        "lost": dict(Counter(_kill_before(kills, at) for _, at in book.lost.values())),
        "lost_by": dict(book.causes),
        "refused": dict(book.refused),
        "billed_undelivered": sum(undelivered.values()),
        "delivered_unbilled": sum(units for _, units, _ in unbilled),
        "unbilled_by_kill": dict(by_kind),
        "unbilled_most_of_one_app_kill": max(
            (units_after[n] for n in after if kills[n][1] == "app"), default=0
        ),
        "unbilled_bound_of_one_app_kill": bound,
    }


def _kill_after(kills: list[tuple[float, str]], at: float) -> int:
    for number, (moment, _) in enumerate(kills):
        if moment > at - ARRIVAL_S:
            return number
    raise AssertionError("unbilled with no kill after it")


def _app_kill_after(kills: list[tuple[float, str]], at: float) -> float:
    return next((moment for moment, kind in kills if moment > at and "app" in kind), float("inf"))


def _kill_before(kills: list[tuple[float, str]], at: float) -> str:
    """What had been killed last when a request was lost."""
    return next((kind for moment, kind in reversed(kills) if moment <= at), "none")


async def _fetch_again(scene: Scene, side: Side, undelivered: dict[str, int]) -> None:
    """What was billed without proof is free under the same id."""
    async with httpx.AsyncClient() as client:
        for key, units in undelivered.items():
            answer = await fetch(client, scene.market.url, side.token, key, units)
            assert answer.status_code == 200, answer.text
            assert answer.headers["Meter-Charged"] == "0"
            assert len(answer.json()["items"]) == units


def _check_books(scene: Scene, side: Side) -> None:
    """Usage records, grant, leases and ledger say the same."""
    grant: UUID = side.trade.grant_id
    agreement: UUID = side.trade.agreement.id
    ((units, count),) = scene.query(
        "SELECT sum(units), count(*) FROM contracts.delivery WHERE grant_id = %s", grant
    )
    ((settled, accrued, deliveries),) = scene.query(
        "SELECT settled_units, accrued_units, delivery_count FROM contracts.access_grant "
        "WHERE id = %s",
        grant,
    )
    assert (settled, accrued, deliveries) == (units, units, count)
    ((used,),) = scene.query(
        "SELECT sum(settled_units) FROM contracts.lease WHERE grant_id = %s", grant
    )
    assert used <= units
    ((receipts, last),) = scene.query(
        "SELECT count(*), max(seq) FROM contracts.receipt WHERE agreement_id = %s", agreement
    )
    assert (receipts, last) == (count, count)
    ((released, total),) = scene.query(
        "SELECT released_minor, total_minor FROM contracts.agreement WHERE id = %s", agreement
    )
    # One unit costs one minor unit, so the ledger's money can be compared as it is.
    assert released == units
    ((escrow,),) = scene.query(
        "SELECT posted FROM settlement.account WHERE kind = 'escrow' AND owner = %s", agreement
    )
    assert escrow == total - units
