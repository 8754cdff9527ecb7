"""The real ledger against its shadow, under faults: see docs/proving.md."""

import os

import pytest

from market.kernel.settings import Settings
from tests.settlement.conftest import CI_PROFILE, Guarded
from tests.settlement.machine.run import opened, run_once

# Fixed: a run that fails for somebody else's change must not depend on luck. ``make soak`` rolls.
SEED = int(os.environ.get("HYPOTHESIS_SEED", "20131"))
STEPS_MIN = 2_000
# Each of these must have happened, or the machine has lost a part of what it is to prove.
RULES = [
    "transfer",
    "hold",
    "capture",
    "end_hold",
    "reversal",
    "same_key",
    "time_passes",
    "reverse_by_name",
    "in_one_list",
    "linked",
    "too_late",
    "reverse_twice",
    "at_once",
    "pay_in",
    "release",
    "refund",
    "freeze",
    "rule_upon",
    "close",
    "cancel_midway",
    "leave_the_queue",
    "cut_anywhere_post",
    "cut_anywhere_writer",
    "contend_deadlock",
    "contend_lock_timeout",
    "contend_statement_timeout",
    "contend_no_connection",
    "contend_old_snapshot",
] + [
    f"cut_at_commit_{how}_{via}"
    for how in ("before", "after", "racing")
    for via in ("post", "writer")
]


def test_the_ledger_is_its_shadow(
    guarded: Guarded, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        opened(guarded.app_url, guarded.superuser_url, settings) as world,
        capsys.disabled(),
    ):
        tally = run_once(world, SEED, CI_PROFILE)
    assert tally.steps >= STEPS_MIN
    assert not [name for name in RULES if not tally.rules.get(name)]
    assert tally.refused > STEPS_MIN / 10
    assert tally.replayed > STEPS_MIN / 40
    assert tally.unknown > STEPS_MIN / 40
