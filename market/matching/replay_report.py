"""``market matching replay`` for people: progress bars, the rebuilt books, what diverged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from market.kernel.context import open_kernel
from market.kernel.ids import parse, show
from market.kernel.settings import Settings
from market.matching.book_proof import BookReport, Progress as Tell, heads, prove_book
from market.matching.terms import Level


def replay(
    settings: Settings, plan: str | None, *, at: int | None = None, console: Console | None = None
) -> bool:
    """Rebuild one book or all of them and print each; returns whether all are sound.

    ``plan`` (``pln_…``) None means all, of which only the unsound are drawn. Raises ValueError
    for another form of id, BookUnknown, and DatabaseUnavailable.
    """
    console = console or Console()
    identity = None if plan is None else parse("pln", plan)
    return asyncio.run(_replay(settings, identity, at, console))


async def _replay(
    settings: Settings, plan_id: UUID | None, at: int | None, console: Console
) -> bool:
    kernel = open_kernel(settings)
    books = unsound = updates = trades = 0
    try:
        for head in await heads(kernel, plan_id):
            with _progress(console) as tell:
                report = await prove_book(kernel, head, at=at, progress=tell)
            books += 1
            updates += report.sequence
            trades += report.trades
            unsound += report.diverged is not None
            if plan_id is not None or report.diverged is not None:
                _show(report, console)
    finally:
        await kernel.close()
    if plan_id is None:
        console.print(
            f"{books} books, {updates} updates, {trades} trades: "
            + (f"{unsound} books diverge" if unsound else "all rebuilt as stored")
        )
    return not unsound


@contextmanager
def _progress(console: Console) -> Iterator[Tell]:
    """A bar per book, gone when it is done."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("updates", total=None)

        def tell(plan_id: UUID, done: int, total: int) -> None:
            progress.update(task, description=show("pln", plan_id), completed=done, total=total)

        yield tell


def _show(report: BookReport, console: Console) -> None:
    table = Table(title=f"{show('pln', report.plan_id)} at sequence {report.sequence}")
    for name in ("bid lots", "bid", "ask", "ask lots"):
        table.add_column(name, justify="right")
    for index in range(max(len(report.bids), len(report.asks))):
        bid = report.bids[index] if index < len(report.bids) else None
        ask = report.asks[index] if index < len(report.asks) else None
        table.add_row(_lots(bid), _price(bid), _price(ask), _lots(ask))
    console.print(table)
    console.print(f"orders {report.orders}  checksum {report.checksum}")
    console.print(f"trades {report.trades}  digest {report.trades_digest}", soft_wrap=True)
    if report.diverged is not None:
        wrong = report.diverged
        console.print(f"DIVERGES at sequence {wrong.sequence}: {wrong.reason}", soft_wrap=True)


def _price(level: Level | None) -> str:
    return "" if level is None else str(level.price)


def _lots(level: Level | None) -> str:
    if level is None:
        return ""
    if level.unlimited:
        return f"{level.lots} + unlimited" if level.lots else "unlimited"
    return str(level.lots)
