"""Debts of parties: money that a bank or a claim took back after it was spent or paid out.

A debt is the negative balance of the party's receivable account. Whatever comes onto its
available balance pays it first: by ``net_debts`` every few seconds, and before every payout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import display
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import get_party
from settlement import audit, ledger, sql
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Leg, Transfer
from settlement.errors import DebtTooSmall, SameParty
from settlement.money_schemas import ClaimBody, ClaimView, DebtView, WriteOffBody, WriteOffView
from settlement.payout_run_models import WriteOff

DEBTS_PER_RUN = 100

_PAYABLE_DEBTS = """
SELECT r.owner, r.currency FROM settlement.account r
JOIN settlement.account a ON a.owner = r.owner AND a.currency = r.currency AND a.kind = 'available'
WHERE r.kind = 'receivable' AND r.posted < 0 AND a.posted > a.held
ORDER BY r.id LIMIT $1
"""
_DEBTS = """
SELECT owner AS party_id, currency, -posted AS owed_minor FROM settlement.account
WHERE kind = 'receivable' AND posted < 0 AND (owner, currency::text) > ($1, $2)
ORDER BY owner, currency::text LIMIT $3
"""
_RECOVERABLE = """
SELECT id, amount_minor - recovered_minor AS open_minor FROM settlement.write_off
WHERE party_id = $1 AND currency = $2 AND recovered_minor < amount_minor
ORDER BY id FOR UPDATE
"""
_RECOVER = """
UPDATE settlement.write_off SET recovered_minor = recovered_minor + $2 WHERE id = $1
"""


@dataclass(frozen=True, slots=True)
class Purse:
    """A party's money in one currency, its accounts locked: minor units.

    ``debt_seq`` numbers the movements of the debt, so that a key made of it serves once.
    """

    party_id: UUID
    currency: str
    spendable: int
    debt: int
    debt_seq: int

    @property
    def available(self) -> AccountRef:
        """The balance."""
        return AccountRef(AccountKind.AVAILABLE, self.party_id, self.currency)

    @property
    def receivable(self) -> AccountRef:
        """The account whose negative balance is the debt."""
        return AccountRef(AccountKind.RECEIVABLE, self.party_id, self.currency)

    @property
    def free(self) -> int:
        """What is left after the debt."""
        return max(0, self.spendable - self.debt)

    def netting(self) -> Transfer | None:
        """The transfer that pays as much of the debt as there is; None without either."""
        amount = min(self.debt, self.spendable)
        if amount <= 0:
            return None
        key = f"debt:{self.receivable.id.hex}:{self.debt_seq}"
        legs = ((self.available, -amount), (self.receivable, amount))
        return Transfer(key, "debt_netting", legs, memo_id=self.party_id)

    def taking(self, amount: int) -> list[Leg]:
        """Legs that take ``amount`` from the balance, and what is missing as a debt."""
        paid = min(amount, max(0, self.spendable))
        legs: list[Leg] = []
        if paid:
            legs.append((self.available, -paid))
        if paid < amount:
            legs.append((self.receivable, paid - amount))
        return legs


async def lock_purse(uow: UnitOfWork, party_id: UUID, currency: str, *more: AccountRef) -> Purse:
    """Lock the party's accounts, and ``more`` that the caller will post to, in id order.

    Name all accounts of the following ``post``: a later lock would be out of order.
    """
    available = AccountRef(AccountKind.AVAILABLE, party_id, currency)
    receivable = AccountRef(AccountKind.RECEIVABLE, party_id, currency)
    refs = [available, receivable, *more]
    states = await sql.lock_accounts(await uow.raw(), refs, at=uow.now)
    debt = states[receivable.id]
    purse = states[available.id]
    return Purse(party_id, currency, purse.posted - purse.held, max(0, -debt.posted), debt.seq)


async def net_debts(kernel: Kernel) -> int:
    """Pay debts from balances that have money again. Returns how many were paid on."""
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_PAYABLE_DEBTS, DEBTS_PER_RUN)
    done = 0
    for row in rows:
        async with kernel.unit_of_work() as uow:
            purse = await lock_purse(uow, UUID(str(row["owner"])), row["currency"])
            transfer = purse.netting()
            if transfer is not None:
                await ledger.post_strict(uow, [transfer])
                done += 1
    return done


async def recover(uow: UnitOfWork, party_id: UUID, currency: str, amount: int) -> int:
    """Count money that came back against debts given up earlier; returns the minor units that
    therefore belong to losses and not to the party."""
    connection = await uow.raw()
    recovered = 0
    for row in await connection.fetch(_RECOVERABLE, party_id, currency):
        part = min(amount - recovered, row["open_minor"])
        if part > 0:
            await connection.execute(_RECOVER, row["id"], part)
            recovered += part
    return recovered


async def list_debts(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[DebtView]:
    """What parties owe, ordered by party. Raises RoleRequired (403), BadCursor (422)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    key = page.key(2)
    try:
        party_id, currency = (UUID(int=0), "") if key is None else (UUID(key[0]), key[1])
    except ValueError as error:
        raise BadCursor(param="after") from error
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_DEBTS, party_id, currency, page.limit + 1)
    views = [DebtView.model_validate(dict(row)) for row in rows]
    return Page[DebtView].of(views, page.limit, [(view.party_id, view.currency) for view in views])


