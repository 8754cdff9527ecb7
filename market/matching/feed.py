"""Market data from committed rows, in any process: updates of a book, ticker, candles."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import Invalid
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.matching import feed_sql
from market.matching.feed_schemas import (
    BookUpdates,
    BookUpdateView,
    Candle,
    CandleInterval,
    LevelUpdate,
    Ticker,
)
from market.matching.levels import unpack_levels
from market.matching.models import OrderSide
from market.matching.terms import Side
from pricing import plans

_SIDES = {Side.BUY: OrderSide.BUY, Side.SELL: OrderSide.SELL}


class PeriodInvalid(Invalid):
    """The end of a period is not after its beginning."""

    code = "period_invalid"
    title = "The period ends before it begins"


async def list_updates(kernel: Kernel, plan_id: UUID, *, after: int, limit: int) -> BookUpdates:
    """Updates of a book after a sequence. Raises PlanNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        await plans.get_plan(uow, plan_id)
        return await read_updates(uow, plan_id, after=after, limit=limit)


async def read_updates(uow: UnitOfWork, plan_id: UUID, *, after: int, limit: int) -> BookUpdates:
    """As :func:`list_updates`, of a plan that exists."""
    connection = await uow.raw()
    # The head first: it may be behind the rows, never ahead of them.
    head = await feed_sql.head(connection, plan_id)
    rows = await feed_sql.updates(connection, plan_id, after=after, limit=limit + 1)
    gap = rows[0]["sequence"] != after + 1 if rows else head > after
    items = [
        BookUpdateView(
            sequence=row["sequence"],
            at=row["at"],
            levels=[
                LevelUpdate(
                    side=_SIDES[Side(change.side)],
                    price_minor=change.price,
                    lots=change.lots,
                    orders=change.orders,
                    unlimited=bool(change.unlimited),
                )
                for change in unpack_levels(row["levels"])
            ],
        )
        for row in rows[:limit]
    ]
    sequence = max(head, rows[-1]["sequence"] if rows else 0)
    return BookUpdates(
        plan_id=plan_id, sequence=sequence, gap=gap, has_more=len(rows) > limit, items=items
    )


async def show_ticker(kernel: Kernel, plan_id: UUID) -> Ticker:
    """The last 24 hours of a plan. Raises PlanNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return await read_ticker(uow, plan_id)


async def read_ticker(uow: UnitOfWork, plan_id: UUID) -> Ticker:
    """As :func:`show_ticker`; it is at least as new as its ``sequence``."""
    plan = await plans.get_plan(uow, plan_id)
    connection = await uow.raw()
    sequence = await feed_sql.head(connection, plan_id)
    best = await feed_sql.best(connection, plan_id)
    day = await feed_sql.day(connection, plan_id, uow.now)
    return Ticker(
        plan_id=plan_id,
        currency=plan.currency,
        at=uow.now,
        sequence=sequence,
        last_minor=best["last"],
        open_minor=day["open"],
        high_minor=day["high"],
        low_minor=day["low"],
        trades=day["trades"],
        volume_lots=day["lots"],
        turnover_minor=int(day["turnover"]),
        bid_minor=best["bid"],
        ask_minor=best["ask"],
    )


async def list_candles(
    kernel: Kernel,
    plan_id: UUID,
    interval: CandleInterval,
    page: PageQuery,
    *,
    start: datetime | None,
    end: datetime | None,
) -> Page[Candle]:
    """Buckets with trades, oldest first: from the one that holds ``start`` (by default the
    beginning of time) to those that begin before ``end`` (by default now).

    Raises PlanNotFound (404), PeriodInvalid and BadCursor (422).
    """
    if start is not None and end is not None and start >= end:
        raise PeriodInvalid(param="end")
    async with kernel.unit_of_work() as uow:
        await plans.get_plan(uow, plan_id)
        # Nothing was traded before 1970 or in the future: so no moment is beyond a database's.
        until = uow.now + interval.span
        until = until if end is None else min(end, until)
        begin = None if start is None else min(start, until)
        rows = await feed_sql.candles(
            await uow.raw(),
            plan_id,
            span=interval.span,
            begin=_after(page) or _floor(begin, interval),
            end=until,
            limit=page.limit + 1,
        )
    candles = [
        Candle(
            start=row["start"],
            open_minor=row["open"],
            high_minor=row["high"],
            low_minor=row["low"],
            close_minor=row["close"],
            volume_lots=row["lots"],
            turnover_minor=int(row["turnover"]),
            trades=row["trades"],
        )
        for row in rows
    ]
    ends = [(int((candle.start + interval.span).timestamp()),) for candle in candles]
    return Page.of(candles, page.limit, ends)


def _floor(moment: datetime | None, interval: CandleInterval) -> datetime:
    if moment is None:
        return datetime.fromtimestamp(0, UTC)
    seconds = int(interval.span.total_seconds())
    since = max(int(moment.timestamp()), 0)
    return datetime.fromtimestamp(since // seconds * seconds, UTC)


def _after(page: PageQuery) -> datetime | None:
    key = page.key(1)
    if key is None:
        return None
    if not (key[0].isascii() and key[0].isdigit() and len(key[0]) <= 11):
        raise BadCursor(param="after")
    return datetime.fromtimestamp(int(key[0]), UTC)
