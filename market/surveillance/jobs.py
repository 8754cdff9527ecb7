"""The worker's part: examine the trades that are new, a bounded portion a run.

A trade is examined a while after it was made, so that orders cancelled after it are seen. May run
twice or at once: the watermark's row is locked, and alerts are unique.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.settings import SurveillanceLimits
from market.surveillance import rules, sql
from market.surveillance.alerts import raise_alerts
from market.surveillance.rules import Finding
from market.surveillance.sql import Reach

TRADES_MAX = 500
# Ids carry the clock of the process that made them, which may be behind.
CLOCK_MARGIN = timedelta(minutes=1)

_LOCK = "SELECT trade_seq FROM surveillance.progress WHERE id = 1 FOR UPDATE SKIP LOCKED"
_MOVE = "UPDATE surveillance.progress SET trade_seq = $1 WHERE id = 1"


async def examine_trades(kernel: Kernel) -> int:
    """Raise alerts about the next trades. Returns how many trades were examined, at most 500."""
    limits = kernel.settings.surveillance
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        after: int | None = await connection.fetchval(_LOCK)
        if after is None:
            return 0
        settled = uow.now - timedelta(seconds=limits.order_life_s)
        last = await sql.portion_end(connection, after, until=settled, limit=TRADES_MAX)
        if last is None:
            return 0
        reach = Reach(after, last, settled - timedelta(seconds=limits.window_s))
        findings = await _findings(kernel, uow, reach, limits)
        await raise_alerts(uow, findings, window_s=limits.window_s)
        await connection.execute(_MOVE, last)
    # Sequence numbers have gaps; what counts is that there may be more.
    return last - after


async def _findings(
    kernel: Kernel, uow: UnitOfWork, reach: Reach, limits: SurveillanceLimits
) -> list[Finding]:
    connection = await uow.raw()
    prints, affiliated = await sql.read_prints(connection, reach)
    # Ids are made by real time, which the sandbox's clock runs ahead of.
    oldest = reach.since - kernel.clock.offset - CLOCK_MARGIN
    pressure = await sql.read_pressure(
        connection,
        reach,
        oldest_order=UUID(int=int(oldest.timestamp() * 1_000) << 80),
        life_s=limits.order_life_s,
        size_factor=limits.size_factor,
        near_ppm=limits.near_ppm,
    )
    return [
        *rules.affiliated(affiliated),
        *rules.circular(
            await sql.read_flows(connection, reach),
            trades_min=limits.circular_trades,
            return_ppm=limits.circular_return_ppm,
        ),
        *rules.cancelled_pressure(
            pressure, orders_min=limits.pressure_orders, cancelled_ppm=limits.pressure_cancelled_ppm
        ),
        *rules.price_jumps(
            prints, earlier_min=limits.jump_earlier_trades, jump_ppm=limits.jump_ppm
        ),
        *rules.off_valuation(prints, tolerance_ppm=limits.valuation_tolerance_ppm),
        *rules.concentrated(
            await sql.read_parts(connection, reach),
            trades_min=limits.concentration_trades,
            parties_min=limits.concentration_parties,
            share_ppm=limits.concentration_ppm,
        ),
    ]
