"""The part of ``market ledger verify`` that looks for rows which no command accounts for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from settlement.verify_report import Progress, Report

if TYPE_CHECKING:
    from asyncpg import Connection

# Rows that no command in the chain accounts for: written past the ledger.
_ORPHANS = {
    "batch": (
        "SELECT b.id::text FROM settlement.batch b WHERE NOT EXISTS (SELECT 1 FROM "
        "settlement.chain_link l WHERE l.batch_id = b.id) ORDER BY b.id LIMIT 1"
    ),
    "command": (
        "SELECT c.key FROM settlement.command c WHERE NOT EXISTS (SELECT 1 FROM "
        "settlement.chain_link l WHERE l.batch_id = c.batch_id) ORDER BY c.key LIMIT 1"
    ),
    "transfer": (
        "SELECT t.id::text FROM settlement.transfer t WHERE NOT EXISTS (SELECT 1 FROM "
        "settlement.command c WHERE c.transfer_id = t.id) ORDER BY t.id LIMIT 1"
    ),
    "posting": (
        "SELECT p.account_id::text || '/' || p.seq FROM settlement.posting p WHERE NOT EXISTS "
        "(SELECT 1 FROM settlement.command c WHERE c.transfer_id = p.transfer_id) "
        "ORDER BY p.account_id, p.seq LIMIT 1"
    ),
    "hold": (
        "SELECT h.id::text FROM settlement.hold h WHERE NOT EXISTS (SELECT 1 FROM "
        "settlement.command c WHERE c.hold_id = h.id) ORDER BY h.id LIMIT 1"
    ),
    "hold_resolution": (
        "SELECT r.hold_id::text FROM settlement.hold_resolution r WHERE NOT EXISTS (SELECT 1 FROM "
        "settlement.command c WHERE c.resolved_hold_id = r.hold_id) ORDER BY r.hold_id LIMIT 1"
    ),
}


async def check_orphans(connection: Connection[Any], report: Report, tell: Progress) -> None:
    """Rows written past the ledger; the first of each table."""
    # Right after a burst the planner still believes in small tables, and would compare every row
    # with every command (85 s after a bench); a hash or merge join is right at any size.
    await connection.execute("SET LOCAL enable_nestloop = off")
    for done, (table, query) in enumerate(_ORPHANS.items(), start=1):
        row = await connection.fetchval(query)
        if row is not None:
            report.add("unchained", table, row, "no command in the chain made this row")
        tell("rows outside the chain", done, len(_ORPHANS))
    await connection.execute("SET LOCAL enable_nestloop = on")
