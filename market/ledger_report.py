"""The ledger's tools for people: verification, proofs and exports, with progress bars."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from market.kernel.clock import Clock
from market.kernel.context import open_kernel
from market.kernel.ids import parse
from market.kernel.security import Keyring
from market.kernel.settings import Settings
from settlement import proofs
from settlement.exports import ExportFormat, export_ledger
from settlement.verify import verify_ledger
from settlement.verify_report import FINDINGS_MAX, Progress as TellProgress, Report


def verify(
    settings: Settings,
    *,
    since: int | datetime | None,
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
    keys = json.loads(jwks.read_text()) if jwks else keys_of(settings)
    with _progress(console) as tell:
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


@contextmanager
def _progress(console: Console) -> Iterator[TellProgress]:
    """A bar per phase, gone when all is done."""
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

        yield tell


def keys_of(settings: Settings) -> dict[str, Any]:
    """Our own public keys, from their folder: no database is needed.

    Raises ValueError when there are none, or a file holds something else.
    """
    folder = settings.signing_key_dir or settings.home / "keys"
    keyring = Keyring.load(folder, issuer=settings.issuer, clock=Clock(), create=False)
    return dict(keyring.jwks())


def prove(settings: Settings, transfer: str) -> bytes:
    """The proof of a transfer (``txn_…``), as its file.

    Raises ValueError for another form of id, and what ``settlement.proofs.prove`` raises.
    """
    identity = parse("txn", transfer)

    async def read() -> bytes:
        kernel = open_kernel(settings)
        try:
            async with kernel.unit_of_work() as uow:
                return (await proofs.prove(uow, identity)).to_bytes()
        finally:
            await kernel.close()

    return asyncio.run(read())


def export(
    settings: Settings, path: Path, format_: ExportFormat, console: Console | None = None
) -> str:
    """Write the whole ledger to ``path``; returns a line about it.

    Raises OSError when it cannot be written, and asyncpg's errors.
    """
    assert settings.database_url is not None
    with _progress(console or Console()) as tell:
        done = asyncio.run(export_ledger(settings.database_url, path, format_, progress=tell))
    return (
        f"Written to {path}: {done.postings} postings of {done.accounts} accounts, "
        f"links 1 to {done.links}."
    )


def show(report: Report, console: Console) -> None:
    """Print a report: one line of figures, then each finding with its row."""
    console.print(
        f"Read {report.links} batches, {report.commands} commands, {report.transfers} transfers, "
        f"{report.postings} postings, {report.accounts} accounts, "
        f"{report.checkpoints} checkpoints; head {report.head_number} {report.head_hash[:16]}…",
        highlight=False,
    )
    for skipped in report.skipped:
        console.print(f"Not checked: {skipped}.", highlight=False)
    if report.ok:
        console.print("[green]The ledger verifies: zero-sum, balances, holds, hash chain.[/green]")
        return
    table = Table("check", "table", "row", "what is wrong", title="The ledger does not verify")
    for finding in report.findings:
        table.add_row(finding.check, finding.table, finding.row, finding.detail)
    console.print(table)
    if len(report.findings) == FINDINGS_MAX:
        console.print(f"Only the first {FINDINGS_MAX} findings are listed.")
