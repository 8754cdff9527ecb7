"""HTTP of fee schedules, billing profiles, invoices, credit notes and monthly statements."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from listings.vocabulary import Category
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import InvoiceId, PartyId
from market.kernel.money import MAX_MINOR, Currency
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, OperatorDep, OptionalActorDep
from settlement import billing_profiles, fees, invoices, monthly, printing
from settlement.billing_models import InvoiceKind, Supply
from settlement.billing_schemas import (
    BillingProfileInput,
    BillingProfileView,
    CreditNoteInput,
    FeePreview,
    FeeScheduleInput,
    FeeScheduleView,
    InvoiceSummary,
    InvoiceView,
    Month,
    MonthlyStatement,
)
from settlement.printing import Form, PrintLanguage

router = APIRouter(route_class=IdempotentRoute, tags=["settlement"])

PageDep = Annotated[PageQuery, Depends()]
FormQuery = Annotated[Form, Query(alias="format", description="JSON, CSV, or HTML to print.")]
LanguageQuery = Annotated[PrintLanguage, Query(description="Of CSV and HTML.")]
_TEXT: Final = {"schema": {"type": "string"}}
_DOCUMENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": _TEXT, "text/html": _TEXT}}
}


@router.get("/v1/fee-schedules", responses=problems(401, 422))
async def list_fee_schedules(
    kernel: KernelDep,
    actor: OptionalActorDep,
    page: PageDep,
    category: Category | None = None,
    currency: Annotated[Currency | None, Query()] = None,
) -> Page[FeeScheduleView]:
    """All decided fees, newest first. Public; reasons are shown to operators and regulators."""
    return await fees.list_fees(kernel, actor, page, category=category, currency=currency)


@router.post("/v1/fee-schedules", status_code=201, responses=problems(400, 401, 403, 409, 422))
async def set_fee_schedule(
    kernel: KernelDep, actor: OperatorDep, body: FeeScheduleInput
) -> FeeScheduleView:
    """Decide the fee of a category for agreements formed from a date on (operator)."""
    return await fees.set_fee(kernel, actor, body)


@router.get("/v1/fee-schedules/preview", responses=problems(422))
async def preview_fee(
    kernel: KernelDep,
    category: Category,
    currency: Annotated[Currency, Query()],
    amount_minor: Annotated[int, Query(ge=1, le=MAX_MINOR)],
) -> FeePreview:
    """What the platform would take of an amount under the fee of today. Public."""
    return await fees.preview_fee(
        kernel, category=category, currency=currency, amount_minor=amount_minor
    )


@router.get("/v1/billing-profile", responses=problems(401))
async def show_billing_profile(kernel: KernelDep, actor: ActorDep) -> BillingProfileView:
    """What is printed about you on invoices."""
    return await billing_profiles.show_profile(kernel, actor)


@router.put("/v1/billing-profile", responses=problems(401, 422))
async def set_billing_profile(
    kernel: KernelDep, actor: ActorDep, body: BillingProfileInput
) -> BillingProfileView:
    """Replace it, for invoices issued from now on."""
    return await billing_profiles.set_profile(kernel, actor, body)


@router.get("/v1/invoices", responses=problems(401, 422))
async def list_invoices(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    kind: InvoiceKind | None = None,
    supply: Supply | None = None,
    month: Annotated[Month | None, Query()] = None,
) -> Page[InvoiceSummary]:
    """Invoices and credit notes issued by or to you, newest first; overseers see all."""
    first = None if month is None else monthly.first_of(month)
    return await invoices.list_invoices(
        kernel, actor, page, kind=kind, supply=supply, period_start=first
    )


@router.get(
    "/v1/invoices/{invoice_id}",
    response_model=InvoiceView,
    responses={**_DOCUMENT, **problems(401, 404, 422)},
)
async def show_invoice(
    kernel: KernelDep,
    actor: ActorDep,
    invoice_id: InvoiceId,
    form: FormQuery = Form.JSON,
    language: LanguageQuery = PrintLanguage.EN,
) -> InvoiceView | Response:
    """One document as JSON, CSV or HTML to print, for issuer, recipient and overseers."""
    found = await invoices.get_invoice(kernel, actor, invoice_id)
    if form is Form.JSON:
        return found
    content: bytes | str = printing.invoice_html(found, language)
    if form is Form.CSV:
        content = printing.invoice_csv(found, language)
    return printing.document(form, content=content, name=f"invoice-{found.number}")


@router.post(
    "/v1/invoices/{invoice_id}/credit-notes",
    status_code=201,
    responses=problems(400, 401, 402, 404, 409, 422),
)
async def create_credit_note(
    kernel: KernelDep, actor: ActorDep, invoice_id: InvoiceId, body: CreditNoteInput
) -> InvoiceView:
    """Take back part of an invoice's line (its issuer; fee invoices: operator) and pay it back."""
    return await invoices.credit(kernel, actor, invoice_id, body)


@router.get(
    "/v1/statements/{month}",
    response_model=MonthlyStatement,
    responses={**_DOCUMENT, **problems(401, 404, 422)},
)
async def show_monthly_statement(
    kernel: KernelDep,
    actor: ActorDep,
    month: Month,
    party_id: Annotated[
        PartyId | None, Query(description="Of another party (operators, regulators).")
    ] = None,
    form: FormQuery = Form.JSON,
    language: LanguageQuery = PrintLanguage.EN,
) -> MonthlyStatement | Response:
    """Opening, postings by kind and closing of your accounts in a month (UTC)."""
    found = await monthly.monthly_statement(kernel, actor, month, party_id=party_id)
    if form is Form.JSON:
        return found
    content: bytes | str = printing.statement_html(found, language)
    if form is Form.CSV:
        content = printing.statement_csv(found)
    return printing.document(form, content=content, name=f"statement-{month}")
