"""What the kernel keeps, and for how long."""

from datetime import timedelta

from sqlalchemy import text

from market.kernel.context import Kernel

# Repeats come within minutes; a month covers a client that was switched off over a holiday.
ANSWERS_KEPT = timedelta(days=30)
# 数据安全法 art. 33 asks for transaction records, which the services keep; events only announce.
EVENTS_KEPT = timedelta(days=365)
BATCH = 1_000

_STATEMENTS = (
    (
        "DELETE FROM kernel.idempotent_answer WHERE (scope, key_hash) IN (SELECT scope, key_hash"
        " FROM kernel.idempotent_answer WHERE created_at < now() - CAST(:kept AS interval)"
        " LIMIT :batch)",
        ANSWERS_KEPT,
    ),
    (
        "DELETE FROM kernel.outbox WHERE seq IN (SELECT seq FROM kernel.outbox"
        " WHERE created_at < now() - CAST(:kept AS interval) LIMIT :batch)",
        EVENTS_KEPT,
    ),
)


async def prune(kernel: Kernel) -> int:
    """Delete old idempotent answers and events, at most 1,000 of each a run."""
    removed = 0
    for statement, kept in _STATEMENTS:
        async with kernel.unit_of_work() as uow:
            result = await uow.execute(text(statement), {"kept": kept, "batch": BATCH})
            removed += result.rowcount
    return removed
