"""The monthly usage statement of an agreement: use, its worth, the ledger's postings, the invoice.

Made from the records at each request; they are append-only, so the statement of a month that is
over does not change.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlmodel import select

from contracts import accrual, grants
from contracts.agreements import get_agreement
from contracts.models import Agreement, Grant, PlanKind
from contracts.usage_schemas import UsageDay, UsageInvoice, UsageStatement
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Actor
from settlement.billing_models import Supply
from settlement.billing_schemas import AccountStatement
from settlement.errors import MonthUnknown
from settlement.escrow import escrow_of
from settlement.invoices import shown_number
from settlement.models import Account
from settlement.monthly import GRACE, account_month, first_of, midnight, next_month
from settlement.printing import csv_table

if TYPE_CHECKING:
    from asyncpg import Connection, Record

_SUMS = """
count(*) AS deliveries, coalesce(sum(units), 0)::bigint AS units,
coalesce(sum(row_count), 0)::bigint AS rows, coalesce(sum(byte_count), 0)::bigint AS bytes,
coalesce(sum(units) FILTER (WHERE assumed), 0)::bigint AS assumed_units
"""
_DAYS = f"""
SELECT (delivered_at AT TIME ZONE 'UTC')::date AS day, {_SUMS}
FROM contracts.delivery WHERE grant_id = $1 AND delivered_at >= $2 AND delivered_at < $3
GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - constants of this file
_BEFORE = """
SELECT coalesce(sum(units), 0)::bigint FROM contracts.delivery
WHERE grant_id = $1 AND delivered_at < $2
"""
_RELEASES = """
SELECT coalesce(sum(r.amount_minor), 0)::bigint AS amount,
       coalesce(sum(r.fee_minor), 0)::bigint AS fee,
       coalesce(sum(r.amount_minor) FILTER (WHERE t.kind <> $4), 0)::bigint AS ruled
FROM contracts.release_record r JOIN settlement.transfer t ON t.id = r.transfer_id
WHERE r.agreement_id = $1 AND r.released_at >= $2 AND r.released_at < $3
"""
_INVOICE = """
SELECT i.id, i.year, i.number, l.total_minor FROM settlement.invoice_line l
JOIN settlement.invoice i ON i.id = l.invoice_id WHERE l.source_key = $1
"""
# The kind of transfer by which use, acceptance and adjustments pay.
_RELEASE = "release"
_SUM_NAMES = ("deliveries", "units", "rows", "bytes", "assumed_units")
CSV_COLUMNS = ("agreement_id", "month", "line", "day", *_SUM_NAMES, "currency", "amount_minor")


async def usage_statement(
    kernel: Kernel, actor: Actor, agreement_id: UUID, month: str
) -> UsageStatement:
    """The month of an agreement, for both parties and overseers; a running month up to now.

    Raises AgreementNotFound (404), MonthUnknown (422) for a month to come.
    """
    await grants.settle_buffered(kernel)
    first = first_of(month)
    starts, ends = midnight(first), midnight(next_month(first))
    async with kernel.unit_of_work() as uow:
        agreement = await get_agreement(uow, agreement_id, actor)
        if starts > uow.now:
            raise MonthUnknown(param="month")
        query = select(Grant).where(Grant.agreement_id == agreement_id)
        grant = (await uow.session.exec(query)).one()
        account = await uow.session.get(Account, escrow_of(agreement.id, agreement.currency).id)
        assert account is not None
        connection = await uow.raw()
        escrow = await account_month(connection, account, starts=starts, ends=ends)
        figures = await _figures(connection, agreement, grant, (starts, ends), first)
        final = uow.now >= ends + GRACE
    ledger = sum(item.debit_minor for item in escrow.movements if item.kind == _RELEASE)
    return UsageStatement(
        agreement_id=agreement.id,
        grant_id=grant.id,
        buyer_id=agreement.buyer_id,
        seller_id=agreement.seller_id,
        kind=agreement.kind,
        unit=agreement.unit,
        currency=agreement.currency,
        month=month,
        starts_at=starts,
        ends_at=ends,
        final=final,
        escrow=escrow,
        ledger_released_minor=ledger,
        ties=_ties(figures, ledger),
        **figures,
    )


def _ties(figures: dict[str, Any], ledger: int) -> bool:
    released: int = figures["released_minor"]
    invoice: UsageInvoice | None = figures["invoice"]
    invoiced = invoice is None or invoice.total_minor == released
    return released - figures["ruled_minor"] == ledger and invoiced


async def _figures(
    connection: Connection[Any],
    agreement: Agreement,
    grant: Grant,
    span: tuple[datetime, datetime],
    first: date,
) -> dict[str, Any]:
    rows = await connection.fetch(_DAYS, grant.id, *span)
    days = [UsageDay(**dict(row)) for row in rows]
    sums = {name: sum(getattr(day, name) for day in days) for name in _SUM_NAMES}
    opening = await connection.fetchval(_BEFORE, grant.id, span[0])
    closing = opening + sums["units"]
    value = None
    if agreement.kind == PlanKind.METERED:
        value = accrual.used_value_minor(agreement, closing)
        value -= accrual.used_value_minor(agreement, opening)
    released = await connection.fetchrow(_RELEASES, agreement.id, *span, _RELEASE)
    assert released is not None
    key = f"{Supply.DATA.value}:{agreement.id.hex}:{first:%Y-%m}"
    invoice = await connection.fetchrow(_INVOICE, key)
    return {
        **sums,
        "days": days,
        "opening_units": opening,
        "closing_units": closing,
        "value_minor": value,
        "released_minor": released["amount"],
        "ruled_minor": released["ruled"],
        "fee_minor": released["fee"],
        "invoice": None if invoice is None else _invoice(invoice),
    }


def _invoice(row: Record) -> UsageInvoice:
    return UsageInvoice(
        invoice_id=row["id"],
        number=shown_number(row["year"], row["number"]),
        total_minor=row["total_minor"],
    )


def statement_csv(statement: UsageStatement) -> bytes:
    """A row per day with use, a row of totals, then the amounts, one per row."""
    head = (show("agr", statement.agreement_id), statement.month)
    currency = statement.currency
    rows: list[tuple[object, ...]] = [
        (*head, "usage", day.day.isoformat(), *_sums(day), "", "") for day in statement.days
    ]
    rows.append((*head, "total", "", *_sums(statement), "", ""))
    blank = ("",) * (1 + len(_SUM_NAMES))
    rows += [(*head, name, *blank, currency, amount) for name, amount in _amounts(statement)]
    return csv_table(CSV_COLUMNS, rows)


def _sums(part: UsageDay | UsageStatement) -> tuple[int, ...]:
    return tuple(getattr(part, name) for name in _SUM_NAMES)


def _amounts(statement: UsageStatement) -> list[tuple[str, int]]:
    escrow: AccountStatement = statement.escrow
    amounts = [
        ("value", statement.value_minor),
        ("released", statement.released_minor),
        ("ruled", statement.ruled_minor),
        ("fee", statement.fee_minor),
        ("ledger_released", statement.ledger_released_minor),
        ("escrow_opening", escrow.opening_minor),
        ("escrow_closing", escrow.closing_minor),
        ("invoiced", None if statement.invoice is None else statement.invoice.total_minor),
    ]
    return [(name, amount) for name, amount in amounts if amount is not None]
