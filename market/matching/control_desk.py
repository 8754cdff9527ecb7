"""Operators' decisions as steps of a batch: they come before its orders, and commit with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Actor
from market.matching import control_sql
from market.matching.commands import OF_A_PARTY, OF_THE_MARKET, Control, ControlAction
from market.matching.control_errors import (
    AlreadyBlocked,
    AlreadyHalted,
    NotBlocked,
    NotHalted,
)
from market.matching.control_models import MARKET, Topic
from market.matching.control_sql import Decision, InForce, LastTrade
from market.matching.controls import Controls, Quota
from market.matching.matcher import Matcher
from market.matching.models import CloseReason
from market.matching.shard import Shard
from market.parties.directory import get_parties
from market.parties.errors import PartyNotFound
from market.parties.models import Party
from market.parties.trading import block_trading, unblock_trading
from pricing import plans
from pricing.errors import PlanNotFound
from pricing.models import Plan
from settlement import audit

# Parties with open orders that are told of a halt; more read it at the instrument.
TOLD_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeskFacts:
    """What the decisions of a batch refer to."""

    plans: dict[UUID, Plan]
    parties: dict[UUID, Party]
    rules: dict[UUID, InForce]
    trades: dict[UUID, LastTrade]


async def gather(uow: UnitOfWork, decisions: Sequence[Control]) -> DeskFacts:
    """Read it, in a fixed number of queries."""
    parties = [c.subject_id for c in decisions if c.action in OF_A_PARTY]
    named = [c.subject_id for c in decisions if c.action not in (*OF_A_PARTY, *OF_THE_MARKET)]
    found = await plans.get_plans(uow, named)
    connection = await uow.raw()
    rules = await control_sql.in_force(connection, [(Topic.RULES, plan_id) for plan_id in found])
    return DeskFacts(
        plans=found,
        parties=await get_parties(uow, parties) if parties else {},
        rules={plan_id: row for (_, plan_id), row in rules.items()},
        trades=await control_sql.last_trades(connection, found),
    )


@dataclass(slots=True)
class ControlDesk:
    """Carries out decisions on ``controls``, a copy that the shard takes over after COMMIT.

    ``plan_ids`` are the instruments whose books it has changed.
    """

    uow: UnitOfWork
    shard: Shard
    matcher: Matcher
    controls: Controls
    facts: DeskFacts
    plan_ids: dict[UUID, None] = field(default_factory=dict)
    _decisions: list[Decision] = field(default_factory=list)
    _blocks: dict[UUID, bool] = field(default_factory=dict)

    def decide(self, command: Control, *, seq: int) -> None:
        """Carry out one decision at input sequence ``seq``.

        Raises the MarketError that refuses it (BookHalted too), and has then changed nothing.
        """
        match command.action:
            case ControlAction.SET_RULES:
                self._set_rules(command, seq)
            case ControlAction.HALT:
                self._halt(command, seq, self._plan(command.subject_id).id)
            case ControlAction.RESUME:
                self._resume(command, seq, self._plan(command.subject_id).id)
            case ControlAction.HALT_MARKET:
                self._halt(command, seq, MARKET)
            case ControlAction.RESUME_MARKET:
                self._resume(command, seq, MARKET)
            case ControlAction.BLOCK:
                self._block(command, seq)
            case ControlAction.UNBLOCK:
                self._unblock(command, seq)
            case ControlAction.SET_QUOTA:
                self._set_quota(command, seq)

    def _plan(self, plan_id: UUID) -> Plan:
        plan = self.facts.plans.get(plan_id)
        if plan is None:
            raise PlanNotFound(param="plan_id")
        # Raises BookHalted before anything has changed.
        self.shard.instrument(plan_id)
        return plan

    def _party(self, party_id: UUID) -> UUID:
        if party_id not in self.facts.parties:
            raise PartyNotFound(param="party_id")
        return party_id

    def _set_rules(self, command: Control, seq: int) -> None:
        plan = self._plan(command.subject_id)
        data = dict(command.terms)
        known = self.facts.rules.get(plan.id)
        if data["reference_minor"] is not None:
            data["reference_at"] = self.uow.now.isoformat()
        else:
            data["reference_minor"] = known.data["reference_minor"] if known else None
            data["reference_at"] = known.data["reference_at"] if known else None
        made = InForce(Topic.RULES, plan.id, command.action, data, command.reason, self.uow.now)
        self.facts.rules[plan.id] = made
        self.controls.rules[plan.id] = control_sql.rules_of(data)
        if command.terms["reference_minor"] is not None:
            self.controls.references[plan.id] = data["reference_minor"]
        elif plan.id not in self.controls.references:
            trade = self.facts.trades.get(plan.id)
            self.controls.references[plan.id] = control_sql.reference_of(made, trade)
        self._record(command, seq, Topic.RULES, plan.id, data)
        self._tell(plan.id, "instrument.rules_changed", command, rules=data)

    def _halt(self, command: Control, seq: int, subject_id: UUID) -> None:
        if subject_id in self.controls.halts:
            raise AlreadyHalted(self.controls.halts[subject_id])
        self.controls.halts[subject_id] = command.reason
        self._enter(subject_id)
        self._record(command, seq, Topic.HALT, subject_id, {"on": True})
        self._tell(subject_id, f"{_kind(subject_id)}.halted", command)

    def _resume(self, command: Control, seq: int, subject_id: UUID) -> None:
        if subject_id not in self.controls.halts:
            raise NotHalted
        del self.controls.halts[subject_id]
        self._enter(subject_id)
        self._record(command, seq, Topic.HALT, subject_id, {"on": False})
        self._tell(subject_id, f"{_kind(subject_id)}.resumed", command)

    def _enter(self, subject_id: UUID) -> None:
        if subject_id == MARKET:
            self.shard.govern(self.controls)
            return
        self.plan_ids[subject_id] = None
        self.matcher.enter(subject_id, self.controls.phase(subject_id))

    def _block(self, command: Control, seq: int) -> None:
        party_id = self._party(command.subject_id)
        if party_id in self.controls.blocked:
            raise AlreadyBlocked
        self.controls.blocked.add(party_id)
        self._blocks[party_id] = True
        for order in self.shard.orders_of([party_id]):
            self.plan_ids[order.plan_id] = None
            self.matcher.cancel(order, CloseReason.TRADING_BLOCKED, seq=seq)
        self._record(command, seq, Topic.BLOCK, party_id, {"on": True})
        self._emit("party.trading_blocked", party_id, command, [party_id])

    def _unblock(self, command: Control, seq: int) -> None:
        party_id = self._party(command.subject_id)
        if party_id not in self.controls.blocked:
            raise NotBlocked
        self.controls.blocked.discard(party_id)
        self._blocks[party_id] = False
        self._record(command, seq, Topic.BLOCK, party_id, {"on": False})
        self._emit("party.trading_unblocked", party_id, command, [party_id])

    def _set_quota(self, command: Control, seq: int) -> None:
        party_id = self._party(command.subject_id)
        self.controls.quotas[party_id] = Quota(**command.terms)
        self._record(command, seq, Topic.QUOTA, party_id, command.terms)
        self._emit("party.quota_changed", party_id, command, [party_id], **command.terms)

    def _record(
        self, command: Control, seq: int, topic: Topic, subject_id: UUID, data: Any
    ) -> None:
        """The row of the decision, and its entry in the operators' audit log."""
        self._decisions.append(
            Decision(
                seq,
                topic,
                subject_id,
                command.action,
                data,
                command.reason,
                command.party_id,
                command.credential_id,
            )
        )
        actor = Actor(command.party_id, command.credential_id, frozenset(), "")
        action = f"market.{command.action}"
        audit.record(
            self.uow, actor, action, subject_id, reason=command.reason, data={"seq": seq, **data}
        )

    def _tell(self, subject_id: UUID, kind: str, command: Control, **more: object) -> None:
        """An event to the seller and to whoever has orders there."""
        if subject_id == MARKET:
            self._emit(kind, subject_id, command, self.shard.parties()[:TOLD_MAX])
            return
        parties = self.shard.instrument(subject_id).counts
        told = [self._plan(subject_id).seller_id, *sorted(parties)[:TOLD_MAX]]
        self._emit(kind, subject_id, command, told, plan_id=show("pln", subject_id), **more)

    def _emit(
        self,
        kind: str,
        subject_id: UUID,
        command: Control,
        parties: Iterable[UUID],
        **data: object,
    ) -> None:
        self.uow.emit(kind, subject_id, {"reason": command.reason, **data}, parties=list(parties))

    async def write(self) -> None:
        """Make the decisions durable."""
        connection = await self.uow.raw()
        await control_sql.write(connection, self._decisions, now=self.uow.now)
        for party_id, blocked in self._blocks.items():
            await (block_trading if blocked else unblock_trading)(self.uow, party_id)


def _kind(subject_id: UUID) -> str:
    return "market" if subject_id == MARKET else "instrument"
