"""The whole ledger as a file; `bean-check`, an outside judge, accepts it and finds mistakes."""

import csv
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from settlement import beancount_text, exports
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Applied, Capture, Transfer
from settlement.exports import Exported, ExportFormat, export_ledger
from tests.settlement.factories import available, book, fund, hold, now, transfer

BEAN_CHECK = Path(sys.executable).with_name("bean-check")
OWNER = UUID("0190f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6")


@pytest.fixture(scope="module")
async def books(kernel: Kernel) -> AccountRef:
    """Four currencies with 0, 2 and 3 decimals, every kind of account, a hold, a reversal."""
    source = await fund(kernel, new_id(), 1_000_05)
    later = await now(kernel) + timedelta(days=9)
    kept = hold(source, 300_00, later)
    await book(kernel, kept)
    escrow = AccountRef(AccountKind.ESCROW, new_id(), "CNY")
    memo = new_id()
    capture = Capture(f"e:{memo.hex}", kept.hold_id, "sale", ((escrow, 299_99),), memo_id=memo)
    await book(kernel, capture)
    legs = (
        (escrow, -299_99),
        (available(new_id()), 250_00),
        (AccountRef(AccountKind.FEES, None, "CNY"), 49_99),
    )
    await book(kernel, Transfer(f"e:{new_id().hex}", "release", legs, event_at=later))
    for currency, amount in (("JPY", 12_345), ("KWD", 1_234_567), ("USD", 99)):
        await fund(kernel, new_id(), amount, currency)
    owner = new_id()
    dollars = await fund(kernel, owner, 100_00, "USD")
    fx = Transfer(
        f"e:{new_id().hex}",
        "exchange",
        (
            (dollars, -10_00),
            (AccountRef(AccountKind.FX, None, "USD"), 10_00),
            (AccountRef(AccountKind.FX, None, "CNY"), -71_23),
            (available(owner), 71_23),
        ),
    )
    await book(kernel, fx)
    (done,) = await book(kernel, transfer(source, available(new_id()), 7))
    assert isinstance(done, Applied)
    other = AccountRef(AccountKind.IN_TRANSIT, None, "CNY")
    loss = AccountRef(AccountKind.LOSSES, None, "CNY")
    debt = AccountRef(AccountKind.RECEIVABLE, new_id(), "CNY")
    frozen = AccountRef(AccountKind.FROZEN, new_id(), "CNY")
    await book(
        kernel, transfer(source, other, 1), transfer(loss, source, 2), transfer(debt, frozen, 3)
    )
    return source


def written(kernel: Kernel, folder: Path, format_: ExportFormat) -> Path:
    return folder / f"ledger.{format_.value}"


async def export(kernel: Kernel, path: Path, format_: ExportFormat) -> Exported:
    assert kernel.settings.database_url is not None
    return await export_ledger(kernel.settings.database_url, path, format_)


def bean_check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BEAN_CHECK), "--no-cache", str(path)], capture_output=True, text=True, timeout=60
    )


async def test_bean_check_accepts_our_books(
    kernel: Kernel, books: AccountRef, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.beancount"
    done = await export(kernel, path, ExportFormat.BEANCOUNT)
    text = path.read_text()
    assert text.count(" open ") == done.accounts == text.count(" balance ")
    assert text.count("    seq: ") == done.postings
    checked = bean_check(path)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    for name in ("Liabilities:Escrow:P", "Income:Fees:CNY", "Equity:Exchange:USD", "KWD"):
        assert name in text
    assert re.search(r"Liabilities:Available:P[0-9A-F]{32}:KWD  -1234\.567 KWD", text)
    assert re.search(r"Liabilities:Available:P[0-9A-F]{32}:JPY  -12345 JPY", text)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        # A leg one fen off; a balance one fen off; a posting in another currency.
        ((r"(Income:Fees:CNY  -49\.9)9( CNY)", r"\g<1>8\2"), "does not balance"),
        ((r"(balance Income:Fees:CNY  -49\.9)9", r"\g<1>8"), "Balance failed"),
        ((r"(Income:Fees:CNY  -49\.99) CNY", r"\1 USD"), "Invalid currency"),
        ((r"\n[-0-9]+ open Income:Fees:CNY CNY\n[^\n]*", "\n"), "unknown account"),
        ((r"(balance [^\n]*:JPY  -1234)5", r"\g<1>6"), "Balance failed"),
    ],
)
async def test_bean_check_finds_a_planted_mistake(
    kernel: Kernel, books: AccountRef, tmp_path: Path, planted: tuple[str, str], complaint: str
) -> None:
    path = tmp_path / "ledger.beancount"
    await export(kernel, path, ExportFormat.BEANCOUNT)
    text = path.read_text()
    changed, places = re.subn(planted[0], planted[1], text, count=1)
    assert places == 1
    path.write_text(changed)
    checked = bean_check(path)
    assert checked.returncode == 1
    assert complaint in checked.stderr + checked.stdout


