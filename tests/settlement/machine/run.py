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
    """Run with a seed; returns what was really done.

    A failure is raised with the steps that led to it, also if it does not happen again: clients
    race, so Hypothesis may not be able to repeat it.
    """
    world.tally = Tally()
    sys.stdout.write(f"\nledger machine: HYPOTHESIS_SEED={seed}\n")
    sys.stdout.flush()
    # A class of its own each time: the seed is kept on it.
    machine = seeded(seed)(type(f"LedgerMachine{seed}", (LedgerMachine,), {}))
    try:
        run_state_machine_as_test(machine, settings=profile.get_profile(profile_name))
    except BaseException as error:
        for failure in world.tally.failures[:1]:
            error.add_note(failure)
        error.add_note(f"Reproduce it with HYPOTHESIS_SEED={seed} (docs/proving.md).")
        raise
    assert not world.tally.failures, world.tally.failures[0]
    sys.stdout.write(f"ledger machine: {world.tally}\n")
    sys.stdout.flush()
    return world.tally
