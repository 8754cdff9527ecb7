"""HTTP of settlement: accounts, statements, top-ups, payouts, trial balance, checkpoints."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AccountId, PayoutId, TopUpId
from market.kernel.money import Currency
from market.kernel.schemas import Moment, Page, PageQuery
from market.parties.access import ActorDep, OversightDep, SellerDep, TraderDep
from settlement import payouts, periods, statements, top_ups
from settlement.accounts import AccountKind
from settlement.schemas import (
    AccountView,
    BalanceView,
    Basis,
    CheckpointView,
    PayoutRequest,
    PayoutView,
    PostingView,
    TopUpRequest,
    TopUpView,
    TrialBalance,
)

router = APIRouter(route_class=IdempotentRoute, tags=["settlement"])

PageDep = Annotated[PageQuery, Depends()]


@router.get("/v1/accounts", responses=problems(401, 422))
async def list_accounts(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    kind: AccountKind | None = None,
    currency: Annotated[Currency | None, Query()] = None,
) -> Page[AccountView]:
    """Your accounts; operators and regulators see all."""
    return await statements.list_accounts(kernel, actor, page, kind=kind, currency=currency)


@router.get("/v1/accounts/{account_id}", responses=problems(401, 404, 422))
async def show_account(kernel: KernelDep, actor: ActorDep, account_id: AccountId) -> AccountView:
    """One account with its current balance."""
    return await statements.get_account(kernel, actor, account_id)


@router.get("/v1/accounts/{account_id}/postings", responses=problems(401, 404, 422))
async def list_postings(
    kernel: KernelDep, actor: ActorDep, account_id: AccountId, page: PageDep
) -> Page[PostingView]:
    """The statement of an account, newest first."""
    return await statements.list_postings(kernel, actor, account_id, page)


@router.get("/v1/accounts/{account_id}/balance", responses=problems(401, 404, 422))
async def show_balance(
    kernel: KernelDep,
    actor: ActorDep,
    account_id: AccountId,
    as_of: Annotated[Moment | None, Query(description="RFC 3339; default: now.")] = None,
    by: Annotated[Basis, Query(description="Booking time, or the time of the event.")] = (
        Basis.BOOKING
    ),
) -> BalanceView:
    """The posted balance at a moment, by booking time or by when things happened."""
    moment: datetime | None = as_of
    return await periods.balance_as_of(kernel, actor, account_id, moment, by)


@router.post("/v1/top-ups", status_code=201, responses=problems(400, 401, 402, 403, 409, 422, 503))
async def create_top_up(kernel: KernelDep, actor: TraderDep, body: TopUpRequest) -> TopUpView:
    """Pay in by card. 402 `card_declined` when the provider refuses; `pending` while it decides.

    Sandbox cards: tok_success, tok_declined, tok_insufficient_funds, tok_authentication_required,
    tok_3ds, tok_delayed, tok_delayed_declined, tok_chargeback, tok_chargeback_won, tok_timeout.
    """
    return await top_ups.create_top_up(kernel, actor, body)


@router.get("/v1/top-ups", responses=problems(401, 422))
async def list_top_ups(kernel: KernelDep, actor: ActorDep, page: PageDep) -> Page[TopUpView]:
    """Your top-ups, newest first; operators and regulators see all."""
    return await top_ups.list_top_ups(kernel, actor, page)


@router.get("/v1/top-ups/{top_up_id}", responses=problems(401, 404, 422))
async def show_top_up(kernel: KernelDep, actor: ActorDep, top_up_id: TopUpId) -> TopUpView:
    """One top-up."""
    return await top_ups.get_top_up(kernel, actor, top_up_id)


@router.post("/v1/payouts", status_code=201, responses=problems(400, 401, 402, 403, 409, 422, 503))
async def create_payout(kernel: KernelDep, actor: SellerDep, body: PayoutRequest) -> PayoutView:
    """Take money out; for verified sellers.

    Sandbox destinations: dst_success, dst_closed, dst_delayed, dst_delayed_closed, dst_timeout.
    """
    return await payouts.create_payout(kernel, actor, body)


@router.get("/v1/payouts", responses=problems(401, 422))
async def list_payouts(kernel: KernelDep, actor: ActorDep, page: PageDep) -> Page[PayoutView]:
    """Your payouts, newest first; operators and regulators see all."""
    return await payouts.list_payouts(kernel, actor, page)


@router.get("/v1/payouts/{payout_id}", responses=problems(401, 404, 422))
async def show_payout(kernel: KernelDep, actor: ActorDep, payout_id: PayoutId) -> PayoutView:
    """One payout."""
    return await payouts.get_payout(kernel, actor, payout_id)


@router.get("/v1/ledger/trial-balance", responses=problems(401, 403))
async def show_trial_balance(kernel: KernelDep, actor: OversightDep) -> TrialBalance:
    """Debits and credits of the whole ledger, per currency and kind of account."""
    return await statements.trial_balance(kernel, actor)


@router.get("/v1/ledger/checkpoints", responses=problems(422))
async def list_checkpoints(kernel: KernelDep, page: PageDep) -> Page[CheckpointView]:
    """Signed checkpoints of the ledger's hash chain, newest first. Public."""
    return await statements.list_checkpoints(kernel, page)
