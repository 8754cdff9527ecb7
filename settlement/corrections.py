"""Corrections of the books: proposed with a reason by one operator, approved by another.

Nothing booked is ever changed: a correction is a transfer of its own, backdated by ``event_at``
where it belongs to an earlier period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement import ledger, sql
from settlement.accounts import AccountRef
from settlement.commands import Transfer
from settlement.errors import (
    AccountNotFound,
    CorrectionBooked,
    CorrectionInvalid,
    CorrectionNotFound,
    SecondOperatorRequired,
    TransferNotFound,
)
from settlement.exchange_models import Correction, CorrectionApproval
from settlement.exchange_schemas import CorrectionLeg, CorrectionRequest, CorrectionView
from settlement.models import Account


async def propose(kernel: Kernel, actor: Actor, body: CorrectionRequest) -> CorrectionView:
    """Write down a correcting transfer with its reason; nothing is booked yet. Operators.

    Raises AccountNotFound and TransferNotFound (404), CorrectionInvalid (422: not zero-sum, an
    account twice, or in the future).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        if body.event_at is not None and body.event_at > uow.now:
            raise CorrectionInvalid("A correction cannot happen in the future.", param="event_at")
        legs = await _legs(uow, body)
        identity = new_id()
        refs = await _refs(uow, [account for account, _ in legs])
        _command(identity, legs, refs, reverses=body.reverses, event_at=body.event_at)
        row = Correction(
            id=identity,
            reverses=body.reverses,
            legs=[[account.hex, amount] for account, amount in legs],
            reason=body.reason,
            event_at=body.event_at,
            proposed_by=actor.party_id,
            created_at=uow.now,
        )
        uow.session.add(row)
        view = _view(row, None)
        uow.emit("correction.proposed", identity, {"reason": body.reason})
        location = f"/v1/ledger/corrections/{show('cor', identity)}"
        await uow.answer(view, headers={"Location": location})
    return view


async def approve(kernel: Kernel, actor: Actor, correction_id: UUID) -> CorrectionView:
    """Book a proposed correction, as an operator other than its proposer.

    Raises CorrectionNotFound (404), SecondOperatorRequired and CorrectionBooked (409), and the
    ledger's own refusals (InsufficientFunds, AlreadyReversed ...): then it stays a proposal.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(Correction, correction_id)
        if row is None:
            raise CorrectionNotFound
        if row.proposed_by == actor.party_id:
            raise SecondOperatorRequired
        if await uow.session.get(CorrectionApproval, correction_id) is not None:
            raise CorrectionBooked
        legs = [(UUID(hex=account), int(amount)) for account, amount in row.legs]
        refs = await _refs(uow, [account for account, _ in legs])
        command = _command(row.id, legs, refs, reverses=row.reverses, event_at=row.event_at)
        (done,) = await ledger.post_strict(uow, [command])
        if done.replayed:
            raise CorrectionBooked
        assert done.transfer_id is not None
        approval = CorrectionApproval(
            correction_id=row.id,
            transfer_id=done.transfer_id,
            proposed_by=row.proposed_by,
            approved_by=actor.party_id,
            approved_at=uow.now,
        )
        uow.session.add(approval)
        view = _view(row, approval)
        uow.emit("correction.booked", row.id, {"transfer_id": show("txn", done.transfer_id)})
        await uow.answer(view)
    return view


async def list_corrections(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[CorrectionView]:
    """Proposed and booked corrections, newest first. Operators and regulators."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = (
        select(Correction, CorrectionApproval)
        .outerjoin(CorrectionApproval, col(CorrectionApproval.correction_id) == col(Correction.id))
        .order_by(col(Correction.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        query = query.where(col(Correction.id) < after)
    async with kernel.unit_of_work() as uow:
        views = [_view(row, approval) for row, approval in await uow.session.exec(query)]
    return Page[CorrectionView].of(views, page.limit, [(view.id,) for view in views])


async def get_correction(kernel: Kernel, actor: Actor, correction_id: UUID) -> CorrectionView:
    """One correction. Operators and regulators. Raises CorrectionNotFound."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(Correction, correction_id)
        if row is None:
            raise CorrectionNotFound
        return _view(row, await uow.session.get(CorrectionApproval, correction_id))


async def _legs(uow: UnitOfWork, body: CorrectionRequest) -> list[tuple[UUID, int]]:
    if body.legs is not None:
        return [(leg.account_id, leg.amount_minor) for leg in body.legs]
    assert body.reverses is not None
    booked = await sql.read_legs(await uow.raw(), body.reverses)
    if not booked:
        raise TransferNotFound(param="reverses")
    return [(account.id, -amount) for account, amount in booked]


async def _refs(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, AccountRef]:
    rows = await uow.session.exec(select(Account).where(col(Account.id).in_(ids)))
    found = {row.id: AccountRef(row.kind, row.owner, row.currency) for row in rows}
    for identity in ids:
        if identity not in found:
            raise AccountNotFound(f"No account {show('acc', identity)}.", param="legs")
    return found


def _command(
    identity: UUID,
    legs: Sequence[tuple[UUID, int]],
    refs: Mapping[UUID, AccountRef],
    *,
    reverses: UUID | None,
    event_at: datetime | None,
) -> Transfer:
    try:
        return Transfer(
            f"correction:{identity.hex}",
            "correction",
            tuple((refs[account], amount) for account, amount in legs),
            memo_id=identity,
            event_at=event_at,
            reverses=reverses,
        )
    except ValueError as error:
        raise CorrectionInvalid(f"{error}.", param="legs") from error


def _view(row: Correction, approval: CorrectionApproval | None) -> CorrectionView:
    return CorrectionView(
        id=row.id,
        reason=row.reason,
        legs=[
            CorrectionLeg(account_id=UUID(hex=account), amount_minor=amount)
            for account, amount in row.legs
        ],
        reverses=row.reverses,
        event_at=row.event_at,
        proposed_by=row.proposed_by,
        created_at=row.created_at,
        approved_by=None if approval is None else approval.approved_by,
        approved_at=None if approval is None else approval.approved_at,
        transfer_id=None if approval is None else approval.transfer_id,
    )
