"""Invoices and credit notes: issued once, numbered without a gap, never changed.

A correction is a credit note, which pays the money back in the same unit of work, so documents
and ledger never differ. Who issues what is decided by callers (see ``contracts.invoicing``); the
database numbers, adds up and bounds (migration 0014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import split
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from settlement import billing_profiles, ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.billing_models import EXCHANGE, Invoice, InvoiceKind, InvoiceLine, Supply
from settlement.billing_schemas import (
    CreditNoteInput,
    InvoiceLineView,
    InvoiceSide,
    InvoiceSummary,
    InvoiceView,
)
from settlement.commands import Transfer
from settlement.errors import CreditExceeded, InvoiceNotFound, NotCreditable
from settlement.tax import Taxed

LINES_MAX = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One agreement's part; ``source_key`` makes a second invoice of the same fact impossible."""

    agreement_id: UUID
    item: dict[str, Any]
    tax_ppm: int
    taxed: Taxed
    source_key: str | None


@dataclass(frozen=True, slots=True)
class Draft:
    """An invoice to issue; the issuer EXCHANGE is the platform. ``period_end`` is exclusive."""

    supply: Supply
    issuer_id: UUID
    recipient_id: UUID
    currency: str
    period_start: date
    period_end: date
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class _Correction:
    invoice_id: UUID
    reason: str
    transfer_id: UUID
    positions: Sequence[int]


async def issue(uow: UnitOfWork, kernel: Kernel, draft: Draft) -> Invoice:
    """Write an invoice of 1 to 200 lines. Effects: rows, event ``invoice.issued`` to both."""
    assert 0 < len(draft.lines) <= LINES_MAX
    return await _write(uow, kernel, draft, None)


async def credit(
    kernel: Kernel, actor: Actor, invoice_id: UUID, body: CreditNoteInput
) -> InvoiceView:
    """Take back part of a line: money to the recipient, and a credit note, in one step.

    For the issuer; for fee invoices an operator. Tax is cut cumulatively, so that credits of the
    whole line take back exactly its tax. Raises InvoiceNotFound (404), NotCreditable or
    CreditExceeded (409), InsufficientFunds (402) when the issuer cannot pay.
    """
    async with kernel.unit_of_work() as uow:
        found = await _visible(uow, actor, invoice_id)
        own = found.issuer_id == actor.party_id
        if not own and not (found.issuer_id == EXCHANGE and actor.has(Role.OPERATOR)):
            raise InvoiceNotFound(param="invoice_id")
        if found.kind != InvoiceKind.INVOICE:
            raise NotCreditable
        # Credits of one invoice wait for each other: what is left is decided under this lock.
        await _lock(uow, invoice_id)
        line = await uow.session.get(InvoiceLine, (invoice_id, body.position))
        if line is None:
            raise InvoiceNotFound("The invoice has no such line.", param="position")
        before = await _credited(uow, invoice_id, body.position)
        if before + body.amount_minor > line.total_minor:
            raise CreditExceeded(param="amount_minor", remaining_minor=line.total_minor - before)
        note_id = new_id()
        transfer_id = await _pay_back(uow, found, note_id, body.amount_minor)
        taken = _cut(line, before, body.amount_minor)
        note = Line(line.agreement_id, line.item, line.tax_ppm, taken, None)
        draft = Draft(
            Supply(found.supply),
            found.issuer_id,
            found.recipient_id,
            found.currency,
            found.period_start,
            found.period_end,
            [note],
        )
        correction = _Correction(invoice_id, body.reason, transfer_id, [body.position])
        made = await _write(uow, kernel, draft, correction, note_id=note_id)
        view = await _whole(uow, made)
        await uow.answer(view)
        return view


async def get_invoice(kernel: Kernel, actor: Actor, invoice_id: UUID) -> InvoiceView:
    """One document, for issuer, recipient, operators and regulators. Raises InvoiceNotFound."""
    async with kernel.unit_of_work() as uow:
        return await _whole(uow, await _visible(uow, actor, invoice_id))


async def list_invoices(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    kind: InvoiceKind | None = None,
    supply: Supply | None = None,
    period_start: date | None = None,
) -> Page[InvoiceSummary]:
    """Documents issued to or by the actor, newest first; overseers see all. Raises BadCursor."""
    after = after_id(page)
    query = select(Invoice).order_by(col(Invoice.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(Invoice.id) < after)
    if kind is not None:
        query = query.where(Invoice.kind == kind.value)
    if supply is not None:
        query = query.where(Invoice.supply == supply.value)
    if period_start is not None:
        query = query.where(Invoice.period_start == period_start)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(
            or_(
                col(Invoice.issuer_id) == actor.party_id,
                col(Invoice.recipient_id) == actor.party_id,
            )
        )
    async with kernel.unit_of_work() as uow:
        views = [InvoiceSummary(**_head(row)) for row in await uow.session.exec(query)]
    return Page[InvoiceSummary].of(views, page.limit, [(view.id,) for view in views])


def _cut(line: InvoiceLine, before: int, amount: int) -> Taxed:
    weights = (line.without_tax_minor, line.tax_minor)
    earlier, later = split(before, weights), split(before + amount, weights)
    return Taxed(later[0] - earlier[0], later[1] - earlier[1])


async def _lock(uow: UnitOfWork, invoice_id: UUID) -> None:
    # Rows of append-only tables cannot be locked by the application role: it may not update them.
    connection = await uow.raw()
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('settlement.invoice:' || $1, 0))",
        invoice_id.hex,
    )


