"""Run the whole machine once, with one seed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import seed as seeded, settings as profile
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from market.kernel.settings import Settings
from tests.settlement.machine.escrow import EscrowRules
from tests.settlement.machine.faults import FaultRules
from tests.settlement.machine.money import MoneyRules
from tests.settlement.machine.world import LedgerWorld, Tally, open_world

# More would mean that examples end before they begin.
SEEDS_MAX = 30


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


def run_once(world: LedgerWorld, seed: int, profile_name: str, *, steps_min: int = 1) -> Tally:
    """Run with a seed, then the next ones until ``steps_min``; returns what was really done.

    Clients race, so the same beginning may take another course, which Hypothesis refuses to go on
    from (FlakyStrategyDefinition). That ends a seed, not the run, unless a step has failed.
    """
    world.tally = Tally()
    for current in range(seed, seed + SEEDS_MAX):
        sys.stdout.write(f"\nledger machine: HYPOTHESIS_SEED={current}\n")
        sys.stdout.flush()
        # A class of its own each time: the seed is kept on it.
        machine = seeded(current)(type(f"LedgerMachine{current}", (LedgerMachine,), {}))
        try:
            run_state_machine_as_test(machine, settings=profile.get_profile(profile_name))
        except FlakyStrategyDefinition as error:
            if world.tally.failures:
                raise AssertionError(world.tally.failures[0]) from error
        except BaseException as error:
            error.add_note(f"Reproduce it with HYPOTHESIS_SEED={current} (docs/proving.md).")
            raise
        assert not world.tally.failures, world.tally.failures[0]
        if world.tally.steps >= steps_min:
            break
    sys.stdout.write(f"ledger machine: {world.tally}\n")
    sys.stdout.flush()
    return world.tally
