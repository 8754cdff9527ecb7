"""Runs the ledger's verification for people: a progress bar, then what was read and found."""

import asyncio
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from market.kernel.context import open_kernel
from market.kernel.settings import Settings
from settlement.verify import FINDINGS_MAX, Report, verify_ledger


def verify(
    settings: Settings,
    *,
    since: int | None,
    checkpoint: Path | None,
    jwks: Path | None,
    console: Console | None = None,
) -> bool:
    """Check the ledger, print the report, and return whether it is sound.

    ``jwks`` is a saved key set to judge ``checkpoint`` by; without it our own keys are used.
    Raises OSError for unreadable files, ValueError for a ``jwks`` that is no JSON, and asyncpg's
    errors when the database cannot be read.
    """
    console = console or Console()
    assert settings.database_url is not None
    keys = json.loads(jwks.read_text()) if jwks else asyncio.run(_own_keys(settings))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        bars: dict[str, Any] = {}

        def tell(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                bars[phase] = progress.add_task(phase)
            progress.update(bars[phase], completed=done, total=total)

        report = asyncio.run(
            verify_ledger(
                settings.database_url,
                since=since,
                checkpoint=checkpoint,
                jwks=keys,
                progress=tell,
            )
        )
    show(report, console)
    return report.ok


async def _own_keys(settings: Settings) -> dict[str, Any]:
    kernel = open_kernel(settings)
    try:
        return dict(kernel.keys.jwks())
    finally:
        await kernel.close()


def show(report: Report, console: Console) -> None:
    """Print a report: one line of figures, then each finding with its row."""
    console.print(
        f"Read {report.links} batches, {report.commands} commands, {report.transfers} transfers, "
        f"{report.postings} postings, {report.accounts} accounts, "
        f"{report.checkpoints} checkpoints; head {report.head_number} {report.head_hash[:16]}…",
        highlight=False,
    )
    if report.ok:
        console.print("[green]The ledger verifies: zero-sum, balances, holds, hash chain.[/green]")
        return
    table = Table("check", "table", "row", "what is wrong", title="The ledger does not verify")
    for finding in report.findings:
        table.add_row(finding.check, finding.table, finding.row, finding.detail)
    console.print(table)
    if len(report.findings) == FINDINGS_MAX:
        console.print(f"Only the first {FINDINGS_MAX} findings are listed.")
