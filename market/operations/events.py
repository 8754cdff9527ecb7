"""The event feed of a party: pages to replay from, and a live stream (SSE) that resumes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from sse_starlette import EventSourceResponse, ServerSentEvent

from market.kernel import events
from market.kernel.context import Kernel
from market.kernel.http import KernelDep, problems
from market.kernel.ids import EventId
from market.kernel.schemas import BadCursor, Page, PageQuery, Schema, decode_cursor, encode_cursor
from market.kernel.security import Actor, Role
from market.parties.access import ActorDep

router = APIRouter(prefix="/v1/events", tags=["operations"])

POLL_S = 0.5
STREAM_MAX_S = 3_600
STREAM_BATCH = 100


class EventView(Schema):
    """One fact. ``object_id`` is the bare UUID of what it is about; delivered at least once."""

    id: EventId
    type: str
    object_id: UUID
    data: dict[str, Any]
    created_at: datetime


@router.get("", operation_id="list_events", responses=problems(401))
async def list_events(
    kernel: KernelDep, actor: ActorDep, page: Annotated[PageQuery, Depends()]
) -> Page[EventView]:
    """Events the caller may read, oldest first; staff read all. Ordered per object."""
    position = _position(page.after)
    async with kernel.unit_of_work() as uow:
        rows = await events.read(
            await uow.raw(), position, party_id=_scope(actor), limit=page.limit + 1
        )
    return Page[EventView].of(
        [_view(row) for row in rows], page.limit, [(row.txid, row.seq) for row in rows]
    )


@router.get(
    "/stream",
    operation_id="stream_events",
    response_class=EventSourceResponse,
    responses=problems(401),
)
async def stream_events(
    kernel: KernelDep,
    actor: ActorDep,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=500)] = None,
) -> EventSourceResponse:
    """The same events as server-sent events; resume with Last-Event-ID."""
    return EventSourceResponse(_follow(kernel, actor, _position(last_event_id)))


async def _follow(
    kernel: Kernel, actor: Actor, position: tuple[int, int]
) -> AsyncIterator[ServerSentEvent]:
    deadline = asyncio.get_running_loop().time() + STREAM_MAX_S
    while asyncio.get_running_loop().time() < deadline:
        async with kernel.unit_of_work() as uow:
            rows = await events.read(
                await uow.raw(), position, party_id=_scope(actor), limit=STREAM_BATCH
            )
        for row in rows:
            position = (row.txid, row.seq)
            body = _view(row).model_dump_json()
            yield ServerSentEvent(data=body, event=row.type, id=encode_cursor(*position))
        if len(rows) < STREAM_BATCH:
            await asyncio.sleep(POLL_S)


def _scope(actor: Actor) -> UUID | None:
    return None if actor.has(Role.OPERATOR, Role.REGULATOR) else actor.party_id


def _position(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return (0, 0)
    try:
        txid, seq = (int(part) for part in decode_cursor(cursor, 2))
    except ValueError as error:
        raise BadCursor(param="after") from error
    if not (0 <= txid < 2**62 and 0 <= seq < 2**62):
        raise BadCursor(param="after")
    return (txid, seq)


def _view(row: events.StoredEvent) -> EventView:
    return EventView(
        id=row.id,
        type=row.type,
        object_id=row.object_id,
        data=row.data,
        created_at=row.created_at,
    )
