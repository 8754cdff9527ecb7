"""HTTP of market data: increments, ticker, candles, and the streams of them and of own orders."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from sse_starlette import EventSourceResponse

from market.kernel.http import KernelDep, problems
from market.kernel.ids import PlanId
from market.kernel.schemas import Moment, Page, PageQuery
from market.matching import feed
from market.matching.feed_schemas import BookUpdates, Candle, CandleInterval, Channel, Ticker
from market.matching.streams import (
    HEARTBEAT_S,
    SEND_TIMEOUT_S,
    Streams,
    follow,
    follow_orders,
    position_of,
    sequence_of,
)
from market.parties.access import ActorDep, OptionalActorDep

UPDATES_DEFAULT = 100
UPDATES_MAX = 1_000
SEQUENCE_MAX = 1 << 62

router = APIRouter(prefix="/v1", tags=["matching"])
_streams = Streams()

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=500)]


@router.get(
    "/instruments/{plan_id}/book/updates",
    operation_id="list_book_updates",
    responses=problems(404, 422),
)
async def list_book_updates(
    kernel: KernelDep,
    plan_id: PlanId,
    after: Annotated[int, Query(ge=0, le=SEQUENCE_MAX)],
    limit: Annotated[int, Query(ge=1, le=UPDATES_MAX)] = UPDATES_DEFAULT,
) -> BookUpdates:
    """What changed in a book after a sequence (public): apply each to the one before it."""
    return await feed.list_updates(kernel, plan_id, after=after, limit=limit)


@router.get(
    "/instruments/{plan_id}/ticker", operation_id="show_ticker", responses=problems(404, 422)
)
async def show_ticker(kernel: KernelDep, plan_id: PlanId) -> Ticker:
    """Best prices, last trade and the totals of 24 hours (public)."""
    return await feed.show_ticker(kernel, plan_id)


@router.get(
    "/instruments/{plan_id}/candles", operation_id="list_candles", responses=problems(404, 422)
)
async def list_candles(
    kernel: KernelDep,
    plan_id: PlanId,
    page: Annotated[PageQuery, Depends()],
    interval: CandleInterval,
    start: Moment | None = None,
    end: Moment | None = None,
) -> Page[Candle]:
    """Trades by buckets of UTC time, oldest first; buckets without trades are absent (public)."""
    return await feed.list_candles(kernel, plan_id, interval, page, start=start, end=end)


@router.get(
    "/market-data/stream",
    operation_id="stream_market_data",
    response_class=EventSourceResponse,
    responses=problems(404, 422, 429),
)
async def stream_market_data(
    request: Request,
    kernel: KernelDep,
    actor: OptionalActorDep,
    plan_id: PlanId,
    channel: Channel,
    last_event_id: LastEventId = None,
) -> EventSourceResponse:
    """A snapshot, then what changes, as server-sent events; resume with Last-Event-ID (public)."""
    position = sequence_of(last_event_id)
    await feed.show_ticker(kernel, plan_id)
    host = request.client.host if request.client is not None else ""
    caller = host if actor is None else str(actor.party_id)
    _streams.check(caller)
    return EventSourceResponse(
        follow(kernel, _streams, caller, plan_id, channel, position),
        ping=HEARTBEAT_S,
        send_timeout=SEND_TIMEOUT_S,
    )


@router.get(
    "/orders/stream",
    operation_id="stream_orders",
    response_class=EventSourceResponse,
    responses=problems(401, 422, 429),
)
async def stream_orders(
    kernel: KernelDep, actor: ActorDep, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """Own open orders, then their changes and trades; resume with Last-Event-ID."""
    position = position_of(last_event_id)
    _streams.check(str(actor.party_id))
    return EventSourceResponse(
        follow_orders(kernel, _streams, actor, position),
        ping=HEARTBEAT_S,
        send_timeout=SEND_TIMEOUT_S,
    )
