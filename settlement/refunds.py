"""Refunds: money of a top-up goes back to its card. It leaves the balance before the rail is asked.

available → in_transit → clearing, or back to available when the rail refuses.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.money import Money, display
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from settlement import ledger, top_ups
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Transfer
from settlement.errors import NotRefundable, TopUpNotFound
from settlement.models import TopUpStatus
from settlement.rail_models import Refund, RefundStatus
from settlement.rail_schemas import RefundBody, RefundView
from settlement.rails.base import RailAnswer, RailStatus, RefundRequest

RETRY_START = timedelta(seconds=15)
RETRY_MAX = timedelta(hours=1)

_CLAIM = """
UPDATE settlement.refund
SET attempts = attempts + 1, updated_at = $1,
    next_attempt_at = $1 + least($2::interval * (1 << least(attempts, 12)), $3::interval)
WHERE id IN (
    SELECT id FROM settlement.refund
    WHERE status = 'pending' AND next_attempt_at <= $1 AND rail = $5
    ORDER BY next_attempt_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING id, top_up_id, amount_minor, currency
"""


async def create_refund(
    kernel: Kernel, actor: Actor, top_up_id: UUID, body: RefundBody
) -> RefundView:
    """Send part of one's own top-up back to its card; operators may do it for a party.

    Raises TopUpNotFound (404), NotRefundable (409: not succeeded, or more than is left of it),
    InsufficientFunds (402: the money was spent). The rail is asked by ``jobs.run_refunds``.
    """
    async with kernel.unit_of_work() as uow:
        top_up = await top_ups.lock_top_up(uow, top_up_id)
        if top_up.party_id != actor.party_id and not actor.has(Role.OPERATOR):
            raise TopUpNotFound
        left = top_up.amount_minor - await top_ups.refunded_minor(uow, top_up_id)
        if top_up.status != TopUpStatus.SUCCEEDED or body.amount_minor > left:
            raise NotRefundable(
                f"At most {display(left, top_up.currency)} of a succeeded top-up go back.",
                param="amount_minor",
            )
        refund = Refund(
            id=new_id(),
            top_up_id=top_up.id,
            party_id=top_up.party_id,
            amount_minor=body.amount_minor,
            currency=top_up.currency,
            rail=top_up.rail,
            status=RefundStatus.PENDING,
            attempts=0,
            next_attempt_at=uow.now,
            created_at=uow.now,
            updated_at=uow.now,
        )
        uow.session.add(refund)
        await _move(uow, refund, "start", AccountKind.AVAILABLE, AccountKind.IN_TRANSIT)
        _emit(uow, refund)
        view = view_of(refund)
        await uow.answer(view)
    return view


async def claim_due(uow: UnitOfWork, limit: int, *, rail_name: str) -> list[RefundRequest]:
    """Due refunds; the commit of this unit of work is what persists the attempt."""
    rows = await (await uow.raw()).fetch(_CLAIM, uow.now, RETRY_START, RETRY_MAX, limit, rail_name)
    return [
        RefundRequest(row["id"], row["top_up_id"], row["amount_minor"], row["currency"])
        for row in rows
    ]


async def settle(uow: UnitOfWork, refund_id: UUID, answer: RailAnswer) -> bool:
    """Take over the rail's answer; True if it was final. Locks the row.

    A refund may fail days after it succeeded (the card was closed): the money comes back then.
    """
    query = (
        select(Refund)
        .where(Refund.id == refund_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    refund = (await uow.session.exec(query)).one()
    late = refund.status == RefundStatus.SUCCEEDED and answer.status is RailStatus.FAILED
    undecided = refund.status == RefundStatus.PENDING and answer.status is not RailStatus.PENDING
    if not late and not undecided:
        return False
    refund.updated_at = uow.now
    if answer.status is RailStatus.SUCCEEDED:
        refund.status = RefundStatus.SUCCEEDED
        await _move(uow, refund, "done", AccountKind.IN_TRANSIT, AccountKind.CLEARING)
    else:
        refund.status = RefundStatus.FAILED
        refund.failure_code = answer.failure_code
        source = AccountKind.CLEARING if late else AccountKind.IN_TRANSIT
        await _move(uow, refund, "returned", source, AccountKind.AVAILABLE)
    _emit(uow, refund)
    return True


async def list_refunds(
    kernel: Kernel, actor: Actor, top_up_id: UUID, page: PageQuery
) -> Page[RefundView]:
    """Refunds of a top-up, newest first. Raises TopUpNotFound."""
    await _require_readable(kernel, actor, top_up_id)
    after = after_id(page)
    query = select(Refund).where(Refund.top_up_id == top_up_id)
    query = query.order_by(col(Refund.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(Refund.id) < after)
    async with kernel.unit_of_work() as uow:
        views = [view_of(row) for row in await uow.session.exec(query)]
    return Page[RefundView].of(views, page.limit, [(view.id,) for view in views])


async def _require_readable(kernel: Kernel, actor: Actor, top_up_id: UUID) -> None:
    top_up = await top_ups.get_top_up(kernel, actor, top_up_id)
    assert may_oversee(actor, top_up.party_id)


def view_of(refund: Refund) -> RefundView:
    """The API shape."""
    return RefundView(
        id=refund.id,
        top_up_id=refund.top_up_id,
        party_id=refund.party_id,
        money=Money(amount_minor=refund.amount_minor, currency=refund.currency),
        status=RefundStatus(refund.status),
        failure_code=refund.failure_code,
        created_at=refund.created_at,
        updated_at=refund.updated_at,
    )


async def _move(
    uow: UnitOfWork, refund: Refund, step: str, source: AccountKind, target: AccountKind
) -> None:
    def account(kind: AccountKind) -> AccountRef:
        owner = refund.party_id if kind is AccountKind.AVAILABLE else None
        return AccountRef(kind, owner, refund.currency)

    legs = ((account(source), -refund.amount_minor), (account(target), refund.amount_minor))
    key = f"refund:{refund.id.hex}:{step}"
    await ledger.post_strict(uow, [Transfer(key, f"refund_{step}", legs, memo_id=refund.id)])


def _emit(uow: UnitOfWork, refund: Refund) -> None:
    uow.emit(
        f"refund.{refund.status}",
        refund.id,
        view_of(refund).model_dump(mode="json"),
        parties=[refund.party_id],
    )
