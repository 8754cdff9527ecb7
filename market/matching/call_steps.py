"""Call auctions as steps of a batch: scheduled by operators, opened and closed at their time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from market.kernel.errors import MarketError
from market.kernel.ids import new_id, show
from market.matching.call_auction import Clearing
from market.matching.call_models import CallStatus
from market.matching.call_sql import CallRow
from market.matching.commands import Control
from market.matching.control_errors import (
    CallAuctionNotFound,
    CallAuctionPending,
    CallAuctionStarted,
    CallTimesInvalid,
)
from market.matching.control_models import Topic
from market.matching.controls import CALL_AHEAD_MAX, CALL_MAX, Call
from market.matching.errors import BookHalted
from market.matching.models import CloseReason
from market.matching.rules import Rules
from market.matching.terms import UNLIMITED
from pricing.models import Plan

if TYPE_CHECKING:
    from market.matching.control_desk import ControlDesk

# Openings and closings of one batch; more wait for the next one.
DUE_MAX = 16


class CallSteps:
    """Those of one batch, on its desk. ``rows`` is what must be stored."""

    def __init__(self, desk: ControlDesk) -> None:
        self._desk = desk
        self.rows: dict[UUID, CallRow] = {}
        self.closing: list[UUID] = []

    def schedule(self, command: Control, plan: Plan) -> None:
        """A call for later, or for now. Raises CallAuctionPending or CallTimesInvalid."""
        now = self._desk.uow.now
        opens_at = _moment(command.terms["opens_at"]) or now
        closes_at = _moment(command.terms["closes_at"])
        assert closes_at is not None
        opens_at = max(opens_at, now)
        # First the bound that keeps the sum within the calendar.
        if opens_at > now + CALL_AHEAD_MAX:
            raise CallTimesInvalid(param="opens_at")
        if not opens_at < closes_at <= opens_at + CALL_MAX:
            raise CallTimesInvalid(param="closes_at")
        if plan.id in self._desk.controls.calls:
            raise CallAuctionPending(param="plan_id")
        call = Call(command.control_id, plan.id, opens_at, closes_at)
        self._desk.watch(plan.id)
        self._put(call, CallStatus.SCHEDULED)
        self._note(call, "scheduled", command.reason, command)

    def cancel(self, command: Control) -> None:
        """Call off what has not begun. Raises CallAuctionNotFound or CallAuctionStarted."""
        call_id = command.subject_id
        calls = self._desk.controls.calls
        call = next((each for each in calls.values() if each.id == call_id), None)
        if call is None or call.collecting:
            known = call is not None or call_id in self._desk.facts.calls
            raise CallAuctionStarted if known else CallAuctionNotFound(param="call_auction_id")
        self._desk.plan(call.plan_id)
        self._end(call, CallStatus.CANCELLED, None)
        self._note(call, "cancelled", command.reason, command)

    def reopen(self, command: Control, plan: Plan, *, seconds: int) -> None:
        """Collect from now on, before the halt is lifted; a call that collects is prolonged.

        Raises CallAuctionPending when one is scheduled.
        """
        now = self._desk.uow.now
        closes_at = now + timedelta(seconds=seconds)
        call = self._desk.controls.calls.get(plan.id)
        if call is None:
            call = Call(command.control_id, plan.id, now, closes_at, reopening=True)
        elif not call.collecting:
            raise CallAuctionPending(param="plan_id")
        call = replace(call, closes_at=max(closes_at, call.closes_at), collecting=True)
        self._desk.watch(plan.id)
        self._put(call, CallStatus.COLLECTING)
        self._note(call, "opened", command.reason, command)

    def interrupt(self, plan_id: UUID, reason: str) -> None:
        """Collect from now on, for as long as the rules say; nothing while a call is open."""
        desk, now = self._desk, self._desk.uow.now
        rules = desk.controls.rules.get(plan_id, Rules())
        if rules.reopen_s is None or plan_id in desk.controls.calls:
            return
        closes_at = now + timedelta(seconds=rules.reopen_s)
        call = Call(new_id(), plan_id, now, closes_at, collecting=True, reopening=True)
        desk.watch(plan_id)
        self._put(call, CallStatus.COLLECTING)
        desk.enter(plan_id)
        self._note(call, "opened", reason)

    def run_due(self, void: Iterable[UUID]) -> None:
        """Open and close what is due. ``void``: calls that an earlier attempt failed to close."""
        failed = frozenset(void)
        for call in self._desk.controls.due(self._desk.uow.now)[:DUE_MAX]:
            if not self._may_step(call):
                continue
            self._desk.plan_ids[call.plan_id] = None
            if not call.collecting:
                self._open(call)
            elif call.id in failed:
                self._void(call, "the uncrossing could not be carried out")
            else:
                self._close(call)

    def _may_step(self, call: Call) -> bool:
        """Not with a book that did not rebuild; what only now became due is the next batch's."""
        facts = self._desk.facts
        if call.plan_id not in (facts.offers if call.collecting else facts.plans):
            return False
        try:
            self._desk.shard.instrument(call.plan_id)
        except BookHalted:
            return False
        return True

    def _open(self, call: Call) -> None:
        opened = replace(call, collecting=True)
        self._put(opened, CallStatus.COLLECTING)
        self._desk.enter(call.plan_id)
        self._note(opened, "opened", "its time has come")

    def _close(self, call: Call) -> None:
        """Trade at the one price, if the instrument may trade there."""
        desk, plan_id = self._desk, call.plan_id
        offer = desk.facts.offers[plan_id]
        if isinstance(offer, MarketError):
            self._void(call, offer.detail)
            return
        rules = desk.controls.rules.get(plan_id, Rules())
        reference = desk.controls.references[plan_id]
        found = desk.shard.instrument(plan_id).book.indicative(on_tick(reference, rules))
        band = rules.band(reference)
        if found is not None and band is not None and not band[0] <= found.price <= band[1]:
            self._void(call, f"its price would be {found.price}, outside of the price band")
            return
        self.closing.append(call.id)
        self._end(call, CallStatus.CLOSED, found)
        seq = self._note(call, "closed", "its time has come", clearing=found)
        desk.matcher.uncross(plan_id, on_tick(reference, rules), offer, seq=seq)
        if found is not None:
            desk.controls.references[plan_id] = found.price

    def _void(self, call: Call, why: str) -> None:
        """End it without a trade: its book may cross, so the instrument is halted."""
        desk, plan_id = self._desk, call.plan_id
        reason = f"The call auction is void: {why}"[:200]
        self._end(call, CallStatus.VOID, None)
        seq = self._note(call, "void", reason)
        desk.halt_by_engine(plan_id, reason)
        for order in list(desk.shard.instrument(plan_id).orders.values()):
            if order.auction_only:
                desk.matcher.cancel(order, CloseReason.AUCTION_ENDED, seq=seq)

    def _put(self, call: Call, status: CallStatus, clearing: Clearing | None = None) -> None:
        self._desk.controls.calls[call.plan_id] = call
        self.rows[call.id] = row_of(call, status, clearing)

    def _end(self, call: Call, status: CallStatus, clearing: Clearing | None) -> None:
        del self._desk.controls.calls[call.plan_id]
        self.rows[call.id] = row_of(call, status, clearing)

    def _note(
        self,
        call: Call,
        what: str,
        reason: str,
        command: Control | None = None,
        clearing: Clearing | None = None,
    ) -> int:
        """Log and tell it; its place in the input sequence."""
        data = {"call_auction_id": str(call.id), "closes_at": call.closes_at.isoformat()}
        seq = self._desk.log(Topic.CALL, call.plan_id, f"call_{what}", data, reason, command)
        facts = facts_of(call, clearing)
        self._desk.tell(call.plan_id, f"call_auction.{what}", reason, **facts)
        return seq


def on_tick(reference: int, rules: Rules) -> int:
    """The nearest price not above the reference at which the instrument may trade."""
    return max(reference // rules.tick, 1) * rules.tick


def row_of(call: Call, status: CallStatus, clearing: Clearing | None) -> CallRow:
    """As it is to be stored."""
    return CallRow(
        call.id,
        call.plan_id,
        status,
        call.reopening,
        call.opens_at,
        call.closes_at,
        None if clearing is None else clearing.price,
        None if clearing is None else clearing.volume,
        _surplus(clearing),
    )


def facts_of(call: Call, clearing: Clearing | None) -> dict[str, object]:
    """What its events say; price and volume null when nothing crosses."""
    return {
        "call_auction_id": show("cal", call.id),
        "opens_at": call.opens_at.isoformat(),
        "closes_at": call.closes_at.isoformat(),
        "price_minor": None if clearing is None else clearing.price,
        "volume_lots": None if clearing is None else clearing.volume,
        "surplus_lots": _surplus(clearing),
    }


def _surplus(clearing: Clearing | None) -> int | None:
    # A posted price without an end leaves a supply that is no number of lots.
    if clearing is None or clearing.surplus < -(UNLIMITED >> 1):
        return None
    return clearing.surplus


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
