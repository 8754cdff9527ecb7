"""Payouts: the balance leaves at once, the rail is asked by the worker, a failure brings it back.

``pending`` → ``submitted`` (committed before the call, so that a crash cannot hide it) →
``paid`` or ``failed``. available → in_transit → clearing, or back to available.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import Money, display
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.kernel.settings import Settings
from market.parties.access import may_oversee
from market.parties.directory import after_id, require_verified
from settlement import ledger, receivables
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Transfer
from settlement.errors import AmountTooSmall, InsufficientFunds, PayoutNotFound
from settlement.models import Payout, PayoutStatus
from settlement.rails.base import PayoutRequest as RailPayout, Rail, RailAnswer, RailStatus
from settlement.rails.choice import rail_of
from settlement.schemas import PayoutRequest, PayoutView

# A submitted payout is asked for again after this, doubled per attempt up to the maximum.
RETRY_START = timedelta(seconds=15)
RETRY_MAX = timedelta(hours=1)

_CLAIM = """
UPDATE settlement.payout p
SET status = 'submitted', attempts = attempts + 1, updated_at = $1,
    next_attempt_at = $1 + least($2::interval * (1 << least(attempts, 12)), $3::interval)
WHERE id IN (
    SELECT id FROM settlement.payout
    WHERE status IN ('pending', 'submitted') AND next_attempt_at <= $1 AND rail = $5
    ORDER BY next_attempt_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING id, amount_minor, currency, destination, attempts
"""


async def create_payout(kernel: Kernel, actor: Actor, body: PayoutRequest) -> PayoutView:
    """Take money out of the actor's available balance towards a bank account.

    A debt is paid before. Raises RoleRequired (403), PartyNotVerified (403), AmountTooSmall (422),
    InsufficientFunds (402). The rail is asked by ``jobs.run_payouts``.
    """
    actor.require(Role.SELLER)
    rail = rail_of(kernel)
    money = body.money
    minimum = minimum_of(kernel.settings, money.currency)
    if money.amount_minor < minimum:
        raise AmountTooSmall(
            f"The smallest payout is {display(minimum, money.currency)}.",
            param="money.amount_minor",
        )
    async with kernel.unit_of_work() as uow:
        await require_verified(uow, actor.party_id)
        destination = await rail.destination_of(uow, actor.party_id, body.destination, money)
        purse = await receivables.lock_purse(
            uow, actor.party_id, money.currency, in_transit(money.currency)
        )
        if purse.debt and purse.free < money.amount_minor:
            raise InsufficientFunds(
                f"Your debt of {display(purse.debt, money.currency)} is paid first; "
                f"{display(purse.free, money.currency)} can be paid out.",
                param="money.amount_minor",
            )
        payout, start = open_payout(uow, actor.party_id, money, destination, rail_name=rail.name)
        netting = purse.netting()
        commands = [start] if netting is None else [netting, start]
        await ledger.post_strict(uow, commands)
        view = view_of(payout)
        await uow.answer(view, headers={"Location": f"/v1/payouts/{show('pay', view.id)}"})
    return view


def minimum_of(settings: Settings, currency: str) -> int:
    """The smallest payout of a currency, in minor units."""
    return settings.payout_minimums.get(currency, settings.payout_minimum_minor)


def in_transit(currency: str) -> AccountRef:
    """The account of money that has left a balance and is not at its bank yet."""
    return AccountRef(AccountKind.IN_TRANSIT, None, currency)


def open_payout(
    uow: UnitOfWork, party_id: UUID, money: Money, destination: str, *, rail_name: str
) -> tuple[Payout, Transfer]:
    """A pending payout, and the transfer that takes its money: the caller posts it."""
    payout = Payout(
        id=new_id(),
        party_id=party_id,
        amount_minor=money.amount_minor,
        currency=money.currency,
        destination=destination,
        rail=rail_name,
        status=PayoutStatus.PENDING,
        attempts=0,
        next_attempt_at=uow.now,
        created_at=uow.now,
        updated_at=uow.now,
    )
    uow.session.add(payout)
    _emit(uow, payout)
    return payout, _transfer(payout, "start", AccountKind.AVAILABLE, AccountKind.IN_TRANSIT)


async def claim_due(
    uow: UnitOfWork, limit: int, *, rail_name: str
) -> list[tuple[RailPayout, bool]]:
    """Mark due payouts as submitted; returns their rail requests, and whether it is the first try.

    The commit of this unit of work is what persists the key before the call.
    """
    rows = await (await uow.raw()).fetch(_CLAIM, uow.now, RETRY_START, RETRY_MAX, limit, rail_name)
    return [
        (
            RailPayout(row["id"], row["amount_minor"], row["currency"], row["destination"]),
            row["attempts"] == 1,
        )
        for row in rows
    ]


async def ask_rail(rail: Rail, request: RailPayout, *, first: bool) -> RailAnswer:
    """Pay, or on a later try first look up what became of the earlier one."""
    found = None if first else await rail.find_payout(request.key)
    return found if found is not None else await rail.pay_out(request)


async def settle(uow: UnitOfWork, payout_id: UUID, answer: RailAnswer) -> bool:
    """Take over the rail's answer, once; returns whether it was the final one. Locks the row.

    A bank may send a paid payout back days later: then the money comes back from clearing.
    """
    query = (
        select(Payout)
        .where(Payout.id == payout_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    payout = (await uow.session.exec(query)).one()
    late = payout.status == PayoutStatus.PAID and answer.status is RailStatus.FAILED
    if not late and (
        payout.status != PayoutStatus.SUBMITTED or answer.status is RailStatus.PENDING
    ):
        return False
    payout.updated_at = uow.now
    if answer.status is RailStatus.SUCCEEDED:
        payout.status = PayoutStatus.PAID
        await _move(uow, payout, "paid", AccountKind.IN_TRANSIT, AccountKind.CLEARING)
    else:
        payout.status = PayoutStatus.FAILED
        payout.failure_code = answer.failure_code
        source = AccountKind.CLEARING if late else AccountKind.IN_TRANSIT
        await _move(uow, payout, "returned", source, AccountKind.AVAILABLE)
    _emit(uow, payout)
    return True


def rail_request_of(payout: Payout) -> RailPayout:
    """The rail's request of a payout; its id is the key."""
    return RailPayout(payout.id, payout.amount_minor, payout.currency, payout.destination)


async def get_payout(kernel: Kernel, actor: Actor, payout_id: UUID) -> PayoutView:
    """One's own payout; operators and regulators see all. Raises PayoutNotFound."""
    async with kernel.unit_of_work() as uow:
        payout = await uow.session.get(Payout, payout_id)
        if payout is None or not may_oversee(actor, payout.party_id):
            raise PayoutNotFound
        return view_of(payout)


async def list_payouts(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[PayoutView]:
    """Newest first; a party's own, or all for operators and regulators."""
    after = after_id(page)
    query = select(Payout).order_by(col(Payout.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(Payout.id) < after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(Payout.party_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        views = [view_of(row) for row in await uow.session.exec(query)]
    return Page[PayoutView].of(views, page.limit, [(view.id,) for view in views])


def view_of(payout: Payout) -> PayoutView:
    """The API shape."""
    return PayoutView(
        id=payout.id,
        party_id=payout.party_id,
        money=Money(amount_minor=payout.amount_minor, currency=payout.currency),
        destination=payout.destination,
        rail=payout.rail,
        status=PayoutStatus(payout.status),
        failure_code=payout.failure_code,
        created_at=payout.created_at,
        updated_at=payout.updated_at,
    )


async def _move(
    uow: UnitOfWork, payout: Payout, step: str, source: AccountKind, target: AccountKind
) -> None:
    await ledger.post_strict(uow, [_transfer(payout, step, source, target)])


def _transfer(payout: Payout, step: str, source: AccountKind, target: AccountKind) -> Transfer:
    def account(kind: AccountKind) -> AccountRef:
        owner = payout.party_id if kind is AccountKind.AVAILABLE else None
        return AccountRef(kind, owner, payout.currency)

    legs = ((account(source), -payout.amount_minor), (account(target), payout.amount_minor))
    key = f"payout:{payout.id.hex}:{step}"
    return Transfer(key, f"payout_{step}", legs, memo_id=payout.id)


def _emit(uow: UnitOfWork, payout: Payout) -> None:
    uow.emit(
        f"payout.{payout.status}",
        payout.id,
        view_of(payout).model_dump(mode="json"),
        parties=[payout.party_id],
    )
