"""kill -9 of PostgreSQL, of the application, of both, while clients place, bundle, amend, cancel.

Acknowledged means present exactly once, in that state or a later one; books rebuild to their
checksums, from the open orders and from the journal; holds and open buy orders are the same set;
what a client could not know is answered truthfully by its key. ``make kill-matching`` runs 30
rounds.
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from market.kernel.context import open_kernel
from market.kernel.embedded import EmbeddedServers, start_embedded
from market.kernel.settings import load_settings
from settlement.verify import verify_ledger
from tests.e2e.kill_targets import Server
from tests.e2e.market_process import MarketProcess
from tests.e2e.matching_audit import Told, audit
from tests.e2e.matching_traders import Trader
from tests.market.matching.bundle_factories import open_plans
from tests.market.parties.factories import Member

ROUNDS = int(os.environ.get("MARKET_MATCHING_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("MARKET_KILL_SEED", "20131"))
KINDS = ("postgres", "application", "both")
PAUSE_MIN_S, PAUSE_MAX_S = 0.3, 3.0
BUYERS, SELLERS = 6, 3
FUNDS = 1_000_000_000_000
ASKED_AGAIN = 100
ANSWERS_MIN = 5
BUSY_TIMEOUT_S = 120


@dataclass
class Scene:
    """Everything that can be killed, and everybody who trades."""

    server: Server
    market: MarketProcess
    traders: list[tuple[Member, Trader]]

    def kill(self, kind: str) -> None:
        """At once, whatever they are doing."""
        if kind != "application":
            self.server.kill()
        if kind != "postgres":
            self.market.kill()
        if kind != "application":
            self.server.start()
        if kind != "postgres":
            self.market.start()
        self.market.wait_until_ready()

    def wait_for_trade(self) -> None:
        """Until every client has had some more answers, so that a kill hits a busy market."""
        wanted = {trader: trader.answers + ANSWERS_MIN for _, trader in self.traders}
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while any(trader.answers < count for trader, count in wanted.items()):
            assert time.monotonic() < deadline, "nobody was answered"
            assert all(trader.is_alive() for trader in wanted), [t.failure for t in wanted]
            time.sleep(0.05)

    def audit(self, *, finished: bool = False) -> dict[str, int]:
        """Of all clients' records; they are read first."""
        lines: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for member, trader in self.traders:
            lines[member.party_id] += trader.record.read()
        told = [Told(party_id, found) for party_id, found in lines.items()]
        report = asyncio.run(verify_ledger(self.server.url))
        assert report.findings == [], f"seed {SEED}"
        return asyncio.run(audit(self.server.url, told, finished=finished))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    home = tmp_path / "market"
    home.mkdir()
    with start_embedded(tmp_path / "servers") as servers:
        market = MarketProcess(
            home,
            {
                "MARKET_DATABASE_URL": servers.database_url,
                "MARKET_OWNER_DATABASE_URL": servers.owner_database_url,
                "MARKET_REDIS_URL": servers.redis_url,
            },
        )
        market.start()
        plans, buyers, seller = asyncio.run(_people(servers, home))
        members = [(buyer, "buy") for buyer in buyers] + [(seller, "sell")] * SELLERS
        traders = [
            (
                member,
                Trader(
                    market.url,
                    tmp_path,
                    f"{side} {number}",
                    side=side,
                    plans=plans,
                    credential={
                        "client_id": member.client_id,
                        "client_secret": member.client_secret,
                    },
                    seed=SEED,
                ),
            )
            for number, (member, side) in enumerate(members)
        ]
        yield Scene(Server(servers, tmp_path / "servers"), market, traders)
        for _, trader in traders:
            trader.close()
        market.stop()


async def _people(servers: EmbeddedServers, home: Path) -> tuple[list[str], list[Member], Member]:
    kernel = open_kernel(
        load_settings(
            database_url=servers.database_url,
            owner_database_url=servers.owner_database_url,
            redis_url=servers.redis_url,
            home=home,
        )
    )
    try:
        scene, other = await open_plans(kernel, 2)
        buyers = [await scene.buyer(FUNDS) for _ in range(BUYERS)]
        return [scene.plan, other.plan], buyers, scene.seller
    finally:
        await kernel.close()


def test_kills_lose_and_double_no_order(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    chance, kills = random.Random(SEED), Counter[str]()
    for _, trader in scene.traders:
        trader.start()
    try:
        for number in range(ROUNDS):
            scene.wait_for_trade()
            time.sleep(chance.uniform(PAUSE_MIN_S, PAUSE_MAX_S))
            kind = KINDS[number % len(KINDS)]
            scene.kill(kind)
            kills[kind] += 1
            _tell(capsys, f"round {number + 1}: {kind} killed: {scene.audit()}")
    finally:
        for _, trader in scene.traders:
            trader.finish()
    assert [trader.failure for _, trader in scene.traders] == [None] * len(scene.traders)
    totals = scene.audit(finished=True)
    assert totals["bundles"] > 0
    _ask_again(scene, chance)
    assert scene.audit(finished=True) == totals
    for proof in (("ledger", "verify"), ("matching", "replay", "--verify-all")):
        done = scene.market.command(*proof)
        assert done.returncode == 0, done.stdout + done.stderr
    _tell(capsys, f"kills: { ({'seed': SEED, **kills, **totals}) }")


def _ask_again(scene: Scene, chance: random.Random) -> None:
    """By their keys, those whose outcome was unknown first: the same order, and no new one."""
    lines = [
        (trader, line)
        for _, trader in scene.traders
        for line in trader.record.read()
        if line["act"] in ("place", "bundle")
    ]
    chance.shuffle(lines)
    lines.sort(key=lambda item: not item[1]["unsure"])
    for trader, line in lines[:ASKED_AGAIN]:
        answer = trader.repeat(line)
        assert answer.status_code == 201, answer.text
        assert answer.headers["Idempotency-Replayed"] == "true"
        found = answer.json()
        assert found["id"] == line["id"]
        if line["act"] == "place":
            assert found["status"] == line["status"]


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()
