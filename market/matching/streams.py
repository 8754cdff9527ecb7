"""Server-sent events of market data and of own orders, from committed rows.

A stream reads the next portion when the last one was taken: what a reader has not taken waits in
the database, not in memory. One that takes nothing for ``SEND_TIMEOUT_S`` is cut, and resumes by
``Last-Event-ID``; one that is more than ``BEHIND_MAX`` behind gets a snapshot instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import orjson
from sse_starlette import ServerSentEvent

from market.kernel import events
from market.kernel.context import Kernel
from market.kernel.errors import TooMany
from market.kernel.schemas import BadCursor, decode_cursor, encode_cursor
from market.kernel.security import Actor
from market.matching import feed_sql, market_data
from market.matching.feed import read_ticker, read_updates
from market.matching.feed_schemas import Channel
from market.matching.schemas import BOOK_LEVELS_MAX, TradeView
from market.matching.views import read_views

if TYPE_CHECKING:
    from market.matching.sql import Record

POLL_S = 0.25
STREAM_MAX_S = 3_600
SEND_TIMEOUT_S = 10
HEARTBEAT_S = 15
PORTION = 100
BEHIND_MAX = 1_000
STREAMS_MAX = 10
SNAPSHOT_TRADES = 50
SNAPSHOT_ORDERS = 200


class TooManyStreams(TooMany):
    """The caller has as many streams open in this process as it may."""

    code = "too_many_streams"
    title = "Too many open streams"
    default_hint = "Close a stream first; one per plan and channel is enough."


class Streams:
    """Who has how many streams open in this process."""

    def __init__(self, limit: int = STREAMS_MAX) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    def check(self, caller: str) -> None:
        """Raises TooManyStreams (429)."""
        if self._open.get(caller, 0) >= self._limit:
            raise TooManyStreams(f"At most {self._limit}.")

    @contextmanager
    def counted(self, caller: str) -> Iterator[None]:
        """Count one while it is open."""
        self._open[caller] = self._open.get(caller, 0) + 1
        try:
            yield
        finally:
            left = self._open.pop(caller) - 1
            if left:
                self._open[caller] = left


class _Portion(NamedTuple):
    events: list[ServerSentEvent]
    position: int
    full: bool


async def follow(
    kernel: Kernel,
    streams: Streams,
    caller: str,
    plan_id: UUID,
    channel: Channel,
    position: int | None,
) -> AsyncIterator[ServerSentEvent]:
    """A channel of a plan that exists, after ``position`` or from a snapshot on."""
    deadline = asyncio.get_running_loop().time() + STREAM_MAX_S
    with streams.counted(caller):
        while asyncio.get_running_loop().time() < deadline:
            portion = await _READERS[channel](kernel, plan_id, position)
            position = portion.position
            for event in portion.events:
                yield event
            if not portion.full:
                await asyncio.sleep(POLL_S)


async def _book(kernel: Kernel, plan_id: UUID, position: int | None) -> _Portion:
    if position is not None:
        async with kernel.unit_of_work() as uow:
            found = await read_updates(uow, plan_id, after=position, limit=PORTION)
        if not found.gap and 0 <= found.sequence - position <= BEHIND_MAX:
            made = [
                _event("update", str(item.sequence), item.model_dump_json()) for item in found.items
            ]
            last = found.items[-1].sequence if found.items else position
            return _Portion(made, last, found.has_more)
    book = await market_data.show_book(kernel, plan_id, levels_max=BOOK_LEVELS_MAX)
    event = _event("snapshot", str(book.sequence), book.model_dump_json())
    return _Portion([event], book.sequence, full=True)


async def _trades(kernel: Kernel, plan_id: UUID, position: int | None) -> _Portion:
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        if position is not None:
            behind = await feed_sql.trades_since(connection, plan_id, position, BEHIND_MAX + 1)
            if behind <= BEHIND_MAX:
                rows = await feed_sql.trades_after(
                    connection, plan_id, after=position, limit=PORTION
                )
                made = [
                    _event("trade", str(row["seq"]), _trade(row).model_dump_json()) for row in rows
                ]
                last = rows[-1]["seq"] if rows else position
                return _Portion(made, last, len(rows) == PORTION)
        rows = await feed_sql.latest_trades(connection, plan_id, SNAPSHOT_TRADES)
    last = rows[-1]["seq"] if rows else 0
    data = orjson.dumps([_trade(row).model_dump(mode="json") for row in rows]).decode()
    return _Portion([_event("snapshot", str(last), data)], last, full=True)


async def _ticker(kernel: Kernel, plan_id: UUID, position: int | None) -> _Portion:
    async with kernel.unit_of_work() as uow:
        if await feed_sql.head(await uow.raw(), plan_id) == position:
            return _Portion([], position, full=False)
        ticker = await read_ticker(uow, plan_id)
    event = _event("ticker", str(ticker.sequence), ticker.model_dump_json())
    return _Portion([event], ticker.sequence, full=False)


_READERS = {Channel.BOOK: _book, Channel.TRADES: _trades, Channel.TICKER: _ticker}


async def follow_orders(
    kernel: Kernel, streams: Streams, actor: Actor, position: tuple[int, int] | None
) -> AsyncIterator[ServerSentEvent]:
    """The events of the actor's orders and trades; first its open orders, without a position."""
    deadline = asyncio.get_running_loop().time() + STREAM_MAX_S
    with streams.counted(str(actor.party_id)):
        if position is None:
            position, snapshot = await _open_orders(kernel, actor.party_id)
            yield snapshot
        while asyncio.get_running_loop().time() < deadline:
            async with kernel.unit_of_work() as uow:
                rows = await events.read(
                    await uow.raw(), position, party_id=actor.party_id, limit=PORTION
                )
            for row in rows:
                position = (row.txid, row.seq)
                if row.type.startswith("order.") or row.type == "trade.executed":
                    yield _event(
                        row.type, encode_cursor(*position), orjson.dumps(row.data).decode()
                    )
            if len(rows) < PORTION:
                await asyncio.sleep(POLL_S)


async def _open_orders(kernel: Kernel, party_id: UUID) -> tuple[tuple[int, int], ServerSentEvent]:
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        # What commits later has this transaction id or a greater one; what is read below may have
        # it too, and then is told again.
        oldest = await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        ids = await feed_sql.open_orders(connection, party_id, SNAPSHOT_ORDERS)
        views = await read_views(connection, ids)
    position = (int(oldest), 0)
    data = [views[order_id].model_dump(mode="json") for order_id in ids]
    return position, _event("snapshot", encode_cursor(*position), orjson.dumps(data).decode())


def sequence_of(last_event_id: str | None) -> int | None:
    """The sequence in a ``Last-Event-ID``. Raises BadCursor (422)."""
    if last_event_id is None:
        return None
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
        raise BadCursor(param="Last-Event-ID")
    return int(last_event_id)


def position_of(last_event_id: str | None) -> tuple[int, int] | None:
    """The place in the events of a ``Last-Event-ID``. Raises BadCursor (422)."""
    if last_event_id is None:
        return None
    parts = decode_cursor(last_event_id, 2)
    if not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
        raise BadCursor(param="Last-Event-ID")
    return int(parts[0]), int(parts[1])


def _event(kind: str, identity: str, data: str) -> ServerSentEvent:
    return ServerSentEvent(data=data, event=kind, id=identity)


def _trade(row: Record) -> TradeView:
    return TradeView(**{name: row[name] for name in row.keys() if name != "seq"})  # noqa: SIM118
