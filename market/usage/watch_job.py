"""The worker's part of the watch: raise alerts about the last hours' use, hold where it is wanted.

May run twice or at once: an alert is unique per rule, subject and day, and only a new alert holds.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from contracts.usage_hold_models import UsageSuspicion
from contracts.usage_holds import hold_if_guarded
from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.surveillance.alerts import raise_alerts
from market.surveillance.rules import Finding
from market.usage import countries, sql, watch
from market.usage.watch import Arrival, WatchLimits

RECENT = timedelta(hours=1)
HISTORY = timedelta(days=14)
WALK = timedelta(days=1)
ALERT_WINDOW_S = 86_400


async def examine_usage(kernel: Kernel, limits: WatchLimits | None = None) -> int:
    """Examine up to 200 grants used in the last hour; give how many alerts are new.

    Effects: ``surveillance.alert_raised`` each; holds, with ``usage.held``, where the agreement's
    guard names the suspicion.
    """
    limits = limits or WatchLimits()
    raised = 0
    for finding in await _findings(kernel, limits):
        async with kernel.unit_of_work() as uow:
            if await raise_alerts(uow, [finding], window_s=ALERT_WINDOW_S):
                raised += 1
                agreement_id: UUID = parse("agr", str(finding.figures["agreement_id"]))
                suspicion = UsageSuspicion(finding.rule.value)
                await hold_if_guarded(uow, kernel, agreement_id, suspicion)
    return raised


async def _findings(kernel: Kernel, limits: WatchLimits) -> list[Finding]:
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        since = uow.now - RECENT
        readers = await sql.read_used(connection, since)
        volumes = await sql.read_volumes(
            connection, readers, now=uow.now, since=since, history=uow.now - HISTORY
        )
        walks = await sql.read_walks(connection, readers, now=uow.now, since=uow.now - WALK)
        newcomers = await sql.read_newcomers(connection, readers, since=since)
        arrivals: list[Arrival] = []
        if newcomers and kernel.settings.country_database is not None:
            ids = {item.reader.grant_id for item in newcomers}
            before = await sql.read_addresses(connection, ids, until=since)
            arrivals = await asyncio.to_thread(
                countries.locate, kernel.settings.country_database, newcomers, before
            )
    return [
        *watch.spikes(volumes, limits),
        *watch.scrapes(walks, limits),
        *watch.newcomers(newcomers, limits),
        *watch.arrivals(arrivals, limits),
    ]