async def write_off(
    kernel: Kernel, actor: Actor, party_id: UUID, body: WriteOffBody
) -> WriteOffView:
    """Book a debt, or a part of it, to losses; into the audit log.

    Raises PartyNotFound (404), DebtTooSmall (422: more than is owed).
    """
    actor.require(Role.OPERATOR)
    money = body.money
    losses = AccountRef(AccountKind.LOSSES, None, money.currency)
    async with kernel.unit_of_work() as uow:
        await get_party(uow, party_id)
        purse = await lock_purse(uow, party_id, money.currency, losses)
        if money.amount_minor > purse.debt:
            raise DebtTooSmall(
                f"The party owes {display(purse.debt, money.currency)}.", param="money.amount_minor"
            )
        row = WriteOff(
            id=new_id(),
            party_id=party_id,
            currency=money.currency,
            amount_minor=money.amount_minor,
            recovered_minor=0,
            reason=body.reason,
            created_at=uow.now,
        )
        uow.session.add(row)
        facts = {"party_id": show("pty", party_id), **money.model_dump()}
        audit.record(uow, actor, "debt.write_off", row.id, reason=body.reason, data=facts)
        uow.emit("debt.written_off", row.id, facts, parties=[party_id])
        legs = ((purse.receivable, money.amount_minor), (losses, -money.amount_minor))
        key = f"write_off:{row.id.hex}"
        await ledger.post_strict(uow, [Transfer(key, "write_off", legs, memo_id=row.id)])
        view = WriteOffView.model_validate(row)
        await uow.answer(view)
    return view


async def claim(kernel: Kernel, actor: Actor, body: ClaimBody) -> ClaimView:
    """Take money from one party for another; what it no longer has becomes its debt.

    For refunds after the seller was paid out. The exchange advances the missing part, which
    later releases pay back. Raises PartyNotFound (404), SameParty (422).
    """
    actor.require(Role.OPERATOR)
    if body.from_party_id == body.to_party_id:
        raise SameParty(param="to_party_id")
    money = body.money
    target = AccountRef(AccountKind.AVAILABLE, body.to_party_id, money.currency)
    async with kernel.unit_of_work() as uow:
        for party_id in (body.from_party_id, body.to_party_id):
            await get_party(uow, party_id)
        purse = await lock_purse(uow, body.from_party_id, money.currency, target)
        legs = purse.taking(money.amount_minor)
        view = ClaimView(
            id=new_id(),
            **body.model_dump(exclude={"money"}),
            money=money,
            paid_minor=_taken(legs, purse.available),
            owed_minor=_taken(legs, purse.receivable),
        )
        facts = view.model_dump(mode="json", exclude={"id", "reason"})
        audit.record(uow, actor, "claim.take", view.id, reason=body.reason, data=facts)
        parties = [body.from_party_id, body.to_party_id]
        uow.emit("claim.taken", view.id, facts, parties=parties)
        every = (*legs, (target, money.amount_minor))
        key = f"claim:{view.id.hex}"
        await ledger.post_strict(uow, [Transfer(key, "claim", every, memo_id=view.id)])
        await uow.answer(view)
    return view


def _taken(legs: Sequence[Leg], account: AccountRef) -> int:
    return -sum(amount for ref, amount in legs if ref == account)
