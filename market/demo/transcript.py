"""The demo's readable transcript: acts, steps, amounts, tables, progress bars."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from market.kernel.money import display


class Transcript:
    """Prints what happens, in the order in which it happens."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def act(self, number: int, title: str) -> None:
        """A new act of the walk."""
        self.console.print()
        self.console.rule(f"[bold]{number}. {title}", align="left")

    def step(self, who: str, what: str, detail: str = "") -> None:
        """One thing that a participant did and what came of it."""
        tail = f"  [dim]{detail}[/dim]" if detail else ""
        self.console.print(f"  [cyan]{who:<20}[/cyan] {what}{tail}", highlight=False)

    def refusal(self, who: str, what: str, status: int, code: str, detail: str) -> None:
        """A refusal that the walk expects; a refusal is never charged."""
        answer = f"[yellow]{status} {code}[/yellow]  [dim]{detail}[/dim]"
        self.console.print(f"  [cyan]{who:<20}[/cyan] {what}  {answer}", highlight=False)

    def amounts(self, title: str, rows: Mapping[str, int], currency: str) -> None:
        """A small table of amounts in minor units, shown with their decimals."""
        table = Table(
            title=title, title_justify="left", show_header=False, box=None, padding=(0, 2)
        )
        table.add_column(style="dim")
        table.add_column(justify="right")
        for name, amount_minor in rows.items():
            table.add_row(name, display(amount_minor, currency))
        self.console.print(table)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of text."""
        made = Table(title=title, title_justify="left", header_style="dim")
        for column in columns:
            made.add_column(column)
        for row in rows:
            made.add_row(*row)
        self.console.print(made)

    @contextmanager
    def transfer(self, label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """A progress bar over bytes; yields what advances it."""
        progress = Progress(
            TextColumn(f"  [cyan]{'':<20}[/cyan] {label}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        with progress:
            task = progress.add_task(label, total=total_bytes)
            yield lambda count: progress.advance(task, count)
