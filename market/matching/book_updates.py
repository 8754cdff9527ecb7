"""The journal rows of a batch, made from what it told the books and what became of the orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from market.matching.journal import digest
from market.matching.journal_sql import UpdateRow
from market.matching.levels import Levels, pack_levels
from market.matching.matcher import Matcher
from market.matching.shard import Instrument, Shard
from market.matching.terms import UNLIMITED
from market.matching.touched import Touched

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def updates(
    shard: Shard, matcher: Matcher, *, first_seq: int, last_seq: int, now: datetime
) -> list[UpdateRow]:
    """One row per book that was given a step. Brings the books' levels up to date."""
    for touched in matcher.touched.values():
        _move(_levels(shard.instrument(touched.order.plan_id)), touched)
    at_us = microseconds(now)
    rows = []
    for plan_id, page in matcher.journal.pages.items():
        instrument = shard.instrument(plan_id)
        rows.append(
            update_row(
                plan_id,
                sequence=instrument.sequence + 1,
                checksum=matcher.checksum(plan_id),
                orders=len(instrument.book),
                first_seq=first_seq,
                last_seq=last_seq,
                at_us=at_us,
                steps=page.to_bytes(),
                levels=pack_levels(_levels(instrument).changes()),
            )
        )
    return rows


def update_row(
    plan_id: UUID,
    *,
    sequence: int,
    checksum: int,
    orders: int,
    first_seq: int,
    last_seq: int,
    at_us: int,
    steps: bytes,
    levels: bytes,
) -> UpdateRow:
    """A row with its digest; ``at_us`` is the batch's time, in microseconds since 1970."""
    mark = digest(
        plan_id,
        sequence=sequence,
        checksum=checksum,
        orders=orders,
        first_seq=first_seq,
        last_seq=last_seq,
        at_us=at_us,
        steps=steps,
        levels=levels,
    )
    return UpdateRow(plan_id, sequence, checksum, orders, first_seq, last_seq, steps, levels, mark)


def _levels(instrument: Instrument) -> Levels:
    if instrument.levels is None:
        # Live orders still are what they were before the batch.
        instrument.levels = Levels(
            (order.side, order.price, order.left) for order in instrument.orders.values()
        )
    return instrument.levels


def _move(levels: Levels, touched: Touched) -> None:
    """Take an order from where it rested before the batch to where it rests now."""
    order = touched.order
    if touched.admitted is None:
        levels.remove(order.side, order.price, order.left)
    if touched.status.is_open:
        lots = touched.lots
        left = UNLIMITED if lots is None else lots - touched.filled
        levels.add(order.side, touched.price, left)
