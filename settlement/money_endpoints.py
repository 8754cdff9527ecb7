"""HTTP of reconciliation, cases, payout schedules and runs, debts, and the audit log."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import PartyId
from market.kernel.money import Currency
from market.kernel.schemas import Page, PageQuery
from market.parties.access import OperatorDep, OversightDep, SellerDep
from settlement import audit, cases, payout_runs, payout_schedules, receivables, reconciliation
from settlement.money_schemas import (
    CaseClosing,
    CaseView,
    ClaimBody,
    ClaimView,
    DebtView,
    OperatorActionView,
    PayoutRunLineView,
    PayoutRunOrder,
    PayoutRunView,
    PayoutScheduleBody,
    PayoutSchedules,
    PayoutScheduleView,
    ReconciliationOrder,
    ReconciliationView,
    WriteOffBody,
    WriteOffView,
)
from settlement.reconciliation_models import CaseKind, CaseState

router = APIRouter(route_class=IdempotentRoute, tags=["settlement"])

PageDep = Annotated[PageQuery, Depends()]
CurrencyPath = Annotated[Currency, Path()]


@router.get("/v1/reconciliations", responses=problems(401, 403, 422))
async def list_reconciliations(
    kernel: KernelDep, actor: OversightDep, page: PageDep
) -> Page[ReconciliationView]:
    """Comparisons of the provider's movements with the ledger, newest first."""
    return await reconciliation.list_reconciliations(kernel, actor, page)


@router.post(
    "/v1/reconciliations", status_code=201, responses=problems(400, 401, 403, 409, 422, 503)
)
async def order_reconciliation(
    kernel: KernelDep, actor: OperatorDep, body: ReconciliationOrder
) -> ReconciliationView:
    """Compare a past day again; the daily job does it by itself."""
    return await reconciliation.order(kernel, actor, body)


@router.get("/v1/rail-cases", responses=problems(401, 403, 422))
async def list_rail_cases(
    kernel: KernelDep,
    actor: OversightDep,
    page: PageDep,
    state: CaseState | None = None,
    kind: CaseKind | None = None,
) -> Page[CaseView]:
    """The operators' queue: differences, chargebacks, refusals of the provider; newest first."""
    return await cases.list_cases(kernel, actor, page, state=state, kind=kind)


@router.get("/v1/rail-cases/{case_id}", responses=problems(401, 403, 404, 422))
async def show_rail_case(kernel: KernelDep, actor: OversightDep, case_id: UUID) -> CaseView:
    """One case."""
    return await cases.get_case(kernel, actor, case_id)


@router.post(
    "/v1/rail-cases/{case_id}/closing",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def close_rail_case(
    kernel: KernelDep, actor: OperatorDep, case_id: UUID, body: CaseClosing
) -> CaseView:
    """Close a case with a reason. Closing a chargeback frees the money that it froze."""
    return await cases.close_case(kernel, actor, case_id, body)


@router.get("/v1/payout-schedules", responses=problems(401, 403))
async def list_payout_schedules(kernel: KernelDep, actor: SellerDep) -> PayoutSchedules:
    """Your payout schedules, one per currency."""
    return await payout_schedules.list_schedules(kernel, actor)


@router.get("/v1/payout-schedules/{currency}", responses=problems(401, 403, 404, 422))
async def show_payout_schedule(
    kernel: KernelDep, actor: SellerDep, currency: CurrencyPath
) -> PayoutScheduleView:
    """Your payout schedule of a currency."""
    return await payout_schedules.get_schedule(kernel, actor, currency)


@router.put("/v1/payout-schedules/{currency}", responses=problems(400, 401, 403, 422))
async def set_payout_schedule(
    kernel: KernelDep, actor: SellerDep, currency: CurrencyPath, body: PayoutScheduleBody
) -> PayoutScheduleView:
    """Have a balance paid out daily, on Mondays, on the first of the month, or by hand only."""
    return await payout_schedules.set_schedule(kernel, actor, currency, body)


@router.get("/v1/payout-runs", responses=problems(401, 403, 422))
async def list_payout_runs(
    kernel: KernelDep, actor: OversightDep, page: PageDep
) -> Page[PayoutRunView]:
    """Payout runs, newest first."""
    return await payout_runs.list_runs(kernel, actor, page)


@router.post("/v1/payout-runs", status_code=201, responses=problems(400, 401, 403, 409, 422, 503))
async def start_payout_run(
    kernel: KernelDep, actor: OperatorDep, body: PayoutRunOrder
) -> PayoutRunView:
    """Pay out every balance with a schedule now; the worker does it."""
    return await payout_runs.start_run(kernel, actor, body)


@router.get("/v1/payout-runs/{payout_run_id}", responses=problems(401, 403, 404, 422))
async def show_payout_run(
    kernel: KernelDep, actor: OversightDep, payout_run_id: UUID
) -> PayoutRunView:
    """One payout run."""
    return await payout_runs.get_run(kernel, actor, payout_run_id)


@router.get("/v1/payout-runs/{payout_run_id}/lines", responses=problems(401, 403, 404, 422))
async def list_payout_run_lines(
    kernel: KernelDep, actor: OversightDep, payout_run_id: UUID, page: PageDep
) -> Page[PayoutRunLineView]:
    """What a run paid and what it skipped, with reasons; by party."""
    return await payout_runs.list_lines(kernel, actor, payout_run_id, page)


@router.get("/v1/debts", responses=problems(401, 403, 422))
async def list_debts(kernel: KernelDep, actor: OversightDep, page: PageDep) -> Page[DebtView]:
    """What parties owe after chargebacks and claims; by party."""
    return await receivables.list_debts(kernel, actor, page)


@router.post(
    "/v1/debts/{party_id}/write-offs",
    status_code=201,
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def write_off_debt(
    kernel: KernelDep, actor: OperatorDep, party_id: PartyId, body: WriteOffBody
) -> WriteOffView:
    """Give a debt up: losses take it."""
    return await receivables.write_off(kernel, actor, party_id, body)


@router.post("/v1/claims", status_code=201, responses=problems(400, 401, 402, 403, 404, 409, 422))
async def take_claim(kernel: KernelDep, actor: OperatorDep, body: ClaimBody) -> ClaimView:
    """Take money from a party for another; what was paid out already becomes a debt."""
    return await receivables.claim(kernel, actor, body)


@router.get("/v1/operator-actions", responses=problems(401, 403, 422))
async def list_operator_actions(
    kernel: KernelDep,
    actor: OversightDep,
    page: PageDep,
    subject_id: Annotated[UUID | None, Query()] = None,
) -> Page[OperatorActionView]:
    """The audit log: what operators decided about money, when and why; newest first."""
    return await audit.list_actions(kernel, actor, page, subject_id=subject_id)
