"""From use to money: what has been used or resold and not been paid is released from escrow.

Value of the first ``u`` used units = floor(u × price_minor ÷ lot_units); a release pays the
difference to what was released before, so that rounding never adds up and the last unit pays
exactly the total. Units that were sold on are owed like used ones: the reseller has had their
worth, so they can never be refunded. Every function here takes an agreement and a grant that are
locked.
"""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts import agreements, releases
from contracts.agreement_states import CLOSED, EARNING, AgreementStatus
from contracts.models import Agreement, Ending, Grant, PlanKind
from market.kernel.db import UnitOfWork
from market.kernel.money import Money
from settlement import escrow


def used_value_minor(agreement: Agreement, spent_units: int) -> int:
    """Minor units that ``spent_units`` of a metered agreement are worth. Floor, see above."""
    return min(agreement.total_minor, spent_units * agreement.price_minor // agreement.lot_units)


async def lock_grants_of(uow: UnitOfWork, agreement_ids: list[UUID]) -> dict[UUID, Grant]:
    """Grants by agreement, locked in id order; lock their agreements first."""
    query = (
        select(Grant)
        .where(col(Grant.agreement_id).in_(agreement_ids))
        .order_by(col(Grant.id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {grant.agreement_id: grant for grant in await uow.session.exec(query)}


async def progress(uow: UnitOfWork, agreement: Agreement, grant: Grant) -> int:
    """Release what use has earned and move the status along; give the minor units released.

    Metered: pays by use, and settles when every unit is used. License: the first delivery makes
    it ``delivered``; money waits for acceptance. No money moves while
    disputed or after the end.
    """
    status = AgreementStatus(agreement.status)
    if status not in EARNING:
        if status in CLOSED or status is AgreementStatus.RULED:
            grant.accrued_units = grant.spent_units
        return 0
    released = 0
    if agreement.kind == PlanKind.METERED:
        due = used_value_minor(agreement, grant.spent_units) - agreement.released_minor
        released = await _release(uow, agreement, due, key=f"accrual:{grant.spent_units}")
        if grant.spent_units == grant.granted_units:
            _finish(uow, agreement, reason="all units are used")
    elif grant.delivery_count > 0 and agreement.status == AgreementStatus.ACTIVE:
        agreements.move(uow, agreement, AgreementStatus.DELIVERED, reason="first delivery")
    grant.accrued_units = grant.spent_units
    return released


async def accept(uow: UnitOfWork, agreement: Agreement, grant: Grant, *, reason: str) -> int:
    """Release the whole rest and settle; give the minor units released."""
    released = await _release(uow, agreement, agreement.escrow_minor, key="acceptance")
    grant.accrued_units = grant.spent_units
    _finish(uow, agreement, reason=reason)
    return released


async def close_out(uow: UnitOfWork, agreement: Agreement, grant: Grant) -> None:
    """End the money of an agreement whose grant has ended and whose leases are closed.

    Used units are paid, unused ones refunded to the buyer. A license that ran its whole term
    is paid; one that was terminated before acceptance is refunded. Escrow ends at zero.
    """
    if AgreementStatus(agreement.status) in EARNING:
        await progress(uow, agreement, grant)
    if AgreementStatus(agreement.status) in EARNING:
        terminated = agreement.ending == Ending.TERMINATED
        if agreement.kind == PlanKind.LICENSE and not terminated:
            await accept(uow, agreement, grant, reason="the term has ended")
        else:
            await _refund_rest(uow, agreement)
            if terminated:
                reason = agreement.ending_reason or "terminated"
                agreements.move(uow, agreement, AgreementStatus.TERMINATED, reason=reason)
            else:
                _finish(uow, agreement, reason="the term has ended")
    grant.closed_out_at = uow.now


async def _release(uow: UnitOfWork, agreement: Agreement, amount: int, *, key: str) -> int:
    if amount <= 0:
        return 0
    await releases.pay(uow, agreement, amount, key=f"{key}:{agreement.released_minor}")
    return amount


async def _refund_rest(uow: UnitOfWork, agreement: Agreement) -> None:
    amount = agreement.escrow_minor
    if amount > 0:
        money = Money(amount_minor=amount, currency=agreement.currency)
        await escrow.refund(
            uow, f"refund:{agreement.id.hex}", agreement.id, agreement.buyer_id, money
        )
        agreement.refunded_minor += amount


def _finish(uow: UnitOfWork, agreement: Agreement, *, reason: str) -> None:
    """Walk the rest of the way to ``settled``; escrow must be empty by now."""
    assert agreement.escrow_minor == 0
    if agreement.status == AgreementStatus.ACTIVE and agreement.kind == PlanKind.METERED:
        agreements.move(uow, agreement, AgreementStatus.DELIVERED, reason=reason)
    if agreement.status in {AgreementStatus.ACTIVE, AgreementStatus.DELIVERED}:
        agreements.move(uow, agreement, AgreementStatus.ACCEPTED, reason=reason)
    agreements.move(uow, agreement, AgreementStatus.SETTLED, reason=reason)
