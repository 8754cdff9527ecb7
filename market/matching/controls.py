"""What operators have set, as the engine remembers it (pure): rules, halts, blocks, quotas, calls.

A batch with a decision in it works on a copy, which replaces the original after its COMMIT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from market.matching.control_models import MARKET
from market.matching.rules import Rules
from market.matching.terms import Phase

CALL_MAX = timedelta(days=1)
CALL_AHEAD_MAX = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one party; None is the setting's."""

    open_orders_max: int | None = None
    messages_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """An open call auction of a plan; ``collecting`` once its opening has been carried out."""

    id: UUID
    plan_id: UUID
    opens_at: datetime
    closes_at: datetime
    collecting: bool = False
    reopening: bool = False

    @property
    def due_at(self) -> datetime:
        """When its next step is to be taken."""
        return self.closes_at if self.collecting else self.opens_at


@dataclass(slots=True)
class Controls:
    """All of one shard. ``halts`` holds reasons, by plan or ``MARKET``.

    ``references``: the price (minor units) that the band and an auction's ties refer to, for the
    instruments with rules or a call.
    """

    rules: dict[UUID, Rules] = field(default_factory=dict)
    references: dict[UUID, int] = field(default_factory=dict)
    halts: dict[UUID, str] = field(default_factory=dict)
    blocked: set[UUID] = field(default_factory=set)
    quotas: dict[UUID, Quota] = field(default_factory=dict)
    calls: dict[UUID, Call] = field(default_factory=dict)

    def copy(self) -> Controls:
        """One that can change without this one."""
        return Controls(
            rules=dict(self.rules),
            references=dict(self.references),
            halts=dict(self.halts),
            blocked=set(self.blocked),
            quotas=dict(self.quotas),
            calls=dict(self.calls),
        )

    def is_halted(self, plan_id: UUID) -> bool:
        """By itself or with the whole market."""
        return plan_id in self.halts or MARKET in self.halts

    def phase(self, plan_id: UUID) -> Phase:
        """What the plan's book has to do with incoming orders."""
        if self.halts and self.is_halted(plan_id):
            return Phase.HALTED
        call = self.calls.get(plan_id) if self.calls else None
        return Phase.CALL if call is not None and call.collecting else Phase.CONTINUOUS

    def due(self, now: datetime) -> list[Call]:
        """Calls to open or close, earliest first; a halted instrument's wait for its resumption."""
        if not self.calls or MARKET in self.halts:
            return []
        due = [c for c in self.calls.values() if c.due_at <= now and c.plan_id not in self.halts]
        return sorted(due, key=lambda call: (call.due_at, call.id))
