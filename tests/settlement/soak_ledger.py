"""``make soak``: the machine of test_state_machine.py, with new seeds until time is up.

Not named test_…, so that only ``make soak`` runs it.
"""

import os
import random
import sys
import time
from dataclasses import asdict
from typing import Any

from market.kernel.settings import Settings
from tests.settlement.conftest import SOAK_PROFILE, Guarded
from tests.settlement.machine.run import opened, run_once

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
SEED_MAX = 2**32


def test_soak(guarded: Guarded, settings: Settings) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    given = os.environ.get("HYPOTHESIS_SEED")
    totals: dict[str, Any] = {"seeds": 0}
    with opened(guarded.app_url, guarded.superuser_url, settings) as world:
        while time.monotonic() < deadline:
            seed = int(given) if given else random.SystemRandom().randrange(SEED_MAX)
            tally = run_once(world, seed, SOAK_PROFILE)
            totals["seeds"] += 1
            for name, value in asdict(tally).items():
                if isinstance(value, int):
                    totals[name] = totals.get(name, 0) + value
            if given:
                break
    sys.stdout.write(f"soak: {totals}\n")
    assert totals["seeds"] > 0
