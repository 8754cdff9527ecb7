"""Does the machine notice? The ledger's rules are broken in one way after the other, in memory.

Not named test_…: run it by hand when the machine or the rules change; docs/proving.md has what
it found. ``MUTANT`` is a regular expression for the names of those to run.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from market.kernel.settings import Settings
from settlement import rules, split
from tests.settlement.conftest import MUTANT_PROFILE, Guarded
from tests.settlement.machine.run import opened, run_once

SEED = int(os.environ.get("HYPOTHESIS_SEED", "20131"))
SIGN = "-amount for account, amount in command.legs} != dict(past.legs)"
SIGNLESS = "-amount for account, amount in command.legs} == {}"


class Mutant(NamedTuple):
    """One text of a module, and what stands there instead."""

    name: str
    module: ModuleType
    old: str
    new: str


MUTANTS = (
    Mutant(
        "replay skipped",
        rules,
        "known is not None:\n            return _replay(command.key, known, digest)\n        try:",
        "False:\n            pass\n        try:",
    ),
    Mutant(
        "capture one above the hold", rules, "rehold > hold.amount:", "rehold > hold.amount + 1:"
    ),
    Mutant(
        "one leg forgotten",
        rules,
        "known in found:\n            if not",
        "known in found[: max(2, len(found) - 1)]:\n            if not",
    ),
    Mutant("reversal, sign wrong", rules, SIGN, SIGN[1:]),
    Mutant("reversal, legs not compared", rules, SIGN, SIGNLESS),
    Mutant("second reversal", rules, "past.reversed or reverses in self._reversed:", "False:"),
    Mutant(
        "second reversal in one list",
        rules,
        "past.reversed or reverses in self._reversed:",
        "past.reversed:",
    ),
    Mutant("expired hold capturable", rules, "if hold.expires_at <= self._now:", "if False:"),
    Mutant(
        "refusal not remembered",
        rules,
        "        self.entries.append(entry)\n        self._memory[command.key] = _tuple",
        "        if isinstance(result, Refused):\n            return result\n"
        "        self.entries.append(entry)\n        self._memory[command.key] = _tuple",
    ),
    Mutant(
        "available, one too much for a transfer",
        rules,
        "posted < held and",
        "posted < held - 1 and",
    ),
    Mutant(
        "available, one too much for a hold",
        rules,
        "account.posted < held:",
        "account.posted < held - 1:",
    ),
    Mutant("available, one too little", rules, "posted < held and", "posted <= held and"),
    Mutant("fee one too high", split, "return min(fee, total)", "return min(fee + 1, total)"),
    Mutant(
        "fee rounded down",
        split,
        "max(split(total, (terms.fee_ppm, PPM - terms.fee_ppm))[0],",
        "max(total * terms.fee_ppm // PPM,",
    ),
    Mutant("rehold freed", rules, "freed = hold.amount - command.rehold", "freed = hold.amount"),
    Mutant("rehold not written", rules, "            hold=kept,", "            hold=None,"),
    Mutant("group half done", rules, "trial = self._trial()", "trial = self"),
)


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """The module's functions, with this one text in them."""
    assert mutant.module.__file__ is not None
    source = Path(mutant.module.__file__).read_text()
    assert source.count(mutant.old) == 1, mutant.name
    exec(source.replace(mutant.old, mutant.new), vars(mutant.module))
    try:
        yield
    finally:
        exec(source, vars(mutant.module))


def caught_by(failure: str) -> str:
    """The error's own words, at the end of its traceback."""
    words, _, _ = failure.partition("after the steps\n")
    lines = words.splitlines()
    first = max(n for n, line in enumerate(lines) if line.startswith("  File"))
    return " ".join(line for line in lines[first + 1 :] if not line.startswith(" "))[:300]


def test_every_mutant_is_caught(guarded: Guarded, settings: Settings) -> None:
    survivors = []
    with opened(guarded.app_url, guarded.superuser_url, settings) as world:
        for mutant in MUTANTS:
            if not re.search(os.environ.get("MUTANT", ""), mutant.name):
                continue
            with broken(mutant), suppress(Exception):
                run_once(world, SEED, MUTANT_PROFILE)
            failures = world.tally.failures
            by = caught_by(failures[0]) if failures else "nobody"
            if not failures:
                survivors.append(mutant.name)
            sys.stdout.write(f"MUTANT {mutant.name}, {world.tally.steps} steps: {by}\n")
            sys.stdout.flush()
    assert survivors == []
