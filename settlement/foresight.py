"""What the ledger writer expects the accounts to be once the batch in flight has committed.

Nothing here is trusted: a plan made on it is compared with the locked rows before it is written
(:func:`settlement.ledger.settle`). A wrong guess, for example because matching posted to the
same accounts meanwhile, is decided again, and forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from market.kernel.context import Kernel
from settlement import sql
from settlement.accounts import AccountRef
from settlement.commands import Command, Transfer
from settlement.plan import Plan
from settlement.rules import AccountState, Books

# Forgotten as a whole when full: they are read again as they are needed.
STATES_MAX = 65_536
_TICK = timedelta(microseconds=1)


class Foresight:
    """Expected states and market time. Used by one writer, in one task at a time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._states: dict[UUID, AccountState] = {}
        self._market: datetime | None = None
        self._monotonic_s = 0.0
        self._last: datetime | None = None
        self._failures = 0

    def settled(self, plan: Plan, at: datetime, *, foreseen: bool) -> None:
        """Take over what a plan leaves, decided under locks that were got at market time ``at``."""
        if not foreseen or len(self._states) > STATES_MAX:
            self._states.clear()
        self._states.update(plan.after)
        self._market, self._monotonic_s = at, time.monotonic()
        self._last = max(self._last or plan.booked_at, plan.booked_at)

    def forget(self) -> None:
        """Expect nothing, and void all plans: a batch failed, or is booked again and later."""
        self._states.clear()
        self._last = None
        self._failures += 1

    @property
    def failures(self) -> int:
        """How often :meth:`forget` was called: a plan begun before the last one is void."""
        return self._failures

    def begin(self) -> Plan | None:
        """An empty plan for the batch after the last settled one; None before the first."""
        if self._market is None or self._last is None:
            return None
        # Never ahead of the database's clock: that reading is older than ours of its arrival.
        now = self._market + timedelta(seconds=time.monotonic() - self._monotonic_s)
        self._last = max(now, self._last + _TICK)
        return Plan(Books({}), self._last)

    async def extend(self, plan: Plan, commands: Sequence[Command]) -> bool:
        """Decide ``commands``, all ``plain``, on top of the plan; reads accounts never seen.

        False when the plan cannot be kept: somebody has just booked on one of those accounts,
        later than the plan would.
        """
        known = plan.before
        new = {
            ref.id: ref
            for command in commands
            if isinstance(command, Transfer)
            for ref, _ in command.legs
            if ref.id not in known
        }
        unseen = [ref for identity, ref in new.items() if identity not in self._states]
        if unseen:
            states, newest = await self._read(unseen)
            if newest is not None and newest >= plan.booked_at:
                return False
            self._states.update(states)
        plan.assume({identity: self._states[identity] for identity in new})
        plan.add(commands)
        return True

    async def _read(
        self, refs: Sequence[AccountRef]
    ) -> tuple[dict[UUID, AccountState], datetime | None]:
        async with self._kernel.unit_of_work() as uow:
            return await sql.read_accounts(await uow.raw(), refs)


def plain(command: Command) -> bool:
    """Whether a command rests on accounts only, not on holds or earlier transfers."""
    return isinstance(command, Transfer) and command.reverses is None
