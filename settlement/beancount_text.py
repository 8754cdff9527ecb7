"""The ledger in Beancount's language, which `bean-check` judges. Pure; no import of Beancount.

Beancount writes debits as positive, our ledger credits: every amount changes its sign. Amounts
are major units with all digits of the currency. Directives are dated by booking day (UTC);
balances are asserted on the day after, without tolerance ("~ 0").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from market.kernel.ids import show
from market.kernel.money import decimal_text, exponent
from settlement.accounts import AccountKind, AccountRef

HEAD = 'option "title" "Data Element Market: the ledger"\n\n'
# What the exchange owes, owns and earns; fx is its own position between currencies.
_ROOTS = {
    AccountKind.AVAILABLE: "Liabilities:Available",
    AccountKind.RECEIVABLE: "Assets:Receivable",
    AccountKind.ESCROW: "Liabilities:Escrow",
    AccountKind.FROZEN: "Liabilities:Frozen",
    AccountKind.FEES: "Income:Fees",
    AccountKind.LOSSES: "Expenses:Losses",
    AccountKind.CLEARING: "Assets:Clearing",
    AccountKind.IN_TRANSIT: "Liabilities:InTransit",
    AccountKind.FX: "Equity:Exchange",
}


def account_name(ref: AccountRef) -> str:
    """For example ``Liabilities:Available:P0190F3…:CNY``; parts begin with a capital letter."""
    root = _ROOTS.get(AccountKind(ref.kind)) or "Equity:" + _word(str(ref.kind))
    owner = f":P{ref.owner.hex.upper()}" if ref.owner is not None else ""
    return f"{root}{owner}:{ref.currency}"


def _word(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))


def commodity(currency: str, since: datetime) -> str:
    """Declares a currency with its number of decimals."""
    return f"{_day(since)} commodity {currency}\n  decimals: {exponent(currency)}\n"


def opened(identity: UUID, ref: AccountRef, created_at: datetime) -> str:
    """Opens an account, in its one currency."""
    account = show("acc", identity)
    return (
        f'{_day(created_at)} open {account_name(ref)} {ref.currency}\n  account-id: "{account}"\n'
    )


def transfer(postings: Sequence[Mapping[str, Any]], refs: Sequence[AccountRef]) -> str:
    """One transfer from its postings' rows; ``refs`` are their accounts."""
    first = postings[0]
    lines = [
        f'\n{_day(first["booked_at"])} * "{first["kind"]}"',
        f'  transfer-id: "{show("txn", first["transfer_id"])}"',
        f"  link: {first['link']}",
        f'  booked-at: "{first["booked_at"].isoformat()}"',
    ]
    if first["event_at"] != first["booked_at"]:
        lines.append(f'  event-at: "{first["event_at"].isoformat()}"')
    if first["memo_id"] is not None:
        lines.append(f'  memo-id: "{first["memo_id"]}"')
    if first["reverses"] is not None:
        lines.append(f'  reverses: "{show("txn", first["reverses"])}"')
    for row, ref in zip(postings, refs, strict=True):
        amount = decimal_text(-row["amount"], row["currency"])
        lines.append(f"  {account_name(ref)}  {amount} {row['currency']}")
        lines.append(f"    seq: {row['seq']}")
    return "\n".join(lines) + "\n"


def balance(ref: AccountRef, posted: int, last: datetime) -> str:
    """Asserts a balance at the beginning of the day after ``last``, exactly."""
    amount = decimal_text(-posted, ref.currency)
    day = _day(last + timedelta(days=1))
    return f"{day} balance {account_name(ref)}  {amount} ~ 0 {ref.currency}\n"


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()
