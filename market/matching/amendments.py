"""Amending a resting order: which terms it gets, whether they may enter, what they reserve."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from market.kernel.errors import MarketError
from market.kernel.money import MAX_MINOR
from market.matching.admission import EXPIRY_MAX, UNITS_MAX, Facts, check_offer, take_money
from market.matching.commands import Amend
from market.matching.control_errors import OrderInconsistent
from market.matching.errors import ExpiryOutOfRange, OrderClosed, OrderTooLarge
from market.matching.gate import Gate
from market.matching.matcher import Matcher
from market.matching.rules import Terms
from market.matching.shard import LiveOrder
from market.matching.terms import UNLIMITED, Side, TimeInForce
from market.matching.touched import Offer, Touched
from pricing.models import Plan
from pricing.units import counted_units
from settlement.accounts import AccountKind, AccountRef


class Change(NamedTuple):
    """All terms of an order after its amendment; ``left`` lots are still to trade."""

    command_id: UUID
    price: int
    lots: int | None
    left: int
    post_only: bool
    expires_at: datetime | None


class _State(NamedTuple):
    """An order at this point of its batch."""

    price: int
    lots: int | None
    filled: int
    post_only: bool
    expires_at: datetime | None

    @property
    def left(self) -> int:
        return UNLIMITED if self.lots is None else self.lots - self.filled


class Amender:
    """Carries out the amendments of one batch."""

    def __init__(self, matcher: Matcher, gate: Gate, facts: Facts, *, now: datetime) -> None:
        self._matcher = matcher
        self._gate = gate
        self._facts = facts
        self._now = now

    def amend(self, command: Amend, order: LiveOrder, *, seq: int) -> Touched:
        """Give ``order`` the terms that ``command`` states, at input sequence ``seq``.

        A reduction at the same price needs no admission; anything else is admitted as a new order
        is. Raises the MarketError that refuses it; the order is then as it was.
        """
        touched = self._matcher.touched.get(order.id)
        if touched is not None and not touched.status.is_open:
            raise OrderClosed
        state = _state(order, touched)
        change = _change(command, state)
        plan = self._facts.plans[order.plan_id]
        offer = None
        if change.left > 0 and not _reduces(change, state):
            offer = self._admit(change, order, plan)
        reserved = self._reserve(change, state, order, plan)
        try:
            amended = self._matcher.amend(order, change, plan.currency, offer, seq=seq)
        except MarketError:
            if reserved is not None:
                self._facts.balances[reserved[0]] += reserved[1]
            raise
        if amended.matches:
            self._gate.traded(amended)
        return amended

    def _admit(self, change: Change, order: LiveOrder, plan: Plan) -> Offer:
        self._gate.check_party(order.party_id)
        self._gate.check_phase(plan.id)
        resale = order.grant_id is not None
        listing, _ = check_offer(order.side, order.party_id, plan, self._facts, resale=resale)
        if order.grant_id is not None:
            self._facts.holdings.check_end(order.grant_id, change.expires_at, self._now)
        if order.auction_only and change.post_only:
            raise OrderInconsistent("post_only needs time_in_force gtc or gtd")
        until = change.expires_at
        if until is not None and not self._now < until <= self._now + EXPIRY_MAX:
            raise ExpiryOutOfRange(param="expires_at")
        if change.lots is not None:
            if change.price * change.lots > MAX_MINOR:
                raise OrderTooLarge(param="lots")
            if change.lots * counted_units(plan.unit, plan.lot_units) > UNITS_MAX:
                raise OrderTooLarge(
                    "The order has more units than a grant can count.", param="lots"
                )
        terms = Terms(
            side=order.side,
            price=change.price,
            lots=UNLIMITED if change.lots is None else change.lots,
            tif=TimeInForce.AUCTION if order.auction_only else TimeInForce.GTC,
            post_only=change.post_only,
        )
        self._gate.check_amended(terms, plan)
        return Offer(plan, listing)

    def _reserve(
        self, change: Change, state: _State, order: LiveOrder, plan: Plan
    ) -> tuple[UUID, int] | None:
        """Take what a buy needs beyond its present hold; raises OrderUnfunded (402)."""
        if order.side is Side.SELL or change.left <= 0:
            return None
        more = change.left * change.price - state.left * state.price
        if more <= 0:
            return None
        account = AccountRef(AccountKind.AVAILABLE, order.party_id, plan.currency)
        take_money(self._facts, account, more)
        return account.id, more


def _state(order: LiveOrder, touched: Touched | None) -> _State:
    if touched is None:
        return _State(order.price, order.lots, order.filled, order.post_only, order.expires_at)
    post_only = order.post_only if touched.revision is None else touched.revision.post_only
    return _State(touched.price, touched.lots, touched.filled, post_only, touched.expires_at)


def _change(command: Amend, state: _State) -> Change:
    body = command.body
    lots = state.lots if body.lots is None else body.lots
    return Change(
        command_id=command.command_id,
        price=state.price if body.price_minor is None else body.price_minor,
        lots=lots,
        left=UNLIMITED if lots is None else lots - state.filled,
        post_only=state.post_only if body.post_only is None else body.post_only,
        expires_at=state.expires_at if body.expires_at is None else body.expires_at,
    )


def _reduces(change: Change, state: _State) -> bool:
    """Whether nothing but lots go away: that is as free as a cancel."""
    same = (change.price, change.post_only, change.expires_at)
    return change.left <= state.left and same == (state.price, state.post_only, state.expires_at)
