"""Payout runs: what schedules ask for, with a record of every payout and of every skip.

A run takes one schedule after the other, each in a unit of work of its own: its row is locked
(and passed by if another runner has it), the payout opened and the line written together. So two
runners make one payout, and a crash leaves a run that the next tick goes on with.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, exists, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import Conflict, Forbidden, Invalid
from market.kernel.ids import new_id
from market.kernel.money import MAX_MINOR, Money
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id, require_verified
from settlement import audit, ledger, payouts, receivables, statements
from settlement.commands import Transfer
from settlement.errors import PayoutRunNotFound, PayoutRunOpen
from settlement.money_schemas import PayoutRunLineView, PayoutRunOrder, PayoutRunView
from settlement.payout_run_models import (
    Interval,
    PayoutRun,
    PayoutRunLine,
    PayoutSchedule,
    RunTrigger,
)
from settlement.payout_schedules import next_day
from settlement.rails.base import Rail
from settlement.rails.choice import rail_of

SCHEDULES_PER_RUN = 200


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for one balance. Minor units."""

    balance: int
    netting: Transfer | None
    netted: int
    held_back: int
    amount: int
    skipped: str | None
    destination: str = ""


async def run_payout_runs(kernel: Kernel) -> int:
    """Pay out what schedules ask for today. Returns how many balances were looked at.

    At most ``SCHEDULES_PER_RUN`` per call; a run that is not finished goes on at the next.
    """
    rail = rail_of(kernel)
    await _open_scheduled(kernel, rail)
    query = select(PayoutRun).where(
        PayoutRun.rail == rail.name, col(PayoutRun.finished_at).is_(None)
    )
    async with kernel.unit_of_work() as uow:
        runs = list(await uow.session.exec(query.order_by(col(PayoutRun.id))))
    done = 0
    for run in runs:
        while done < SCHEDULES_PER_RUN and await _next_line(kernel, rail, run):
            done += 1
    return done


async def start_run(kernel: Kernel, actor: Actor, body: PayoutRunOrder) -> PayoutRunView:
    """Have every balance with a schedule paid out now; into the audit log.

    Raises RoleRequired (403), PayoutRunOpen (409). The worker does it.
    """
    actor.require(Role.OPERATOR)
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        run_id = await _insert(uow, rail.name, RunTrigger.OPERATOR)
        if run_id is None:
            raise PayoutRunOpen
        audit.record(uow, actor, "payout_run.start", run_id, reason=body.reason)
        view = _view(await uow.session.get_one(PayoutRun, run_id), paid=0, skipped=0)
        await uow.answer(view)
    return view


async def _open_scheduled(kernel: Kernel, rail: Rail) -> None:
    async with kernel.unit_of_work() as uow:
        due = select(exists().where(col(PayoutSchedule.next_on) <= uow.now.date()))
        if (await uow.session.exec(due)).one():
            await _insert(uow, rail.name, RunTrigger.SCHEDULE)


async def _insert(uow: UnitOfWork, rail_name: str, trigger: RunTrigger) -> UUID | None:
    """A new run; None when one of this kind is open (the index decides)."""
    run_id = new_id()
    row = {
        "id": run_id,
        "rail": rail_name,
        "trigger": trigger.value,
        "day": uow.now.date(),
        "started_at": uow.now,
    }
    made = await uow.execute(insert(PayoutRun).values(**row).on_conflict_do_nothing())
    return run_id if made.rowcount == 1 else None


async def _next_line(kernel: Kernel, rail: Rail, run: PayoutRun) -> bool:
    """Do one balance of a run; False when none is left to this runner."""
    async with kernel.unit_of_work() as uow:
        schedule = (await uow.session.exec(_due(run).with_for_update(skip_locked=True))).first()
        if schedule is None:
            await _finish(uow, run)
            return False
        plan = await _plan(uow, kernel, rail, schedule)
        payout_id = None
        commands = [] if plan.netting is None else [plan.netting]
        if plan.skipped is None:
            money = Money(amount_minor=plan.amount, currency=schedule.currency)
            payout, start = payouts.open_payout(
                uow, schedule.party_id, money, plan.destination, rail_name=rail.name
            )
            payout_id = payout.id
            commands.append(start)
        uow.session.add(
            PayoutRunLine(
                run_id=run.id,
                party_id=schedule.party_id,
                currency=schedule.currency,
                payout_id=payout_id,
                skipped=plan.skipped,
                balance_minor=plan.balance,
                netted_minor=plan.netted,
                held_back_minor=plan.held_back,
                amount_minor=plan.amount,
                at=uow.now,
            )
        )
        schedule.next_on = next_day(Interval(schedule.interval), uow.now.date())
        await ledger.post_strict(uow, commands)
    return True


def _due(run: PayoutRun) -> SelectOfScalar[PayoutSchedule]:
    written = exists().where(
        and_(
            col(PayoutRunLine.run_id) == run.id,
            col(PayoutRunLine.party_id) == col(PayoutSchedule.party_id),
            col(PayoutRunLine.currency) == col(PayoutSchedule.currency),
        )
    )
    query = select(PayoutSchedule).where(col(PayoutSchedule.next_on).is_not(None), ~written)
    if run.trigger == RunTrigger.SCHEDULE:
        query = query.where(col(PayoutSchedule.next_on) <= run.day)
    return query.order_by(col(PayoutSchedule.party_id), col(PayoutSchedule.currency)).limit(1)


