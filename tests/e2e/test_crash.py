"""kill -9 of the API (and with it the embedded servers) at 20 random moments of the walk.

After every restart the ledger must verify; at the end every acknowledged order and trade is
there exactly once, although the participants repeated whatever was not answered.
"""

import io
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from rich.console import Console

from market.demo.client import Participant
from market.demo.data import prepare
from market.demo.run import play
from market.demo.stage import Stage
from market.demo.transcript import Transcript
from tests.e2e.market_process import MarketProcess

KILLS = int(os.environ.get("MARKET_CRASH_KILLS", "20"))
SEED = int(os.environ.get("MARKET_CRASH_SEED", "20131"))
WALKS_MAX = 12
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 2.5


class Killer(threading.Thread):
    """Kills and restarts the market at random moments, and verifies the ledger each time."""

    def __init__(self, market: MarketProcess, seed: int) -> None:
        super().__init__(name="killer")
        self._market = market
        self._random = random.Random(seed)
        self._finished = threading.Event()
        self.kills = 0
        self.reports: list[tuple[int, str]] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while self.kills < KILLS and not self._finished.is_set():
                time.sleep(self._random.uniform(PAUSE_MIN_S, PAUSE_MAX_S))
                self._market.kill()
                self.kills += 1
                self._market.start()
                done = self._market.command("ledger", "verify")
                self.reports.append((done.returncode, done.stdout + done.stderr))
        except BaseException as error:  # noqa: BLE001 - reported by the test
            self.failure = error

    def finish(self) -> None:
        """No more kills; wait for the last restart."""
        self._finished.set()
        self.join()


@pytest.fixture
def market(tmp_path: Path) -> Iterator[MarketProcess]:
    made = MarketProcess(tmp_path)
    made.start()
    yield made
    made.stop()


class Witness(Participant):
    """Remembers what the exchange acknowledged."""

    acknowledged: ClassVar[list[dict[str, Any]]] = []

    def post(self, path: str, body: Any, **options: Any) -> Any:
        answer = super().post(path, body, **options)
        if path == "/v1/orders":
            self.acknowledged.append(answer)
        return answer


def test_kill_at_twenty_moments_of_the_walk(
    market: MarketProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Witness, "acknowledged", [])
    monkeypatch.setattr("market.demo.stage.Participant", Witness)
    operator = market.operator()
    files = prepare(tmp_path / "data", lambda _: None)
    killer = Killer(market, SEED)
    killer.start()
    stages: list[Stage] = []
    for number in range(WALKS_MAX):
        transcript = Transcript(Console(file=io.StringIO()))
        stages.append(play(market.url, operator, files, transcript, run=f"crash-{number}"))
        if killer.kills >= KILLS or not killer.is_alive():
            break
    killer.finish()
    assert killer.failure is None
    assert killer.kills == KILLS, f"seed {SEED}"
    assert [code for code, _ in killer.reports] == [0] * KILLS, killer.reports
    assert market.command("ledger", "verify").returncode == 0
    _check_books(market, len(stages))


def _check_books(market: MarketProcess, walks: int) -> None:
    """Each walk places five orders and makes three trades, however often it was repeated."""
    acknowledged = Witness.acknowledged
    assert len(acknowledged) == 5 * walks
    found = _rows(market, 'SELECT id, filled_lots FROM matching."order"')
    stored = {row[0].hex: row[1] for row in found}
    assert len(stored) == 5 * walks
    for order in acknowledged:
        assert stored[order["id"].removeprefix("ord_")] >= order["filled_lots"]
    trades = {row[0].hex for row in _rows(market, "SELECT id FROM matching.trade")}
    assert len(trades) == 3 * walks
    told = {trade["trade_id"].removeprefix("trd_") for o in acknowledged for trade in o["trades"]}
    assert told <= trades
    doubled = _rows(
        market,
        "SELECT a.id, count(*) FROM settlement.posting p JOIN settlement.account a"
        " ON a.id = p.account_id WHERE a.kind = 'escrow' AND p.amount > 0"
        " GROUP BY a.id HAVING count(*) > 1",
    )
    assert doubled == []


def _rows(market: MarketProcess, query: str) -> list[Any]:
    from market.kernel.embedded import start_embedded

    with start_embedded(market.home) as servers, psycopg.connect(servers.owner_database_url) as c:
        return list(c.execute(query))
