"""What people read after ``market ledger verify``."""

import io

import pytest
from rich.console import Console

from market.ledger_report import show
from settlement.verify import FINDINGS_MAX, Report


@pytest.fixture
def page() -> Console:
    return Console(file=io.StringIO(), width=160, no_color=True)


def text_of(page: Console) -> str:
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


def test_a_sound_ledger_says_so_with_its_figures(page: Console) -> None:
    show(Report(links=3, commands=5, transfers=4, postings=9, accounts=2, head_number=3), page)
    assert text_of(page).splitlines() == [
        "Read 3 batches, 5 commands, 4 transfers, 9 postings, 2 accounts, 0 checkpoints; "
        "head 3 0000000000000000…",
        "The ledger verifies: zero-sum, balances, holds, hash chain.",
    ]


def test_findings_name_check_table_and_row(page: Console) -> None:
    report = Report()
    report.add("balance", "posting", "acc/7", "balance is 3, not 4")
    show(report, page)
    text = text_of(page)
    assert "The ledger does not verify" in text
    assert "The ledger verifies" not in text
    row = next(line for line in text.splitlines() if "acc/7" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "balance",
        "posting",
        "acc/7",
        "balance is 3, not 4",
    ]
    assert "Only the first" not in text


def test_a_cut_list_of_findings_says_so(page: Console) -> None:
    report = Report()
    for number in range(FINDINGS_MAX + 5):
        report.add("leaf", "transfer", number, "gone")
    show(report, page)
    assert text_of(page).splitlines()[-1] == f"Only the first {FINDINGS_MAX} findings are listed."