async def test_the_other_formats_have_every_posting(
    kernel: Kernel, books: AccountRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "LINKS_PER_READ", 3)
    monkeypatch.setattr(exports, "ROWS_PER_PIECE", 5)
    paths = {format_: written(kernel, tmp_path, format_) for format_ in ExportFormat}
    counts = {await export(kernel, path, format_) for format_, path in paths.items()}
    assert len(counts) == 1
    (done,) = counts
    with paths[ExportFormat.CSV].open(newline="") as file:
        rows = list(csv.DictReader(file))
    documents = json.loads(paths[ExportFormat.JSON].read_bytes())
    table = pq.read_table(paths[ExportFormat.PARQUET]).to_pylist()
    async with kernel.unit_of_work() as uow:
        stored = await (await uow.raw()).fetch(
            "SELECT account_id, seq, amount, balance FROM settlement.posting"
        )
    wanted = {
        (show("acc", row["account_id"]), row["seq"]): (row["amount"], row["balance"])
        for row in stored
    }
    assert done.postings == len(wanted) == len(rows)
    for form in (rows, documents, table):
        found = {
            (row["account_id"], int(row["seq"])): (
                int(row["amount_minor"]),
                int(row["balance_minor"]),
            )
            for row in form
        }
        assert found == wanted
    order = [(row["link"], row["ordinal"], row["account_id"]) for row in table]
    assert order == sorted(order, key=lambda item: item[:2])
    assert [row["transfer_id"] for row in documents] == [row["transfer_id"] for row in table]


async def test_a_failed_export_leaves_the_old_file(
    kernel: Kernel, books: AccountRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text("old")

    def broken(_row: object) -> tuple[object, ...]:
        raise OSError("disk full")

    monkeypatch.setattr(exports, "_values", broken)
    with pytest.raises(OSError, match="disk full"):
        await export(kernel, path, ExportFormat.CSV)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_names_and_days_are_beancounts() -> None:
    ref = AccountRef(AccountKind.AVAILABLE, OWNER, "CNY")
    name = "Liabilities:Available:P0190F3A1B2C37D4E8F90A1B2C3D4E5F6:CNY"
    assert beancount_text.account_name(ref) == name
    names = {
        beancount_text.account_name(
            AccountRef(
                kind,
                OWNER if kind in ("available", "receivable", "escrow", "frozen") else None,
                "CNY",
            )
        )
        for kind in AccountKind
    }
    assert len(names) == len(AccountKind)
    assert all(re.fullmatch(r"[A-Z]\w+(:[A-Z][A-Za-z0-9]*)+", name) for name in names)
    eve = datetime(2026, 12, 31, 23, 59, 59, 999_999, UTC)
    assert beancount_text.balance(ref, 5, eve) == f"2027-01-01 balance {name}  -0.05 ~ 0 CNY\n"


def test_beancount_is_no_part_of_the_product() -> None:
    """It is GPL-2: our tests may call it, our code may not import it."""
    roots = [Path(__file__).parents[2] / name for name in ("settlement", "market", "contracts")]
    for path in (file for root in roots for file in root.rglob("*.py")):
        assert not re.search(r"^\s*(import|from) beancount\b", path.read_text(), re.M), path
