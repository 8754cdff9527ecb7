"""Reconciliation: what the rail says it moved, against what the clearing accounts say.

Both sides are summed per subject (top-up, refund, payout) and currency, over all time, for every
subject that either side touched in the interval or that was open before. So a payout that was
sent and came back is nothing on both sides, and a difference shows once, however many movements
it has. What is still in flight is looked at again next time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import orjson
import structlog
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.money import display
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement import audit, cases, reconciliation_sql as sql, statements
from settlement.accounts import AccountKind, AccountRef
from settlement.errors import DayNotOver, RailUnavailable
from settlement.money_schemas import CurrencyTotal, ReconciliationOrder, ReconciliationView
from settlement.rail_movements import read_movements
from settlement.rails.choice import rail_of
from settlement.reconciliation_models import DIFFERENCES, CaseKind, Reconciliation

# The rail's list may lag behind its answers, so a day is compared one hour after its end.
DAY_SETTLES_IN = timedelta(hours=1)
# How long a movement may wait for its outcome in the books before it is a difference.
IN_FLIGHT_MAX = timedelta(days=30)
SUBJECTS_PER_PART = 500
STATEMENT_TIMEOUT_MS = 120_000
# Whose memo is the subject; anything else on a clearing account stands for itself.
_OUR_KINDS = (
    "top_up",
    "chargeback",
    "chargeback_return",
    "refund_done",
    "refund_returned",
    "payout_paid",
    "payout_returned",
    "rail_case",
)
# Booked with their movement, compared with it.
_FEE_KINDS = ("rail_fee",)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = structlog.get_logger(__name__)


@dataclass
class _Found:
    """What a comparison has seen so far. ``in_flight`` in minor units by currency."""

    subjects: int = 0
    waiting: set[UUID] = field(default_factory=set)
    in_flight: dict[str, int] = field(default_factory=dict)
    differences: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """Both sides of one subject in one currency; minor units as seen from the rail."""

    rail: int | None = None
    fee: int = 0
    booked_fee: int = 0
    ledger: int | None = None
    kinds: str = ""

    @property
    def sums(self) -> tuple[int, int]:
        """What the ledger and the rail say, fees included."""
        return (self.ledger or 0) - self.booked_fee, (self.rail or 0) - self.fee

    @property
    def difference(self) -> CaseKind | None:
        """None when the two sides agree."""
        ours, theirs = self.sums
        if ours == theirs:
            return None
        if (self.ledger or 0) == (self.rail or 0):
            return CaseKind.FEE_DIFFERS
        if self.ledger is None:
            return CaseKind.MISSING_HERE
        return CaseKind.MISSING_THERE if self.rail is None else CaseKind.AMOUNT_DIFFERS


async def run_reconciliation(kernel: Kernel) -> int:
    """Compare everything up to the end of yesterday (UTC), once a day. Returns 1 if it ran.

    Days without a run (an outage) are part of the next one. Raises nothing for a rail that does
    not answer: the next tick tries again.
    """
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        until = _midnight((uow.now - DAY_SETTLES_IN).date())
        last = await (await uow.raw()).fetchval(sql.LAST_RUN, rail.name)
    if last is not None and last >= until:
        return 0
    try:
        await reconcile(kernel, last or _EPOCH, until)
    except RailUnavailable as error:
        _log.warning("reconciliation_postponed", until=until.isoformat(), why=error.detail)
        return 0
    return 1


async def reconcile_day(kernel: Kernel, day: date) -> ReconciliationView:
    """Compare one past day (UTC). Raises DayNotOver (422), RailUnavailable (503)."""
    since = _midnight(day)
    async with kernel.unit_of_work() as uow:
        if uow.now < since + timedelta(days=1):
            raise DayNotOver(param="day")
    return await reconcile(kernel, since, since + timedelta(days=1))


async def order(kernel: Kernel, actor: Actor, body: ReconciliationOrder) -> ReconciliationView:
    """:func:`reconcile_day` for an operator; into the audit log."""
    actor.require(Role.OPERATOR)
    view = await reconcile_day(kernel, date.fromisoformat(body.day))
    async with kernel.unit_of_work() as uow:
        audit.record(uow, actor, "reconcile", view.id, data={"day": body.day})
        await uow.answer(view)
    return view


async def reconcile(kernel: Kernel, since: datetime, until: datetime) -> ReconciliationView:
    """Read the rail's movements, compare [``since``, ``until``), open and close cases.

    Effects: fees are posted, cases opened or closed, the run recorded. Comparing again is
    harmless. Raises RailUnavailable.
    """
    rail = rail_of(kernel)
    await read_movements(kernel)
    async with kernel.unit_of_work(statement_timeout_ms=STATEMENT_TIMEOUT_MS) as uow:
        rows = await (await uow.raw()).fetch(sql.MOVED_SUBJECTS, rail.name, since, until)
        moved: dict[UUID, list[UUID]] = {}
        for row in rows:
            moved.setdefault(row["subject_id"], []).append(row["movement_id"])
        subjects = sorted({*moved, *await _touched(uow, rail.name, since, until)})
    found = _Found()
    for start in range(0, len(subjects), SUBJECTS_PER_PART):
        part = subjects[start : start + SUBJECTS_PER_PART]
        async with kernel.unit_of_work(statement_timeout_ms=STATEMENT_TIMEOUT_MS) as uow:
            await _compare(uow, rail.name, part, found)
            compared = [
                movement
                for subject in part
                if subject not in found.waiting
                for movement in moved.get(subject, [])
            ]
            await (await uow.raw()).execute(sql.RECONCILED, compared, until.date())
    return await _record(kernel, rail.name, since, until, found, movements=len(rows))


async def _touched(uow: UnitOfWork, rail_name: str, since: datetime, until: datetime) -> set[UUID]:
    """Subjects of clearing postings in the interval, and of differences that are still open."""
    connection = await uow.raw()
    found: set[UUID] = set()
    for account in await connection.fetch(sql.CLEARING_ACCOUNTS):
        ref = AccountRef(AccountKind.CLEARING, None, account["currency"])
        # Booking times are kept to the microsecond.
        edge = timedelta(microseconds=1)
        first, last = await statements.posted_range(uow, ref, since - edge, until - edge)
        rows = await connection.fetch(
            sql.POSTED_SUBJECTS, ref.id, first, last, _OUR_KINDS, _FEE_KINDS
        )
        found.update(row["subject_id"] for row in rows)
    kinds = [kind.value for kind in DIFFERENCES]
    for row in await connection.fetch(sql.OPEN_SUBJECTS, rail_name, kinds):
        found.add(row["subject_id"])
    return found


async def _compare(
    uow: UnitOfWork, rail_name: str, subjects: Sequence[UUID], found: _Found
) -> None:
    connection = await uow.raw()
    states = {
        row["id"]: row
        for row in await connection.fetch(sql.STATES, subjects, uow.now - IN_FLIGHT_MAX)
    }
    ours = [
        subject
        for subject in subjects
        if subject not in states or states[subject]["rail"] == rail_name
    ]
    lines = await _lines(uow, rail_name, ours)
    differing: list[tuple[UUID, str, CaseKind]] = []
    for (subject, currency), line in lines.items():
        state = states.get(subject)
        ledger_minor, rail_minor = line.sums
        if state is not None and state["in_flight"]:
            found.waiting.add(subject)
            open_minor = rail_minor - ledger_minor
            found.in_flight[currency] = found.in_flight.get(currency, 0) + open_minor
            continue
        kind = line.difference
        if kind is None:
            continue
        differing.append((subject, currency, kind))
        found.differences += await cases.open_case(
            uow,
            rail_name,
            kind,
            subject,
            detail=_detail(line, currency),
            currency=currency,
            ledger_minor=ledger_minor,
            rail_minor=rail_minor,
            party_id=None if state is None else state["party_id"],
        )
    settled = [subject for subject in ours if subject not in found.waiting]
    await cases.agree(uow, rail_name, DIFFERENCES, settled, but_for=differing)
    found.subjects += len(ours)


async def _lines(
    uow: UnitOfWork, rail_name: str, subjects: Sequence[UUID]
) -> dict[tuple[UUID, str], _Line]:
    connection = await uow.raw()
    ledger_side: Mapping[tuple[UUID, str], int] = {
        (row["subject_id"], row["currency"]): row["amount_minor"]
        for row in await connection.fetch(sql.LEDGER_SIDE, subjects)
    }
    lines = {
        (row["subject_id"], row["currency"]): _Line(
            rail=row["amount_minor"],
            fee=row["fee_minor"],
            booked_fee=row["booked_minor"],
            ledger=ledger_side.get((row["subject_id"], row["currency"])),
            kinds=row["kinds"],
        )
        for row in await connection.fetch(sql.RAIL_SIDE, subjects, rail_name)
    }
    for place, amount in ledger_side.items():
        lines.setdefault(place, _Line(ledger=amount))
    return lines


def _detail(line: _Line, currency: str) -> str:
    ledger_minor, rail_minor = line.sums
    ours = "nothing" if line.ledger is None else display(ledger_minor, currency)
    theirs = "nothing" if line.rail is None else display(rail_minor, currency)
    moved = f" ({line.kinds})" if line.kinds else ""
    return f"The ledger has {ours}, the rail {theirs}{moved}."


async def _record(
    kernel: Kernel,
    rail_name: str,
    since: datetime,
    until: datetime,
    found: _Found,
    *,
    movements: int,
) -> ReconciliationView:
    async with kernel.unit_of_work() as uow:
        view = ReconciliationView(
            id=new_id(),
            rail=rail_name,
            since=since,
            until=until,
            movement_count=movements,
            subject_count=found.subjects,
            in_flight_count=len(found.waiting),
            difference_count=found.differences,
            totals=await _totals(uow, rail_name, found),
            created_at=uow.now,
        )
        facts: dict[str, Any] = view.model_dump(mode="json")
        await (await uow.raw()).execute(
            sql.INSERT_RUN,
            view.id,
            rail_name,
            since,
            until,
            movements,
            found.subjects,
            len(found.waiting),
            found.differences,
            orjson.dumps(facts["totals"]).decode(),
            uow.now,
        )
        uow.emit("reconciliation.finished", view.id, facts)
    return view


async def _totals(uow: UnitOfWork, rail_name: str, found: _Found) -> list[CurrencyTotal]:
    connection = await uow.raw()
    theirs = {
        row["currency"]: row["total_minor"]
        for row in await connection.fetch(sql.RAIL_TOTALS, rail_name)
    }
    ours = {
        row["currency"]: -row["posted"] for row in await connection.fetch(sql.CLEARING_ACCOUNTS)
    }
    return [
        CurrencyTotal(
            currency=currency,
            rail_minor=theirs.get(currency, 0),
            ledger_minor=ours.get(currency, 0),
            in_flight_minor=found.in_flight.get(currency, 0),
            difference_minor=theirs.get(currency, 0) - ours.get(currency, 0),
        )
        for currency in sorted({*theirs, *ours})
    ]


async def list_reconciliations(
    kernel: Kernel, actor: Actor, page: PageQuery
) -> Page[ReconciliationView]:
    """Newest first. Raises RoleRequired (403)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = select(Reconciliation).order_by(col(Reconciliation.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(Reconciliation.id) < after)
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query)
        views = [ReconciliationView.model_validate(row) for row in rows]
    return Page[ReconciliationView].of(views, page.limit, [(view.id,) for view in views])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
