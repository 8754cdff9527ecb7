"""Instruments, the market and its parties as operators' controls leave them: from the database."""

from __future__ import annotations

from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor
from market.kernel.settings import Settings
from market.matching import control_sql
from market.matching.call_auctions import open_call
from market.matching.call_models import CallStatus
from market.matching.control_models import MARKET, Topic
from market.matching.control_schemas import (
    CallAuctionView,
    HaltView,
    InstrumentPhase,
    InstrumentRules,
    InstrumentView,
    MarketView,
    PriceBand,
    TradingView,
)
from market.matching.control_sql import InForce
from market.matching.rules import Rules
from market.parties.access import may_oversee
from market.parties.directory import get_party
from market.parties.errors import PartyNotFound
from pricing import plans

_RULE_FIELDS = tuple(InstrumentRules.model_fields)


async def show_instrument(kernel: Kernel, plan_id: UUID) -> InstrumentView:
    """One instrument, to everybody. Raises PlanNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return await read_instrument(uow, plan_id)


async def show_market(kernel: Kernel) -> MarketView:
    """The market as a whole, to everybody."""
    async with kernel.unit_of_work() as uow:
        return await read_market(uow)


async def show_trading(kernel: Kernel, actor: Actor, party_id: UUID) -> TradingView:
    """What a party may do, to itself, operators and regulators. Raises PartyNotFound (404)."""
    if not may_oversee(actor, party_id):
        raise PartyNotFound
    async with kernel.unit_of_work() as uow:
        await get_party(uow, party_id)
        return await read_trading(uow, kernel.settings, party_id)


async def read_instrument(uow: UnitOfWork, plan_id: UUID) -> InstrumentView:
    """As :func:`show_instrument`, in a unit of work."""
    plan = await plans.get_plan(uow, plan_id)
    connection = await uow.raw()
    found = await control_sql.in_force(
        connection, [(Topic.RULES, plan_id), (Topic.HALT, plan_id), (Topic.HALT, MARKET)]
    )
    trade = (await control_sql.last_trades(connection, [plan_id])).get(plan_id)
    decided = found.get((Topic.RULES, plan_id))
    rules = Rules() if decided is None else control_sql.rules_of(decided.data)
    reference = control_sql.reference_of(decided, trade) or plan.price_minor
    band = rules.band(reference)
    call = await open_call(uow, plan_id)
    halt = _on(found.get((Topic.HALT, plan_id)))
    market_halt = _on(found.get((Topic.HALT, MARKET)))
    return InstrumentView(
        plan_id=plan_id,
        listing_id=plan.listing_id,
        currency=plan.currency,
        phase=_phase(halt or market_halt, call),
        halt=halt,
        market_halt=market_halt,
        rules=InstrumentRules()
        if decided is None
        else InstrumentRules.model_validate(
            {name: decided.data[name] for name in _RULE_FIELDS if name in decided.data}
        ),
        reference_minor=reference,
        band=None if band is None else PriceBand(low_minor=band[0], high_minor=band[1]),
        last_trade_minor=None if trade is None else trade.price_minor,
        last_traded_at=None if trade is None else trade.traded_at,
        call_auction=call,
    )


async def read_market(uow: UnitOfWork) -> MarketView:
    """As :func:`show_market`, in a unit of work."""
    found = await control_sql.in_force(await uow.raw(), [(Topic.HALT, MARKET)])
    return MarketView(halt=_on(found.get((Topic.HALT, MARKET))))


async def read_trading(uow: UnitOfWork, settings: Settings, party_id: UUID) -> TradingView:
    """As :func:`show_trading`, in a unit of work."""
    found = await control_sql.in_force(
        await uow.raw(), [(Topic.BLOCK, party_id), (Topic.QUOTA, party_id)]
    )
    quota = found.get((Topic.QUOTA, party_id))
    limits = {} if quota is None else quota.data
    return TradingView(
        party_id=party_id,
        block=_on(found.get((Topic.BLOCK, party_id))),
        open_orders_max=limits.get("open_orders_max") or settings.open_orders_max,
        messages_per_s=limits.get("messages_per_s") or settings.order_messages_per_s,
    )


def _phase(halt: HaltView | None, call: CallAuctionView | None) -> InstrumentPhase:
    if halt is not None:
        return InstrumentPhase.HALTED
    collects = call is not None and call.status is CallStatus.COLLECTING
    return InstrumentPhase.CALL if collects else InstrumentPhase.CONTINUOUS


def _on(decided: InForce | None) -> HaltView | None:
    if decided is None or not decided.data["on"]:
        return None
    return HaltView(reason=decided.reason, since=decided.at)
