"""Run the whole machine once, with one seed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import seed as seeded, settings as profile
from hypothesis.stateful import run_state_machine_as_test

from market.kernel.settings import Settings
from tests.settlement.machine.escrow import EscrowRules
from tests.settlement.machine.faults import FaultRules
from tests.settlement.machine.money import MoneyRules
from tests.settlement.machine.world import LedgerWorld, Tally, open_world


class LedgerMachine(MoneyRules, EscrowRules, FaultRules):
    """All rules in one machine."""


@contextmanager
def opened(app_url: str, superuser_url: str, settings: Settings) -> Iterator[LedgerWorld]:
    """The machine's world, on an event loop of its own (rules are not coroutines)."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        world = runner.run(open_world(app_url, superuser_url, settings))
        LedgerMachine.runner, LedgerMachine.world = runner, world
        try:
            yield world
        finally:
            runner.run(world.close())


def run_once(world: LedgerWorld, seed: int, profile_name: str) -> Tally:
    """One run with a seed; returns what it really did. Names the seed whatever happens."""
    world.tally = Tally()
    sys.stdout.write(f"\nledger machine: HYPOTHESIS_SEED={seed}\n")
    sys.stdout.flush()
    # A class of its own each time: the seed is kept on it.
    machine = seeded(seed)(type(f"LedgerMachine{seed}", (LedgerMachine,), {}))
    try:
        run_state_machine_as_test(machine, settings=profile.get_profile(profile_name))
    except BaseException as error:
        error.add_note(f"Reproduce it with HYPOTHESIS_SEED={seed} (docs/proving.md).")
        raise
    finally:
        sys.stdout.write(f"ledger machine: {world.tally}\n")
        sys.stdout.flush()
    return world.tally
