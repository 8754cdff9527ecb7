"""The walk of one trade over real HTTP on a whole market process, and its public clients."""

import io
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas
import psycopg
import pytest
from rich.console import Console

from market.demo.data import FLIGHTS_ROWS, prepare
from market.demo.run import play
from market.demo.stage import Stage
from market.demo.transcript import Transcript
from market.kernel.embedded import start_embedded
from tests.e2e.market_process import MarketProcess


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketProcess]:
    made = MarketProcess(tmp_path_factory.mktemp("walk"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def transcript() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def stage(market: MarketProcess, transcript: io.StringIO) -> Stage:
    operator = market.operator()
    files = prepare(market.home / "data", lambda _: None)
    console = Console(file=transcript, width=200)
    return play(market.url, operator, files, Transcript(console), run="walk")


def test_the_transcript_tells_the_whole_walk(stage: Stage, transcript: io.StringIO) -> None:
    text = transcript.getvalue()
    for words in (
        f"{FLIGHTS_ROWS:,} rows profiled",
        "certificate issued",
        "3 filled at 12.50 CNY, 2 rest in the book",
        "402 quota_exhausted",
        "410 token_revoked",
        "410 token_expired",
        "2,000 rows used = 25.00 CNY released",
        "403 arbiter_conflict",
        "the agreement is settled, access revoked",
        "chain checked",
    ):
        assert words in text


def test_money_of_the_walk_is_exact(stage: Stage, transcript: io.StringIO) -> None:
    # 25.00 used: fee 5 % = 1.25, of the rest 20 % = 4.75 to the contributor, 19.00 to the seller.
    assert "19.00 CNY paid out to its bank" in transcript.getvalue()
    assert transcript.getvalue().count(" 4.75 CNY") == 1


def test_the_ledger_verifies_from_the_command_line(market: MarketProcess, stage: Stage) -> None:
    done = market.command("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The ledger verifies" in done.stdout


def test_certificate_verifies_offline(market: MarketProcess, stage: Stage, tmp_path: Path) -> None:
    listing = stage.products["flights"].listing_id
    with httpx.Client(base_url=market.url, timeout=30) as http:
        item = http.get(f"/v1/catalog/{listing}").json()
        certificate = http.get(f"/v1/certificates/{item['certificate_id']}").json()
        keys = http.get("/.well-known/jwks.json").text
    (tmp_path / "jwks.json").write_text(keys)
    (tmp_path / "certificate.jws").write_text(certificate["jws"])
    arguments = (str(tmp_path / "certificate.jws"), "--jwks", str(tmp_path / "jwks.json"))
    good = market.command("certificate", "verify", *arguments)
    assert good.returncode == 0, good.stderr
    assert item["sha256"] in good.stdout
    forged = certificate["jws"][:-6] + "AAAAAA"
    (tmp_path / "certificate.jws").write_text(forged)
    assert market.command("certificate", "verify", *arguments).returncode == 1


def test_rows_by_plain_curl(market: MarketProcess, stage: Stage) -> None:
    done = subprocess.run(
        [
            "curl",
            "--silent",
            "--fail",
            "--header",
            f"Authorization: Bearer {stage.tokens['risk model']['token']}",
            "--header",
            "Accept: text/csv",
            f"{market.url}/v1/delivery/rows?select=carrier,flight&limit=3",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].replace('"', "") == "carrier,flight"
    assert len(lines) == 4


def test_rows_by_pandas_over_http(market: MarketProcess, stage: Stage) -> None:
    frame = pandas.read_csv(
        f"{market.url}/v1/delivery/rows?select=month,day,dep_delay&limit=4",
        storage_options={
            "Authorization": f"Bearer {stage.tokens['risk model']['token']}",
            "Accept": "text/csv",
        },
    )
    assert list(frame.columns) == ["month", "day", "dep_delay"]
    assert frame.shape == (4, 3)


def test_console_docs_and_metrics_are_served(market: MarketProcess) -> None:
    with httpx.Client(base_url=market.url, timeout=30, follow_redirects=True) as http:
        for path in ("/docs", "/redoc", "/openapi.json", "/metrics", "/console"):
            assert http.get(path).status_code == 200, path
        page = http.get("/docs").text
        assert "cdn." not in page
        assert http.get("/docs/assets/swagger-ui-bundle.js").status_code == 200


def test_the_walk_is_not_taken_for_abuse(market: MarketProcess, stage: Stage) -> None:
    """The worker examines its trades a minute later, and raises nothing."""
    with start_embedded(market.home) as servers, psycopg.connect(servers.owner_database_url) as c:
        c.autocommit = True
        c.execute("UPDATE kernel.sandbox_clock SET ahead = ahead + interval '2 minutes'")
        ((traded,),) = c.execute("SELECT max(seq) FROM matching.trade")
        deadline = time.monotonic() + 60
        while list(c.execute("SELECT trade_seq FROM surveillance.progress")) != [(traded,)]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert list(c.execute("SELECT rule, figures FROM surveillance.alert")) == []
