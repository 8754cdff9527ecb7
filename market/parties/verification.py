"""Identity decisions (KYC): verify and suspend, each with an append-only record."""

from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, flush_identity, full_view, get_party, lock_party
from market.parties.errors import AlreadySuspended, AlreadyVerified, PartyNotFound, SelfReview
from market.parties.models import Decision, DecisionKind, Party, PartyStatus
from market.parties.schemas import (
    DecisionView,
    IdentityEvidence,
    PartyView,
    Suspension,
    Verification,
)


async def verify_party(
    kernel: Kernel, actor: Actor, party_id: UUID, body: Verification
) -> PartyView:
    """Confirm a pending party's identity, or lift a suspension by checking it again.

    Raises RoleRequired (403), PartyNotFound (404), SelfReview, AlreadyVerified and
    IdentityTaken (409).
    Emits ``party.verified``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        party = await _lock_other(uow, actor, party_id)
        if party.status is PartyStatus.VERIFIED:
            raise AlreadyVerified
        party.status = PartyStatus.VERIFIED
        party.verified_at = uow.now
        party.suspended_at = None
        await flush_identity(uow)
        _record(uow, actor, party, DecisionKind.VERIFY, evidence=body.evidence, reason=body.reason)
        uow.emit("party.verified", party.id, _fact(actor, party), parties=[party.id])
        view = full_view(party)
        await uow.answer(view, status=200)
    return view


async def suspend_party(
    kernel: Kernel, actor: Actor, party_id: UUID, body: Suspension
) -> PartyView:
    """Exclude a party: from its commit on, every request with its credentials is refused.

    Raises RoleRequired (403), PartyNotFound (404), SelfReview and AlreadySuspended (409).
    Emits ``party.suspended``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        party = await _lock_other(uow, actor, party_id)
        if party.status is PartyStatus.SUSPENDED:
            raise AlreadySuspended
        party.status = PartyStatus.SUSPENDED
        party.suspended_at = uow.now
        _record(uow, actor, party, DecisionKind.SUSPEND, evidence=[], reason=body.reason)
        uow.emit("party.suspended", party.id, _fact(actor, party), parties=[party.id])
        view = full_view(party)
        await uow.answer(view, status=200)
    return view


async def list_decisions(
    kernel: Kernel, actor: Actor, party_id: UUID, page: PageQuery
) -> Page[DecisionView]:
    """The identity decisions about one party, oldest first; for itself, operators, regulators.

    Raises PartyNotFound (404), also for a party that the actor may not look into.
    """
    if not may_oversee(actor, party_id):
        raise PartyNotFound
    statement = (
        select(Decision)
        .where(Decision.party_id == party_id)
        .order_by(col(Decision.id))
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Decision.id) > after)
    async with kernel.unit_of_work() as uow:
        await get_party(uow, party_id)
        rows = (await uow.session.exec(statement)).all()
    views = [DecisionView.model_validate(row) for row in rows]
    return Page[DecisionView].of(views, page.limit, [(row.id,) for row in rows])


async def _lock_other(uow: UnitOfWork, actor: Actor, party_id: UUID) -> Party:
    if party_id == actor.party_id:
        raise SelfReview
    return await lock_party(uow, party_id)


def _record(
    uow: UnitOfWork,
    actor: Actor,
    party: Party,
    kind: DecisionKind,
    *,
    evidence: list[IdentityEvidence],
    reason: str | None,
) -> None:
    party.version += 1
    party.updated_at = uow.now
    uow.session.add(
        Decision(
            id=new_id(),
            party_id=party.id,
            kind=kind,
            decided_by=actor.party_id,
            reason=reason,
            evidence=[item.model_dump(mode="json") for item in evidence],
            decided_at=uow.now,
        )
    )


def _fact(actor: Actor, party: Party) -> dict[str, object]:
    return {"party_id": show("pty", party.id), "decided_by": show("pty", actor.party_id)}
