"""HTTP of what operators control, and of what everybody may know about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from market.kernel.http import IdempotentRoute, KernelDep, problems, request_id_of
from market.kernel.ids import PartyId, PlanId
from market.matching import decisions, instruments
from market.matching.commands import ControlAction
from market.matching.control_models import MARKET
from market.matching.control_schemas import (
    InstrumentView,
    MarketView,
    QuotaInput,
    ReasonInput,
    ResumeInput,
    RulesInput,
    TradingView,
)
from market.matching.endpoints import EngineDep, response_of
from market.parties.access import ActorDep, OperatorDep

router = APIRouter(prefix="/v1", tags=["matching"], route_class=IdempotentRoute)
_CHANGE = problems(400, 401, 403, 404, 409, 422, 503)
_PUT = problems(400, 401, 403, 404, 422, 503)
_MARKET_CHANGE = problems(400, 401, 403, 409, 422, 503)


@dataclass(frozen=True, slots=True)
class Decide:
    """Has the engine carry out a decision of the request's operator; answers as the engine does."""

    request: Request
    engine: EngineDep
    actor: OperatorDep

    async def __call__(
        self,
        action: ControlAction,
        subject_id: UUID,
        reason: str,
        terms: Mapping[str, Any] | None = None,
    ) -> Response:
        request_id = request_id_of(self.request)
        return response_of(
            await decisions.decide(
                self.engine, self.actor, action, subject_id, reason, terms, request_id=request_id
            )
        )


DecideDep = Annotated[Decide, Depends()]


@router.get("/instruments/{plan_id}", operation_id="show_instrument", responses=problems(404, 422))
async def show_instrument(kernel: KernelDep, plan_id: PlanId) -> InstrumentView:
    """Rules, phase, reference price and halts of a plan (public)."""
    return await instruments.show_instrument(kernel, plan_id)


@router.put(
    "/instruments/{plan_id}/rules",
    operation_id="set_instrument_rules",
    response_model=InstrumentView,
    responses=_PUT,
)
async def set_instrument_rules(
    request: Request, engine: EngineDep, actor: OperatorDep, plan_id: PlanId, body: RulesInput
) -> Response:
    """Set tick, lots, price band and reference of an instrument."""
    request_id = request_id_of(request)
    return response_of(
        await decisions.set_rules(engine, actor, plan_id, body, request_id=request_id)
    )


@router.post(
    "/instruments/{plan_id}/halt",
    operation_id="halt_instrument",
    status_code=200,
    response_model=InstrumentView,
    responses=_CHANGE,
)
async def halt_instrument(decide: DecideDep, plan_id: PlanId, body: ReasonInput) -> Response:
    """Take cancels and reductions only, until resumed."""
    return await decide(ControlAction.HALT, plan_id, body.reason)


@router.post(
    "/instruments/{plan_id}/resume",
    operation_id="resume_instrument",
    status_code=200,
    response_model=InstrumentView,
    responses=_CHANGE,
)
async def resume_instrument(decide: DecideDep, plan_id: PlanId, body: ResumeInput) -> Response:
    """Lift the halt of an instrument, at once or through a call auction."""
    return await decide(ControlAction.RESUME, plan_id, body.reason, {"auction_s": body.auction_s})


@router.get("/market", operation_id="show_market")
async def show_market(kernel: KernelDep) -> MarketView:
    """Whether the whole market is halted, and why (public)."""
    return await instruments.show_market(kernel)


@router.post(
    "/market/halt",
    operation_id="halt_market",
    status_code=200,
    response_model=MarketView,
    responses=_MARKET_CHANGE,
)
async def halt_market(decide: DecideDep, body: ReasonInput) -> Response:
    """Halt every instrument; their own halts and auctions stay as they are."""
    return await decide(ControlAction.HALT_MARKET, MARKET, body.reason)


@router.post(
    "/market/resume",
    operation_id="resume_market",
    status_code=200,
    response_model=MarketView,
    responses=_MARKET_CHANGE,
)
async def resume_market(decide: DecideDep, body: ReasonInput) -> Response:
    """Lift the halt of the market."""
    return await decide(ControlAction.RESUME_MARKET, MARKET, body.reason)


@router.get(
    "/parties/{party_id}/trading", operation_id="show_trading", responses=problems(401, 404, 422)
)
async def show_trading(kernel: KernelDep, actor: ActorDep, party_id: PartyId) -> TradingView:
    """Kill switch and quotas of a party: to itself, operators and regulators."""
    return await instruments.show_trading(kernel, actor, party_id)


@router.post(
    "/parties/{party_id}/block-trading",
    operation_id="block_trading",
    status_code=200,
    response_model=TradingView,
    responses=_CHANGE,
)
async def block_trading(decide: DecideDep, party_id: PartyId, body: ReasonInput) -> Response:
    """Kill switch: cancel all orders of a party and refuse new ones, and quotes, until lifted."""
    return await decide(ControlAction.BLOCK, party_id, body.reason)


@router.post(
    "/parties/{party_id}/unblock-trading",
    operation_id="unblock_trading",
    status_code=200,
    response_model=TradingView,
    responses=_CHANGE,
)
async def unblock_trading(decide: DecideDep, party_id: PartyId, body: ReasonInput) -> Response:
    """Lift a party's kill switch; its cancelled orders stay cancelled."""
    return await decide(ControlAction.UNBLOCK, party_id, body.reason)


@router.put(
    "/parties/{party_id}/trading-quota",
    operation_id="set_trading_quota",
    response_model=TradingView,
    responses=_PUT,
)
async def set_trading_quota(
    request: Request, engine: EngineDep, actor: OperatorDep, party_id: PartyId, body: QuotaInput
) -> Response:
    """Limit a party's open orders on one instrument, and its messages per second."""
    request_id = request_id_of(request)
    return response_of(
        await decisions.set_quota(engine, actor, party_id, body, request_id=request_id)
    )
