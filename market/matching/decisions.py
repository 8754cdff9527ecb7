"""Operators' decisions, given to the engine: each is one step of its input sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from market.kernel import idempotency
from market.kernel.idempotency import Answer, Replay
from market.kernel.ids import new_id
from market.kernel.security import Actor, Role
from market.matching.commands import Control, ControlAction
from market.matching.control_schemas import CallAuctionInput, QuotaInput, RulesInput
from market.matching.engine import MatchingEngine


async def set_rules(
    engine: MatchingEngine, actor: Actor, plan_id: UUID, body: RulesInput, *, request_id: str
) -> Answer:
    """Replace an instrument's rules; resting orders stay as they are.

    The answer holds an InstrumentView (200) or PlanNotFound (404). Event
    ``instrument.rules_changed``. Raises and effects as :func:`decide`.
    """
    terms = body.model_dump(exclude={"reason"})
    action = ControlAction.SET_RULES
    return await decide(engine, actor, action, plan_id, body.reason, terms, request_id=request_id)


async def set_quota(
    engine: MatchingEngine, actor: Actor, party_id: UUID, body: QuotaInput, *, request_id: str
) -> Answer:
    """Replace a party's limits; null is the setting's. Orders beyond a lower one stay.

    The answer holds a TradingView (200) or PartyNotFound (404). Event ``party.quota_changed``.
    Raises and effects as :func:`decide`.
    """
    terms = body.model_dump(exclude={"reason"})
    action = ControlAction.SET_QUOTA
    return await decide(engine, actor, action, party_id, body.reason, terms, request_id=request_id)


async def schedule_call(
    engine: MatchingEngine,
    actor: Actor,
    plan_id: UUID,
    body: CallAuctionInput,
    *,
    request_id: str,
) -> Answer:
    """Have an instrument collect for a call auction, by database time.

    The answer holds a CallAuctionView (201), PlanNotFound (404), PlanRetired or
    CallAuctionPending (409), or CallTimesInvalid (422). Events ``call_auction.scheduled``, then
    ``.opened``, ``.indicative``, ``.closed``. Raises and effects as :func:`decide`.
    """
    terms = {
        "opens_at": None if body.opens_at is None else body.opens_at.isoformat(),
        "closes_at": body.closes_at.isoformat(),
    }
    action = ControlAction.SCHEDULE_CALL
    return await decide(engine, actor, action, plan_id, body.reason, terms, request_id=request_id)


async def decide(
    engine: MatchingEngine,
    actor: Actor,
    action: ControlAction,
    subject_id: UUID,
    reason: str,
    terms: Mapping[str, Any] | None = None,
    *,
    request_id: str,
) -> Answer:
    """Carry out a decision durably; the answer holds its subject's view or a problem.

    Effects of one that is carried out: a row of ``matching.control`` at its place in the input
    sequence, an entry of the operators' audit log with the reason, an event. Raises RoleRequired
    (403) and the engine's 503s. Within a request it takes over the request's Idempotency-Key.
    """
    actor.require(Role.OPERATOR)
    claim = idempotency.take()
    reply = await engine.submit(
        Control(
            party_id=actor.party_id,
            credential_id=actor.credential_id,
            key=claim.key if claim else f"engine-control:{new_id().hex}",
            request_hash=claim.request_hash if claim else bytes(32),
            request_id=request_id,
            action=action,
            subject_id=subject_id,
            reason=reason,
            terms=dict(terms or {}),
        )
    )
    if claim is not None:
        if reply.replayed:
            raise Replay(reply.answer)
        claim.answer = reply.answer
    return reply.answer
