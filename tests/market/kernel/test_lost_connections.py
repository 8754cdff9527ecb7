"""Connections that the server ends at any moment: every loss is told, no connection is kept."""

import asyncio
import contextvars
import gc
import random

import asyncpg

from market.kernel.context import Kernel, open_kernel
from market.kernel.db import DatabaseUnavailable
from market.kernel.settings import Settings

LOSSES = 40
WRITERS = 6
# Ends one transaction of this database's application, wherever it is.
_END_ONE = """
SELECT count(*) FROM (
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND application_name = 'market'
      AND datname = current_database() AND xact_start IS NOT NULL LIMIT 1
) k
"""


async def _copy_until(over: asyncio.Event, kernel: Kernel) -> int:
    """COPY leaves asyncpg in states that a plain statement does not. Counts what was refused."""
    refused = 0
    rows = [(n, "x" * 50) for n in range(1_000)]
    while not over.is_set():
        try:
            async with kernel.unit_of_work() as uow:
                connection = await uow.raw()
                await connection.execute("CREATE TEMP TABLE IF NOT EXISTS copied (n int, t text)")
                for _ in range(3):
                    await connection.copy_records_to_table("copied", records=rows)
        except DatabaseUnavailable:
            refused += 1
    return refused


async def test_a_connection_cut_in_a_copy_is_unavailable_and_leaves_the_pool(
    settings: Settings,
) -> None:
    kernel = open_kernel(settings)
    over, chance, ended = asyncio.Event(), random.Random(4), 0
    admin = await asyncpg.connect(settings.database_url)
    try:
        # An engine's first connection asks questions of SQLAlchemy's own; they are not the matter.
        async with kernel.unit_of_work():
            pass
        writers = [
            asyncio.create_task(_copy_until(over, kernel), context=contextvars.copy_context())
            for _ in range(WRITERS)
        ]
        while ended < LOSSES:
            await asyncio.sleep(chance.uniform(0.001, 0.02))
            ended += await admin.fetchval(_END_ONE)
        over.set()
        # Any other exception ends its writer and is raised here.
        assert sum(await asyncio.gather(*writers)) > 0
        # A kept connection would make the collector warn, and a warning fails the test.
        gc.collect()
        assert kernel.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    finally:
        over.set()
        await admin.close()
        await kernel.close()
