"""Schemathesis against the live API: every operation, all checks, two users kept apart.

MARKET_CONTRACT_EXAMPLES (cases per operation and phase), MARKET_CONTRACT_TIME_S (repeat until the
time is spent) and MARKET_CONTRACT_SEED make a longer or another run.
"""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from contracts.proxy import trials
from contracts.push import targets
from market import serving
from market.kernel.context import open_kernel
from market.kernel.settings import Settings
from market.parties import throttle
from settlement import top_ups
from tests.e2e.api_contract import PHASES, run_contract
from tests.e2e.api_world import ApiWorld, make_world

SEED = int(os.environ.get("MARKET_CONTRACT_SEED", "20131"))
EXAMPLES = int(os.environ.get("MARKET_CONTRACT_EXAMPLES", "5"))
TIME_S = int(os.environ.get("MARKET_CONTRACT_TIME_S", "0")) or None
# The coverage phase alone makes 9,900; with fewer, something was skipped.
CASES_MIN = 8_000
# Operations that did something at least once: 100 of 115 with seed 20131. The others need a state
# or a file that few random stories reach (an appeal, a second arbiter's review, a good upload).
ACCEPTED_MIN = 90
NO_LIMIT = 10**9


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    """The app on a real socket. Limits on guessing would answer 429 to most log-ins."""
    unlimited = settings.model_copy(
        update={
            "rate_limit_per_minute": NO_LIMIT,
            "delivery_rate_per_minute": NO_LIMIT,
            # What the schema allows; a setting may only be stricter.
            "delivery_page_max_rows": 100_000,
            "signup_limit_per_hour": NO_LIMIT,
            "upstream_loopback": True,
        }
    )
    with pytest.MonkeyPatch.context() as patch, serving.bind("127.0.0.1", 0) as listener:
        patch.setattr(throttle, "LOGINS_PER_CLIENT_MINUTE", NO_LIMIT)
        patch.setattr(throttle, "LOGINS_PER_ADDRESS_MINUTE", NO_LIMIT)
        patch.setattr(trials, "PER_MINUTE", NO_LIMIT)
        patch.setattr(targets, "PINGS_PER_MINUTE", NO_LIMIT)
        with serving.in_thread(unlimited, listener) as address:
            yield address


@pytest.fixture(scope="module")
async def world(settings: Settings, url: str) -> AsyncIterator[ApiWorld]:
    kernel = open_kernel(settings)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield await make_world(kernel, client)
    finally:
        await kernel.close()


def test_all_checks_on_all_operations(url: str, world: ApiWorld, tmp_path: Path) -> None:
    sys.stdout.write(f"seed {SEED}\n")
    outcome = run_contract(url, world, tmp_path, seed=SEED, examples=EXAMPLES, max_time_s=TIME_S)
    (tmp_path / "output.txt").write_text(outcome.text)
    assert outcome.code == 0, outcome.text[-20_000:]
    report = outcome.report
    assert report["complete"] is True
    assert report["failures"] == report["errors"] == []
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(
        PHASES, "success"
    )
    operations = report["operations"]
    assert operations["tested"] == operations["total"]
    assert report["test_cases"]["generated"] >= CASES_MIN
    assert len(outcome.accepted()) >= ACCEPTED_MIN


def test_a_planted_hole_between_the_two_users_is_found(
    url: str, world: ApiWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_ups, "may_oversee", lambda _actor, _party_id: True)
    options = ("--include-path-regex", r"^/v1/top-ups(/\{top_up_id\})?$")
    outcome = run_contract(url, world, tmp_path, seed=SEED, examples=EXAMPLES, options=options)
    assert outcome.code == 1
    assert [(failure["code"], failure["operations"]) for failure in outcome.report["failures"]] == [
        ("ST402", ["GET /v1/top-ups/{top_up_id}"])
    ]