async def _finish(uow: UnitOfWork, run: PayoutRun) -> None:
    """Close the run, unless another runner still has one of its schedules locked."""
    current = await uow.session.get_one(
        PayoutRun, run.id, with_for_update=True, populate_existing=True
    )
    if current.finished_at is None and (await uow.session.exec(_due(run))).first() is None:
        current.finished_at = uow.now
        uow.emit("payout_run.finished", run.id, {"day": run.day.isoformat()})


async def _plan(uow: UnitOfWork, kernel: Kernel, rail: Rail, schedule: PayoutSchedule) -> _Plan:
    """What to pay: the balance, less debts, less what is too fresh, less what is to stay."""
    currency = schedule.currency
    destination, skipped = await _destination(uow, rail, schedule)
    purse = await receivables.lock_purse(
        uow, schedule.party_id, currency, payouts.in_transit(currency)
    )
    held_back = 0
    if kernel.settings.payout_holdback_days:
        since = uow.now - timedelta(days=kernel.settings.payout_holdback_days)
        fresh = await statements.credited_since(uow, purse.available, since)
        held_back = min(fresh, purse.free)
    least = max(payouts.minimum_of(kernel.settings, currency), schedule.minimum_minor)
    amount = min(purse.free - held_back - schedule.keep_minor, MAX_MINOR)
    amount = rail.payable(max(0, amount), currency)
    if skipped is None and amount < least:
        unheld = purse.free - schedule.keep_minor
        skipped = "in_debt" if purse.debt > purse.spendable else "below_minimum"
        skipped = "held_back" if held_back and unheld >= least else skipped
    netting = purse.netting()
    return _Plan(
        balance=purse.spendable,
        netting=netting,
        netted=0 if netting is None else min(purse.debt, purse.spendable),
        held_back=held_back,
        amount=0 if skipped else amount,
        skipped=skipped,
        destination=destination,
    )


async def _destination(
    uow: UnitOfWork, rail: Rail, schedule: PayoutSchedule
) -> tuple[str, str | None]:
    """Where the money goes, or the reason why it must not."""
    money = Money(
        amount_minor=rail.payable(MAX_MINOR, schedule.currency), currency=schedule.currency
    )
    try:
        await require_verified(uow, schedule.party_id)
        return await rail.destination_of(uow, schedule.party_id, schedule.destination, money), None
    except (Conflict, Forbidden, Invalid) as refusal:
        return "", refusal.code


async def list_runs(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[PayoutRunView]:
    """Newest first. Raises RoleRequired (403)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = select(PayoutRun).order_by(col(PayoutRun.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(PayoutRun.id) < after)
    async with kernel.unit_of_work() as uow:
        runs = list(await uow.session.exec(query))
        counted = await _counts(uow, [run.id for run in runs])
    views = []
    for run in runs:
        paid, skipped = counted.get(run.id, (0, 0))
        views.append(_view(run, paid=paid, skipped=skipped))
    return Page[PayoutRunView].of(views, page.limit, [(view.id,) for view in views])


async def get_run(kernel: Kernel, actor: Actor, run_id: UUID) -> PayoutRunView:
    """One run. Raises RoleRequired (403), PayoutRunNotFound (404)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        run = await uow.session.get(PayoutRun, run_id)
        if run is None:
            raise PayoutRunNotFound
        paid, skipped = (await _counts(uow, [run_id])).get(run_id, (0, 0))
    return _view(run, paid=paid, skipped=skipped)


async def list_lines(
    kernel: Kernel, actor: Actor, run_id: UUID, page: PageQuery
) -> Page[PayoutRunLineView]:
    """What a run did, by party. Raises RoleRequired (403), PayoutRunNotFound (404)."""
    await get_run(kernel, actor, run_id)
    query = select(PayoutRunLine).where(PayoutRunLine.run_id == run_id)
    key = page.key(2)
    if key is not None:
        try:
            party_id = UUID(key[0])
        except ValueError as error:
            raise BadCursor(param="after") from error
        place = func.row(PayoutRunLine.party_id, PayoutRunLine.currency)
        query = query.where(place > func.row(party_id, key[1]))
    query = query.order_by(col(PayoutRunLine.party_id), col(PayoutRunLine.currency))
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query.limit(page.limit + 1))
        views = [PayoutRunLineView.model_validate(row) for row in rows]
    cursors = [(view.party_id, view.currency) for view in views]
    return Page[PayoutRunLineView].of(views, page.limit, cursors)


async def _counts(uow: UnitOfWork, run_ids: list[UUID]) -> dict[UUID, tuple[int, int]]:
    rows = await (await uow.raw()).fetch(
        "SELECT run_id, count(payout_id) AS paid, count(skipped) AS skipped "
        "FROM settlement.payout_run_line WHERE run_id = ANY($1::uuid[]) GROUP BY run_id",
        run_ids,
    )
    return {row["run_id"]: (row["paid"], row["skipped"]) for row in rows}


def _view(run: PayoutRun, *, paid: int, skipped: int) -> PayoutRunView:
    return PayoutRunView(
        id=run.id,
        rail=run.rail,
        trigger=RunTrigger(run.trigger),
        day=run.day,
        started_at=run.started_at,
        finished_at=run.finished_at,
        paid_count=paid,
        skipped_count=skipped,
    )