async def _credited(uow: UnitOfWork, invoice_id: UUID, position: int) -> int:
    rows = await uow.session.exec(
        select(func.coalesce(func.sum(InvoiceLine.total_minor), 0))
        .join(Invoice, col(Invoice.id) == col(InvoiceLine.invoice_id))
        .where(Invoice.corrects == invoice_id, InvoiceLine.position == position)
    )
    return int(rows.one())


async def _pay_back(uow: UnitOfWork, invoice: Invoice, note_id: UUID, amount: int) -> UUID:
    source = AccountRef(AccountKind.AVAILABLE, invoice.issuer_id, invoice.currency)
    if invoice.issuer_id == EXCHANGE:
        source = AccountRef(AccountKind.FEES, None, invoice.currency)
    target = AccountRef(AccountKind.AVAILABLE, invoice.recipient_id, invoice.currency)
    legs = ((source, -amount), (target, amount))
    command = Transfer(f"credit_note:{note_id.hex}", "credit_note", legs, memo_id=note_id)
    (done,) = await ledger.post_strict(uow, [command])
    assert done.transfer_id is not None
    return done.transfer_id


async def _write(
    uow: UnitOfWork,
    kernel: Kernel,
    draft: Draft,
    correction: _Correction | None,
    *,
    note_id: UUID | None = None,
) -> Invoice:
    sides = await billing_profiles.sides(uow, kernel, [draft.issuer_id, draft.recipient_id])
    made = Invoice(
        id=note_id or new_id(),
        kind=InvoiceKind.INVOICE if correction is None else InvoiceKind.CREDIT_NOTE,
        supply=draft.supply,
        issuer_id=draft.issuer_id,
        recipient_id=draft.recipient_id,
        year=uow.now.year,
        number=0,
        currency=draft.currency,
        period_start=draft.period_start,
        period_end=draft.period_end,
        without_tax_minor=sum(line.taxed.without_tax for line in draft.lines),
        tax_minor=sum(line.taxed.tax for line in draft.lines),
        total_minor=sum(line.taxed.total for line in draft.lines),
        issuer=sides[draft.issuer_id].model_dump(mode="json"),
        recipient=sides[draft.recipient_id].model_dump(mode="json"),
        corrects=None if correction is None else correction.invoice_id,
        reason=None if correction is None else correction.reason,
        transfer_id=None if correction is None else correction.transfer_id,
        issued_at=uow.now,
    )
    uow.session.add(made)
    await uow.session.flush()
    # The number that the trigger gave.
    await uow.session.refresh(made)
    positions = range(1, len(draft.lines) + 1) if correction is None else correction.positions
    uow.session.add_all(
        InvoiceLine(
            invoice_id=made.id,
            position=position,
            agreement_id=line.agreement_id,
            item=line.item,
            tax_ppm=line.tax_ppm,
            without_tax_minor=line.taxed.without_tax,
            tax_minor=line.taxed.tax,
            total_minor=line.taxed.total,
            source_key=line.source_key,
        )
        for position, line in zip(positions, draft.lines, strict=True)
    )
    await uow.session.flush()
    _announce(uow, made)
    return made


def _announce(uow: UnitOfWork, made: Invoice) -> None:
    parties = [party for party in (made.issuer_id, made.recipient_id) if party != EXCHANGE]
    uow.emit(
        f"{made.kind}.issued",
        made.id,
        {
            "invoice_id": show("inv", made.id),
            "number": _number(made),
            "total_minor": made.total_minor,
            "currency": made.currency,
        },
        parties=parties,
    )


async def _visible(uow: UnitOfWork, actor: Actor, invoice_id: UUID) -> Invoice:
    found = await uow.session.get(Invoice, invoice_id)
    if found is None or not (
        may_oversee(actor, found.issuer_id) or may_oversee(actor, found.recipient_id)
    ):
        raise InvoiceNotFound(param="invoice_id")
    return found


async def _whole(uow: UnitOfWork, invoice: Invoice) -> InvoiceView:
    rows = await uow.session.exec(
        select(InvoiceLine)
        .where(InvoiceLine.invoice_id == invoice.id)
        .order_by(col(InvoiceLine.position))
        .limit(LINES_MAX)
    )
    lines = [InvoiceLineView.model_validate(_line(row)) for row in rows]
    return InvoiceView(**_head(invoice), lines=lines)


def _line(row: InvoiceLine) -> dict[str, Any]:
    return {name: getattr(row, name) for name in InvoiceLineView.model_fields}


def _number(invoice: Invoice) -> str:
    return shown_number(invoice.year, invoice.number)


def shown_number(year: int, number: int) -> str:
    """How a document's number is printed: year and place in the issuer's series."""
    return f"{year}-{number:08d}"


def _head(invoice: Invoice) -> dict[str, Any]:
    values = {name: getattr(invoice, name) for name in InvoiceSummary.model_fields}
    values |= {
        "number": _number(invoice),
        "kind": InvoiceKind(invoice.kind),
        "supply": Supply(invoice.supply),
        "issuer": InvoiceSide.model_validate(invoice.issuer),
        "recipient": InvoiceSide.model_validate(invoice.recipient),
    }
    return values
