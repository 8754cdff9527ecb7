"""When a party wants its balances paid out by themselves."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor, Role
from settlement.errors import ScheduleNotFound
from settlement.money_schemas import PayoutScheduleBody, PayoutSchedules, PayoutScheduleView
from settlement.payout_run_models import Interval, PayoutSchedule


def next_day(interval: Interval, after: date) -> date | None:
    """The first payout day after ``after``: tomorrow, the next Monday, the next first of a month;
    None for payouts by hand."""
    if interval is Interval.DAILY:
        return after + timedelta(days=1)
    if interval is Interval.WEEKLY:
        return after + timedelta(days=7 - after.weekday())
    if interval is Interval.MONTHLY:
        year, month = divmod(after.year * 12 + after.month, 12)
        return date(year, month + 1, 1)
    return None


async def set_schedule(
    kernel: Kernel, actor: Actor, currency: str, body: PayoutScheduleBody
) -> PayoutScheduleView:
    """Make or change one's schedule of a currency. Raises RoleRequired (403).

    The first payout is on the next day that fits, never today.
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        schedule = await _made(uow, actor.party_id, currency)
        if schedule.interval != body.interval:
            schedule.next_on = next_day(body.interval, uow.now.date())
        schedule.interval = body.interval
        schedule.minimum_minor = body.minimum_minor
        schedule.keep_minor = body.keep_minor
        schedule.destination = body.destination
        schedule.updated_at = uow.now
        view = PayoutScheduleView.model_validate(schedule)
        uow.emit(
            "payout_schedule.changed",
            actor.party_id,
            view.model_dump(mode="json"),
            parties=[actor.party_id],
        )
    return view


async def list_schedules(kernel: Kernel, actor: Actor) -> PayoutSchedules:
    """One's own schedules. Raises RoleRequired (403)."""
    actor.require(Role.SELLER)
    query = select(PayoutSchedule).where(PayoutSchedule.party_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query.order_by(col(PayoutSchedule.currency)))
        return PayoutSchedules(items=[PayoutScheduleView.model_validate(row) for row in rows])


async def get_schedule(kernel: Kernel, actor: Actor, currency: str) -> PayoutScheduleView:
    """One of one's own schedules. Raises RoleRequired (403), ScheduleNotFound (404)."""
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        schedule = await uow.session.get(PayoutSchedule, (actor.party_id, currency))
        if schedule is None:
            raise ScheduleNotFound
        return PayoutScheduleView.model_validate(schedule)


async def _made(uow: UnitOfWork, party_id: UUID, currency: str) -> PayoutSchedule:
    """The schedule's row, locked; by hand and without limits when it is new."""
    row = {
        "party_id": party_id,
        "currency": currency,
        "interval": Interval.MANUAL.value,
        "minimum_minor": 1,
        "keep_minor": 0,
        "updated_at": uow.now,
    }
    await uow.execute(insert(PayoutSchedule).values(**row).on_conflict_do_nothing())
    return await uow.session.get_one(
        PayoutSchedule, (party_id, currency), with_for_update=True, populate_existing=True
    )
