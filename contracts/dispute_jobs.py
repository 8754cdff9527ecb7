"""Deadlines: apply the default outcome of every stage that has run out (operations.md §6)."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts import arbitration, dispute_closing, evidence, rulings
from contracts.dispute_cases import Docket, advance, lock_docket, periods_of
from contracts.dispute_models import Dispute, OutcomeKind, Ruling, RulingSource
from contracts.dispute_states import Case, Default, expire
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.logging import get_logger

_log = get_logger("contracts.dispute_jobs")

# One transaction each: a run stays short, and the worker repeats it while there is work.
BATCH_MAX = 100


async def apply_deadlines(kernel: Kernel) -> int:
    """Apply the defaults of at most 100 overdue disputes, oldest first; returns how many.

    Each is a transaction of its own, decided again under lock, so that concurrent runs and
    acts of the parties cannot apply a default twice. One that fails is logged and left; it
    does not stop the others.
    """
    applied = 0
    for dispute_id in await _overdue(kernel):
        try:
            applied += await _apply(kernel, dispute_id)
        except Exception:  # noqa: BLE001 - one broken case must not hold up the others
            _log.exception("dispute_default_failed", dispute_id=dispute_id.hex)
    return applied


async def _overdue(kernel: Kernel) -> list[UUID]:
    async with kernel.unit_of_work() as uow:
        query = (
            select(Dispute.id)
            .where(col(Dispute.closed_at).is_(None), col(Dispute.deadline_at) <= uow.now)
            .order_by(col(Dispute.deadline_at), col(Dispute.id))
            .limit(BATCH_MAX)
        )
        return list(await uow.session.exec(query))


async def _apply(kernel: Kernel, dispute_id: UUID) -> int:
    async with kernel.unit_of_work() as uow:
        docket = await lock_docket(uow, dispute_id)
        done = expire(
            docket.case,
            uow.now,
            periods_of(kernel.settings),
            two_person=docket.dispute.two_person,
        )
        if done is None:
            return 0
        case, default = done
        await _carry_out(uow, kernel, docket, case, default)
    return 1


async def _carry_out(
    uow: UnitOfWork, kernel: Kernel, docket: Docket, case: Case, default: Default
) -> None:
    match default:
        case Default.LAPSE:
            await dispute_closing.restore(
                uow,
                kernel,
                docket,
                case,
                kind=OutcomeKind.LAPSED,
                actor_id=None,
                reason="dispute lapsed",
            )
        case Default.FINALIZE:
            await dispute_closing.execute_ruling(uow, kernel, docket, case, actor_id=None)
        case Default.RULE_FOR_CLAIMANT:
            ruling = await _default_ruling(uow, docket.dispute)
            await rulings.put_in_force(uow, kernel, docket, case, ruling, actor_id=None)
        case Default.REMIND:
            if not case.proposal_pending:
                arbitration.release(docket.dispute)
            advance(uow, docket, case, kind=default.value, actor_id=None)
        case _:
            advance(uow, docket, case, kind=default.value, actor_id=None)


async def _default_ruling(uow: UnitOfWork, dispute: Dispute) -> Ruling:
    """The claim, granted, because nothing was said against it."""
    ruling = Ruling(
        id=new_id(),
        dispute_id=dispute.id,
        round=dispute.round,
        source=RulingSource.DEFAULT,
        buyer_ppm=dispute.claim_buyer_ppm,
        access=dispute.claim_access,
        reasons="The respondent did not answer in time.",
        clauses=[],
        evidence_sha256=await evidence.digest_of(uow, dispute.id),
        needs_approval=False,
        ruled_at=uow.now,
    )
    uow.session.add(ruling)
    await uow.session.flush()
    return ruling
