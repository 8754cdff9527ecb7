"""kill -9 of PostgreSQL, of the application, of both, while clients post money.

Acknowledged means present exactly once; a command whose outcome its client could not know is
answered truthfully by its key. Clients post through HTTP (top-ups) and through a LedgerWriter in
a process of their own; both keep a record on disk. ``make kill-ledger`` runs 30 rounds.
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from market.kernel.embedded import start_embedded
from settlement.verify import verify_ledger
from tests.e2e.kill_targets import TOP_UP_MINOR, LedgerClient, Payer, Server
from tests.e2e.ledger_client import CYCLE, PREFIX
from tests.e2e.market_process import MarketProcess
from tests.settlement.machine.invariants import VIOLATIONS

ROUNDS = int(os.environ.get("MARKET_KILL_ROUNDS", "6"))
SEED = int(os.environ.get("MARKET_KILL_SEED", "20131"))
KINDS = ("postgres", "application", "both")
PAUSE_MIN_S, PAUSE_MAX_S = 0.3, 3.0
LANES = 8
PAYERS = 3


@dataclass
class Scene:
    """Everything that can be killed, and everybody who pays."""

    server: Server
    market: MarketProcess
    client: LedgerClient
    payers: list[Payer]

    def kill(self, kind: str) -> None:
        """At once, whatever they are doing."""
        if kind != "application":
            self.server.kill()
        if kind != "postgres":
            self.market.kill()
            self.client.kill()
        if kind != "application":
            self.server.start()
        if kind != "postgres":
            self.client.start()
            self.market.start()
        self.market.wait_until_ready()

    def query(self, text: str, *values: object) -> list[Any]:
        """Rows, read as the application."""
        with psycopg.connect(self.server.url) as connection:
            return list(connection.execute(text.encode(), values))


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
        rules = httpx.get(f"{market.url}/v1/rules").json()["version"]
        payers = [Payer(market.url, tmp_path, f"Payer {n}", rules) for n in range(PAYERS)]
        client = LedgerClient(servers.database_url, tmp_path, LANES)
        made = Scene(Server(servers, tmp_path / "servers"), market, client, payers)
        yield made
        market.stop()


def test_kills_lose_and_double_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    chance, kills = random.Random(SEED), Counter[str]()
    scene.client.start()
    for payer in scene.payers:
        payer.start()
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(PAUSE_MIN_S, PAUSE_MAX_S))
            kind = KINDS[number % len(KINDS)]
            scene.kill(kind)
            kills[kind] += 1
            _verify(scene)
            _tell(capsys, f"round {number + 1}: {kind} killed, ledger verified")
    finally:
        scene.client.finish()
        for payer in scene.payers:
            payer.finish()
    _verify(scene)
    done = scene.market.command("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    totals = {"seed": SEED, **kills, **_check_direct(scene), **_check_top_ups(scene)}
    _tell(capsys, f"kills: {totals}")


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()


def _verify(scene: Scene) -> None:
    report = asyncio.run(verify_ledger(scene.server.url))
    assert report.findings == [], f"seed {SEED}"
    ((*counts,),) = scene.query(VIOLATIONS)
    assert not any(counts), f"seed {SEED}: {counts}"


def _check_direct(scene: Scene) -> dict[str, int]:
    """The record of the LedgerWriter's client against the ledger, key by key."""
    lines = scene.client.record.read()
    answers = {line["key"]: (line["transfer"], line["code"]) for line in lines}
    assert len(answers) == len(lines)
    booked = scene.query(
        "SELECT key, transfer_id::text, code FROM settlement.command WHERE key LIKE %s",
        f"{PREFIX}:%",
    )
    assert {key: (transfer, code) for key, transfer, code in booked} == answers
    unsure = [line for line in lines if line["unsure"]]
    found = [line for line in unsure if line["known"] is not None]
    for line in found:
        assert line["replayed"]
        assert line["known"] == {name: line[name] for name in ("key", "transfer", "code")}
    assert all(not line["replayed"] for line in lines if not line["unsure"])
    steps = Counter(int(line["key"].split(":")[2]) % CYCLE for line in lines)
    refused = [line for line in lines if line["code"] is not None]
    assert len(refused) == steps[2]
    ((fees,),) = scene.query("SELECT posted FROM settlement.account WHERE kind = 'fees'")
    assert fees == 3 * steps[1] + steps[4]
    return {"direct": len(lines), "unknown": len(unsure), "of_these_booked": len(found)}


def _check_top_ups(scene: Scene) -> dict[str, int]:
    """Each acknowledged top-up is credited once, and nothing else is."""
    total = 0
    for payer in scene.payers:
        assert payer.failure is None, payer.failure
        lines = payer.record.read()
        assert all(line["status"] == "succeeded" for line in lines)
        told = {line["id"].removeprefix("top_") for line in lines}
        assert len(told) == len(lines)
        party = payer.party_id.removeprefix("pty_")
        rows = scene.query("SELECT id FROM settlement.top_up WHERE party_id = %s::uuid", party)
        assert {row[0].hex for row in rows} == told
        keys = [f"top_up:{identity}:credit" for identity in told]
        ((count,),) = scene.query(
            "SELECT count(*) FROM settlement.command WHERE key = ANY(%s) AND code IS NULL", keys
        )
        assert count == len(told)
        ((posted, seq),) = scene.query(
            "SELECT posted, seq FROM settlement.account WHERE owner = %s::uuid", party
        )
        assert (posted, seq) == (TOP_UP_MINOR * len(told), len(told))
        total += len(told)
    return {"top_ups": total}
