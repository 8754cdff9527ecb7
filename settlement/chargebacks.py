"""Chargebacks: a cardholder's bank takes a top-up back, in steps, and may give it back.

The rail says what the bank holds now; what differs from the books is posted. Reports are ordered
by their number of steps, so duplicates and old ones change nothing. The party pays from its
balance, the rest is its debt; what it still has is frozen until an operator closes the case.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from settlement import cases, cursors, ledger, receivables, top_ups
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Command, Hold, Leg, Refused, Transfer, Void
from settlement.errors import RailUnavailable, error_of
from settlement.models import TopUp, TopUpStatus
from settlement.rails.base import Chargeback, Rail, RailRefused
from settlement.rails.choice import rail_of
from settlement.receivables import Purse
from settlement.reconciliation_models import CaseKind, ChargebackOutcome, ChargebackRecord

# Longer than any card network lets a dispute run; nobody's money is frozen for ever.
FREEZE_FOR = timedelta(days=120)
CHARGEBACKS_PER_RUN = 50
# Open disputes are asked for again this often, in case their webhook was lost.
CHECK_EVERY = timedelta(minutes=15)

_log = structlog.get_logger(__name__)

_DUE = """
UPDATE settlement.chargeback SET checked_at = $1::timestamptz
WHERE id IN (SELECT id FROM settlement.chargeback
             WHERE outcome = 'open' AND checked_at <= $1::timestamptz - $2::interval AND rail = $4
             ORDER BY checked_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING dispute
"""


async def run_chargebacks(kernel: Kernel) -> int:
    """Read the rail's new chargebacks and the open ones again. Returns how many changed.

    A chargeback is read again after a crash, never skipped. Raises RailUnavailable.
    """
    rail = rail_of(kernel)
    name = f"chargebacks:{rail.name}"
    position = await cursors.read(kernel, name)
    try:
        page = await rail.list_chargebacks(position, CHARGEBACKS_PER_RUN)
    except RailRefused as refusal:
        _log.error("chargebacks_refused", code=refusal.code, after=position)
        await _refused(kernel, rail, cursors.identity(name), f"listing after {position}", refusal)
        return 0
    done = 0
    for chargeback in page.items:
        done += await take(kernel, rail.name, chargeback)
    if page.next_position is not None:
        await cursors.write(kernel, name, page.next_position)
    return done + await _check_open(kernel, rail)


async def _check_open(kernel: Kernel, rail: Rail) -> int:
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            _DUE, uow.now, CHECK_EVERY, CHARGEBACKS_PER_RUN, rail.name
        )
    done = 0
    for row in rows:
        try:
            found = await rail.find_chargeback(row["dispute"])
        except RailUnavailable:
            _log.warning("rail_unavailable", dispute=row["dispute"])
            continue
        except RailRefused as refusal:
            subject = cursors.identity(f"dispute:{rail.name}:{row['dispute']}")
            await _refused(kernel, rail, subject, f"dispute {row['dispute']}", refusal)
            continue
        if found is not None:
            done += await take(kernel, rail.name, found)
    return done


async def _refused(
    kernel: Kernel, rail: Rail, subject: UUID, what: str, refusal: RailRefused
) -> None:
    async with kernel.unit_of_work() as uow:
        await cases.open_case(
            uow, rail.name, CaseKind.REFUSED, subject, detail=f"{what}: {refusal.code}"
        )


async def take(kernel: Kernel, rail_name: str, chargeback: Chargeback) -> bool:
    """Bring the books to what the rail says of a dispute; True if that changed anything."""
    top_up_id = chargeback.charge_key
    async with kernel.unit_of_work() as uow:
        top_up = await uow.session.get(TopUp, top_up_id)
    if top_up is None:
        _log.error("chargeback_of_unknown_charge", charge=str(top_up_id))
        return False
    if top_up.status == TopUpStatus.PENDING and chargeback.amount_minor > 0:
        # The charge succeeded, or it could not be charged back; its own answer is still due.
        async with kernel.unit_of_work() as uow:
            await top_ups.settle(uow, top_up_id, top_ups.SUCCEEDED)
    async with kernel.unit_of_work() as uow:
        return await _apply(uow, rail_name, chargeback)


async def _apply(uow: UnitOfWork, rail_name: str, chargeback: Chargeback) -> bool:
    top_up = await top_ups.lock_top_up(uow, chargeback.charge_key)
    if top_up.status not in (TopUpStatus.SUCCEEDED, TopUpStatus.CHARGED_BACK):
        return False
    rows = list(
        await uow.session.exec(
            select(ChargebackRecord).where(ChargebackRecord.top_up_id == top_up.id)
        )
    )
    record = next(
        (row for row in rows if (row.rail, row.dispute) == (rail_name, chargeback.dispute)), None
    )
    if record is None:
        if top_up.status == TopUpStatus.CHARGED_BACK and not rows:
            # Debited before disputes were recorded: not a second time.
            return False
        record = _new_record(uow, rail_name, top_up, chargeback)
        rows.append(record)
        uow.session.add(record)
    elif chargeback.steps < record.steps or _same(record, chargeback):
        return False
    change = chargeback.amount_minor - record.amount_minor
    record.outcome = _outcome(chargeback)
    record.amount_minor = chargeback.amount_minor
    record.steps = chargeback.steps
    record.updated_at = uow.now
    held = sum(row.amount_minor for row in rows)
    top_up.status = TopUpStatus.CHARGED_BACK if held else TopUpStatus.SUCCEEDED
    top_up.updated_at = uow.now
    # Cases are locked before accounts, here and where an operator closes one.
    await _tell(uow, rail_name, top_up, record, held=held)
    platform = (_clearing(top_up), _losses(top_up))
    purse = await receivables.lock_purse(uow, top_up.party_id, top_up.currency, *platform)
    commands: list[Command] = []
    if change > 0:
        commands += await _taken(uow, top_up, record, purse, change, rows)
    elif change < 0:
        commands += await _given_back(uow, top_up, record, purse, -change)
    if record.outcome == ChargebackOutcome.WON and record.hold_id is not None:
        commands.append(Void(cases.thaw_key(record.hold_id), record.hold_id))
    await _post(uow, commands)
    return change != 0


def _new_record(
    uow: UnitOfWork, rail_name: str, top_up: TopUp, chargeback: Chargeback
) -> ChargebackRecord:
    return ChargebackRecord(
        id=new_id(),
        rail=rail_name,
        dispute=chargeback.dispute,
        top_up_id=top_up.id,
        currency=top_up.currency,
        amount_minor=0,
        party_minor=0,
        steps=0,
        postings=0,
        outcome=ChargebackOutcome.OPEN,
        checked_at=uow.now,
        created_at=uow.now,
        updated_at=uow.now,
    )


def _same(record: ChargebackRecord, chargeback: Chargeback) -> bool:
    known = (record.steps, record.amount_minor, record.outcome)
    return known == (chargeback.steps, chargeback.amount_minor, _outcome(chargeback))


def _outcome(chargeback: Chargeback) -> ChargebackOutcome:
    if chargeback.won is None:
        return ChargebackOutcome.OPEN
    return ChargebackOutcome.WON if chargeback.won else ChargebackOutcome.LOST


async def _taken(
    uow: UnitOfWork,
    top_up: TopUp,
    record: ChargebackRecord,
    purse: Purse,
    taken: int,
    rows: Sequence[ChargebackRecord],
) -> list[Command]:
    """The bank took ``taken``: the party pays what was not refunded to it or taken already, the
    exchange the rest; what the party still has is frozen."""
    charged = sum(row.party_minor for row in rows)
    left = top_up.amount_minor - await top_ups.refunded_minor(uow, top_up.id) - charged
    from_party = max(0, min(taken, left))
    legs: list[Leg] = [(_clearing(top_up), taken), *purse.taking(from_party)]
    if from_party < taken:
        legs.append((_losses(top_up), from_party - taken))
    record.party_minor += from_party
    commands: list[Command] = [
        Transfer(_next_key(record), "chargeback", tuple(legs), memo_id=top_up.id)
    ]
    rest = purse.spendable - from_party
    if rest > 0 and record.hold_id is None:
        record.hold_id = new_id()
        commands.append(
            Hold(
                f"chargeback:freeze:{record.hold_id.hex}",
                record.hold_id,
                purse.available,
                rest,
                uow.now + FREEZE_FOR,
                memo_id=top_up.id,
            )
        )
    return commands


async def _given_back(
    uow: UnitOfWork, top_up: TopUp, record: ChargebackRecord, purse: Purse, back: int
) -> list[Command]:
    """The bank gave ``back``: first to the party's debt, then to what was given up of it, then to
    its balance; what the exchange paid itself comes last."""
    to_party = min(back, record.party_minor)
    record.party_minor -= to_party
    to_debt = min(to_party, purse.debt)
    rest = to_party - to_debt
    recovered = await receivables.recover(uow, top_up.party_id, top_up.currency, rest)
    parts = (
        (purse.receivable, to_debt),
        (_losses(top_up), back - to_party + recovered),
        (purse.available, rest - recovered),
    )
    legs = ((_clearing(top_up), -back), *((ref, amount) for ref, amount in parts if amount))
    return [Transfer(_next_key(record), "chargeback_return", legs, memo_id=top_up.id)]


async def _tell(
    uow: UnitOfWork, rail_name: str, top_up: TopUp, record: ChargebackRecord, *, held: int
) -> None:
    top_ups.emit(uow, top_up)
    if held:
        await cases.open_case(
            uow,
            rail_name,
            CaseKind.CHARGEBACK,
            top_up.id,
            detail=f"dispute {record.dispute} is {record.outcome}",
            currency=top_up.currency,
            ledger_minor=top_up.amount_minor,
            rail_minor=top_up.amount_minor - held,
            party_id=top_up.party_id,
        )
    else:
        await cases.agree(uow, rail_name, frozenset({CaseKind.CHARGEBACK}), [top_up.id])


async def _post(uow: UnitOfWork, commands: Sequence[Command]) -> None:
    for command, result in zip(commands, await ledger.post(uow, commands), strict=True):
        # A hold that has expired or was freed by an operator is free already.
        if isinstance(result, Refused) and not isinstance(command, Void):
            raise error_of(result)


async def records_of(uow: UnitOfWork, top_up_id: UUID) -> list[ChargebackRecord]:
    """The disputes of a top-up, oldest first."""
    query = select(ChargebackRecord).where(ChargebackRecord.top_up_id == top_up_id)
    return list(await uow.session.exec(query.order_by(col(ChargebackRecord.id))))


def posting_key(chargeback_id: UUID, number: int) -> str:
    """The ledger key of a dispute's n-th posting, from 1."""
    return f"chargeback:{chargeback_id.hex}:{number}"


def _next_key(record: ChargebackRecord) -> str:
    record.postings += 1
    return posting_key(record.id, record.postings)


def _clearing(top_up: TopUp) -> AccountRef:
    return AccountRef(AccountKind.CLEARING, None, top_up.currency)


def _losses(top_up: TopUp) -> AccountRef:
    return AccountRef(AccountKind.LOSSES, None, top_up.currency)
