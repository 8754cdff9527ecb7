"""Operators' decisions as steps of a batch: they come before its orders, and commit with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from listings import offers
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import show
from market.kernel.security import Actor
from market.matching import call_sql, control_sql
from market.matching.call_steps import CallSteps
from market.matching.commands import OF_A_PARTY, OF_A_PLAN, Control, ControlAction
from market.matching.control_errors import (
    AlreadyBlocked,
    AlreadyHalted,
    BookCrossed,
    NotBlocked,
    NotHalted,
)
from market.matching.control_models import MARKET, Topic
from market.matching.control_sql import Decision, InForce, LastTrade
from market.matching.controls import Call, Controls, Quota
from market.matching.matcher import Matcher
from market.matching.models import CloseReason
from market.matching.shard import Shard
from market.matching.touched import Offer
from market.parties.directory import get_parties
from market.parties.errors import PartyNotFound
from market.parties.models import Party
from market.parties.trading import block_trading, unblock_trading
from pricing import plans
from pricing.errors import PlanNotFound, PlanRetired
from pricing.models import Plan, PlanStatus
from settlement import audit

# Parties with open orders that are told of a halt; more read it at the instrument.
TOLD_MAX = 1_000


@dataclass(frozen=True, slots=True)
class DeskFacts:
    """What the decisions and due calls of a batch refer to.

    ``offers``: what a plan with a due call would trade, or why it must not. ``calls``: the plans
    of call auctions that are named.
    """

    plans: dict[UUID, Plan]
    parties: dict[UUID, Party]
    rules: dict[UUID, InForce]
    trades: dict[UUID, LastTrade]
    offers: dict[UUID, Offer | MarketError]
    calls: dict[UUID, UUID]


async def gather(
    uow: UnitOfWork, decisions: Sequence[Control], due: Sequence[Call], reopen: Iterable[UUID] = ()
) -> DeskFacts:
    """Read it, in a fixed number of queries. ``reopen``: plans that have to collect."""
    connection = await uow.raw()
    parties = [c.subject_id for c in decisions if c.action in OF_A_PARTY]
    named = [*reopen, *(c.subject_id for c in decisions if c.action in OF_A_PLAN)]
    called = [c.subject_id for c in decisions if c.action is ControlAction.CANCEL_CALL]
    calls = await call_sql.plans_of(connection, called) if called else {}
    waiting = [call.plan_id for call in due]
    found = await plans.get_plans(uow, [*named, *calls.values(), *waiting])
    rules = await control_sql.in_force(connection, [(Topic.RULES, plan_id) for plan_id in found])
    return DeskFacts(
        plans=found,
        parties=await get_parties(uow, parties) if parties else {},
        rules={plan_id: row for (_, plan_id), row in rules.items()},
        trades=await control_sql.last_trades(connection, found),
        offers=await _offers(uow, [found[plan_id] for plan_id in waiting]),
        calls=calls,
    )


async def _offers(uow: UnitOfWork, wanted: Sequence[Plan]) -> dict[UUID, Offer | MarketError]:
    live = await offers.get_live_listings(uow, {plan.listing_id for plan in wanted})
    found: dict[UUID, Offer | MarketError] = {}
    for plan in wanted:
        listing = live[plan.listing_id]
        if isinstance(listing, MarketError):
            found[plan.id] = listing
        elif plan.status is not PlanStatus.ACTIVE:
            found[plan.id] = PlanRetired()
        else:
            found[plan.id] = Offer(plan, listing)
    return found


@dataclass(slots=True)
class ControlDesk:
    """Carries out decisions on ``controls``, a copy that the shard takes over after COMMIT.

    ``plan_ids`` are the instruments whose books it has changed. ``next_seq`` gives the next place
    in the input sequence.
    """

    uow: UnitOfWork
    shard: Shard
    matcher: Matcher
    controls: Controls
    facts: DeskFacts
    plan_ids: dict[UUID, None]
    next_seq: Callable[[], int]
    calls: CallSteps = field(init=False)
    _decisions: list[Decision] = field(default_factory=list)
    _blocks: dict[UUID, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls = CallSteps(self)

    def decide(self, command: Control) -> None:
        """Carry out one decision.

        Raises the MarketError that refuses it (BookHalted too), and has then changed nothing.
        """
        match command.action:
            case ControlAction.SET_RULES:
                self._set_rules(command)
            case ControlAction.HALT:
                self._halt(command, self.plan(command.subject_id).id)
            case ControlAction.RESUME:
                self._resume(command)
            case ControlAction.HALT_MARKET:
                self._halt(command, MARKET)
            case ControlAction.RESUME_MARKET:
                self._lift(command, MARKET)
            case ControlAction.SCHEDULE_CALL:
                self.calls.schedule(command, self._active(command.subject_id))
            case ControlAction.CANCEL_CALL:
                self.calls.cancel(command)
            case ControlAction.BLOCK:
                self._block(command)
            case ControlAction.UNBLOCK:
                self._unblock(command)
            case ControlAction.SET_QUOTA:
                self._set_quota(command)

    def plan(self, plan_id: UUID) -> Plan:
        """The plan of a decision. Raises PlanNotFound (404) or BookHalted (503)."""
        plan = self.facts.plans.get(plan_id)
        if plan is None:
            raise PlanNotFound(param="plan_id")
        # Raises BookHalted before anything has changed.
        self.shard.instrument(plan_id)
        return plan

    def _active(self, plan_id: UUID) -> Plan:
        plan = self.plan(plan_id)
        if plan.status is not PlanStatus.ACTIVE:
            raise PlanRetired(param="plan_id")
        return plan

    def _party(self, party_id: UUID) -> UUID:
        if party_id not in self.facts.parties:
            raise PartyNotFound(param="party_id")
        return party_id

    def watch(self, plan_id: UUID) -> None:
        """Follow the instrument's reference price from now on."""
        if plan_id not in self.controls.references:
            trade = self.facts.trades.get(plan_id)
            found = control_sql.reference_of(self.facts.rules.get(plan_id), trade)
            posted = self.facts.plans[plan_id].price_minor
            self.controls.references[plan_id] = found or posted

    def _set_rules(self, command: Control) -> None:
        plan = self.plan(command.subject_id)
        data = dict(command.terms)
        known = self.facts.rules.get(plan.id)
        if data["reference_minor"] is not None:
            data["reference_at"] = self.uow.now.isoformat()
            self.controls.references[plan.id] = data["reference_minor"]
        else:
            data["reference_minor"] = known.data["reference_minor"] if known else None
            data["reference_at"] = known.data["reference_at"] if known else None
            self.watch(plan.id)
        self.facts.rules[plan.id] = InForce(
            Topic.RULES, plan.id, command.action, data, command.reason, self.uow.now
        )
        self.controls.rules[plan.id] = control_sql.rules_of(data)
        self._record(command, Topic.RULES, plan.id, data)
        self.tell(plan.id, "instrument.rules_changed", command.reason, rules=data)

    def _halt(self, command: Control, subject_id: UUID) -> None:
        if subject_id in self.controls.halts:
            raise AlreadyHalted(self.controls.halts[subject_id])
        self.controls.halts[subject_id] = command.reason
        self.enter(subject_id)
        self._record(command, Topic.HALT, subject_id, {"on": True})
        self.tell(subject_id, f"{_kind(subject_id)}.halted", command.reason)

    def halt_by_engine(self, plan_id: UUID, reason: str) -> None:
        """Halt an instrument that is not halted, for a reason of the engine's own."""
        self.controls.halts[plan_id] = reason
        self.enter(plan_id)
        self.log(Topic.HALT, plan_id, ControlAction.HALT, {"on": True}, reason)
        self.tell(plan_id, "instrument.halted", reason)

    def _resume(self, command: Control) -> None:
        """Lift an instrument's halt. A book that crosses has to collect for an auction first."""
        plan = self.plan(command.subject_id)
        if plan.id not in self.controls.halts:
            raise NotHalted
        seconds = command.terms.get("auction_s")
        call = self.controls.calls.get(plan.id)
        if seconds is not None:
            self.calls.reopen(command, plan, seconds=seconds)
        elif not (call and call.collecting) and self._crosses(plan.id):
            raise BookCrossed(param="auction_s")
        self._lift(command, plan.id)

    def _crosses(self, plan_id: UUID) -> bool:
        return self.shard.instrument(plan_id).book.indicative(None) is not None

    def _lift(self, command: Control, subject_id: UUID) -> None:
        if subject_id not in self.controls.halts:
            raise NotHalted
        del self.controls.halts[subject_id]
        self.enter(subject_id)
        self._record(command, Topic.HALT, subject_id, {"on": False})
        self.tell(subject_id, f"{_kind(subject_id)}.resumed", command.reason)

    def enter(self, subject_id: UUID) -> None:
        """Bring a plan's book, or those of the whole market, into their phase."""
        if subject_id == MARKET:
            self.shard.govern(self.controls)
            return
        self.plan_ids[subject_id] = None
        self.matcher.enter(subject_id, self.controls.phase(subject_id))

    def _block(self, command: Control) -> None:
        party_id = self._party(command.subject_id)
        if party_id in self.controls.blocked:
            raise AlreadyBlocked
        self.controls.blocked.add(party_id)
        self._blocks[party_id] = True
        seq = self._record(command, Topic.BLOCK, party_id, {"on": True})
        for order in self.shard.orders_of([party_id]):
            self.plan_ids[order.plan_id] = None
            self.matcher.cancel(order, CloseReason.TRADING_BLOCKED, seq=seq)
        self._tell_party(party_id, "party.trading_blocked", command)

    def _unblock(self, command: Control) -> None:
        party_id = self._party(command.subject_id)
        if party_id not in self.controls.blocked:
            raise NotBlocked
        self.controls.blocked.discard(party_id)
        self._blocks[party_id] = False
        self._record(command, Topic.BLOCK, party_id, {"on": False})
        self._tell_party(party_id, "party.trading_unblocked", command)

    def _set_quota(self, command: Control) -> None:
        party_id = self._party(command.subject_id)
        self.controls.quotas[party_id] = Quota(**command.terms)
        self._record(command, Topic.QUOTA, party_id, command.terms)
        self._tell_party(party_id, "party.quota_changed", command, **command.terms)

    def _record(
        self, command: Control, topic: Topic, subject_id: UUID, data: Mapping[str, Any]
    ) -> int:
        return self.log(topic, subject_id, command.action, data, command.reason, command)

    def log(
        self,
        topic: Topic,
        subject_id: UUID,
        action: str,
        data: Mapping[str, Any],
        reason: str,
        command: Control | None = None,
    ) -> int:
        """The row of a decision, and an operator's entry in the audit log; its place."""
        seq = self.next_seq()
        actor_id = None if command is None else command.party_id
        credential_id = None if command is None else command.credential_id
        self._decisions.append(
            Decision(seq, topic, subject_id, action, data, reason, actor_id, credential_id)
        )
        if command is not None:
            actor = Actor(command.party_id, command.credential_id, frozenset(), "")
            facts = {"seq": seq, **data}
            audit.record(self.uow, actor, f"market.{action}", subject_id, reason=reason, data=facts)
        return seq

    def tell(self, subject_id: UUID, kind: str, reason: str, **more: object) -> None:
        """An event to the seller and to whoever has orders there."""
        data = {"reason": reason, **more}
        if subject_id == MARKET:
            self.uow.emit(kind, subject_id, data, parties=self.shard.parties()[:TOLD_MAX])
            return
        told = [self.plan(subject_id).seller_id, *self.shard.parties(subject_id)[:TOLD_MAX]]
        self.uow.emit(kind, subject_id, {**data, "plan_id": show("pln", subject_id)}, parties=told)

    def _tell_party(self, party_id: UUID, kind: str, command: Control, **more: object) -> None:
        self.uow.emit(kind, party_id, {"reason": command.reason, **more}, parties=[party_id])

    async def write(self) -> None:
        """Make the decisions durable."""
        connection = await self.uow.raw()
        await control_sql.write(connection, self._decisions, now=self.uow.now)
        await call_sql.write(connection, self.calls.rows.values(), now=self.uow.now)
        for party_id, blocked in self._blocks.items():
            await (block_trading if blocked else unblock_trading)(self.uow, party_id)


def _kind(subject_id: UUID) -> str:
    return "market" if subject_id == MARKET else "instrument"
