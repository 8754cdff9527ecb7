"""The operators' queue: differences, chargebacks and refusals of the rail, closed with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement import audit, ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Command, Refused, Transfer, Void
from settlement.errors import CaseClosed, CaseNotBookable, CaseNotFound, error_of
from settlement.money_schemas import CaseClosing, CaseView
from settlement.reconciliation_models import (
    DIFFERENCES,
    NO_CURRENCY,
    CaseKind,
    CaseState,
    ChargebackRecord,
    RailCase,
    Resolution,
)

# The newest word wins; an explained difference that has not changed is not asked about again.
_OPEN = """
INSERT INTO settlement.rail_case
    (id, rail, kind, subject_id, party_id, currency, ledger_minor, rail_minor, detail, state,
     opened_at, seen_at)
SELECT $1::uuid, $2::text, $3::text, $4::uuid, $5::uuid, $6::text, $7::bigint, $8::bigint,
       $9::text, 'open', $10::timestamptz, $10::timestamptz
WHERE NOT EXISTS (
    SELECT 1 FROM settlement.rail_case c
    WHERE c.rail = $2::text AND c.kind = $3::text AND c.subject_id = $4::uuid
      AND c.currency = $6::text AND c.resolution = 'explained' AND $11::boolean
      AND (c.ledger_minor, c.rail_minor) = ($7::bigint, $8::bigint))
ON CONFLICT (rail, kind, subject_id, currency) WHERE state = 'open' DO UPDATE
SET ledger_minor = excluded.ledger_minor, rail_minor = excluded.rail_minor,
    detail = excluded.detail, seen_at = excluded.seen_at
RETURNING id, (xmax = 0) AS is_new
"""
_AGREE = """
UPDATE settlement.rail_case
SET state = 'closed', resolution = 'agrees', closed_at = $4,
    reason = 'The two sides agree now.'
WHERE rail = $1 AND kind = ANY($3) AND subject_id = ANY($2::uuid[]) AND state = 'open'
  AND (subject_id, currency, kind) NOT IN (
      SELECT * FROM unnest($5::uuid[], $6::text[], $7::text[]))
RETURNING id, kind
"""


async def open_case(
    uow: UnitOfWork,
    rail: str,
    kind: CaseKind,
    subject_id: UUID,
    *,
    detail: str,
    currency: str = NO_CURRENCY,
    ledger_minor: int = 0,
    rail_minor: int = 0,
    party_id: UUID | None = None,
) -> bool:
    """Open a case, or join the open one of this kind and subject. True if something is to be done
    (False: it was explained before and has not changed). Emits ``rail_case.opened`` once."""
    row = await (await uow.raw()).fetchrow(
        _OPEN,
        new_id(),
        rail,
        kind.value,
        subject_id,
        party_id,
        currency,
        ledger_minor,
        rail_minor,
        detail[:500],
        uow.now,
        kind in DIFFERENCES,
    )
    if row is None:
        return False
    if row["is_new"]:
        data = {"kind": kind.value, "subject_id": str(subject_id), "detail": detail[:500]}
        uow.emit("rail_case.opened", UUID(str(row["id"])), data)
    return True


async def agree(
    uow: UnitOfWork,
    rail: str,
    kinds: frozenset[CaseKind],
    subjects: list[UUID],
    *,
    but_for: Sequence[tuple[UUID, str, CaseKind]] = (),
) -> int:
    """Close open cases of ``subjects`` that have solved themselves, except those ``but_for``
    (subject, currency, kind). Returns how many."""
    rows = await (await uow.raw()).fetch(
        _AGREE,
        rail,
        subjects,
        [kind.value for kind in kinds],
        uow.now,
        [subject for subject, _, _ in but_for],
        [currency for _, currency, _ in but_for],
        [kind.value for _, _, kind in but_for],
    )
    for row in rows:
        data = {"kind": row["kind"], "resolution": Resolution.AGREES.value}
        uow.emit("rail_case.closed", UUID(str(row["id"])), data)
    return len(rows)


async def list_cases(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    state: CaseState | None = None,
    kind: CaseKind | None = None,
) -> Page[CaseView]:
    """Newest first. Raises RoleRequired (403)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = select(RailCase).order_by(col(RailCase.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(RailCase.id) < after)
    if state is not None:
        query = query.where(RailCase.state == state.value)
    if kind is not None:
        query = query.where(RailCase.kind == kind.value)
    async with kernel.unit_of_work() as uow:
        views = [CaseView.model_validate(row) for row in await uow.session.exec(query)]
    return Page[CaseView].of(views, page.limit, [(view.id,) for view in views])


async def get_case(kernel: Kernel, actor: Actor, case_id: UUID) -> CaseView:
    """One case. Raises RoleRequired (403), CaseNotFound (404)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        case = await uow.session.get(RailCase, case_id)
        if case is None:
            raise CaseNotFound
        return CaseView.model_validate(case)


async def close_case(kernel: Kernel, actor: Actor, case_id: UUID, body: CaseClosing) -> CaseView:
    """End a case with a reason, into the audit log.

    Effects: ``booked_to_losses`` posts a difference between clearing and losses; closing a
    chargeback frees what it froze. Raises CaseNotFound (404), CaseClosed (409), CaseNotBookable
    (409: no difference, or none in a currency).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        case = await uow.session.get(
            RailCase, case_id, with_for_update=True, populate_existing=True
        )
        if case is None:
            raise CaseNotFound
        if case.state == CaseState.CLOSED:
            raise CaseClosed
        commands: list[Command] = []
        if body.resolution is Resolution.BOOKED_TO_LOSSES:
            commands.append(_booking(case))
        if case.kind == CaseKind.CHARGEBACK:
            commands += await _releases(uow, case)
        case.state = CaseState.CLOSED
        case.resolution = body.resolution
        case.reason = body.reason
        case.closed_at = uow.now
        case.closed_by = actor.party_id
        facts: dict[str, Any] = {
            "kind": case.kind,
            "resolution": body.resolution.value,
            "ledger_minor": case.ledger_minor,
            "rail_minor": case.rail_minor,
            "currency": case.currency,
        }
        audit.record(uow, actor, "case.close", case.id, reason=body.reason, data=facts)
        uow.emit("rail_case.closed", case.id, facts)
        for command, result in zip(commands, await ledger.post(uow, commands), strict=True):
            # A hold that has expired meanwhile is free already.
            if isinstance(result, Refused) and not isinstance(command, Void):
                raise error_of(result)
        view = CaseView.model_validate(case)
        await uow.answer(view)
    return view


def _booking(case: RailCase) -> Transfer:
    missing = case.rail_minor - case.ledger_minor
    if CaseKind(case.kind) not in DIFFERENCES or missing == 0:
        raise CaseNotBookable
    legs = (
        (AccountRef(AccountKind.CLEARING, None, case.currency), -missing),
        (AccountRef(AccountKind.LOSSES, None, case.currency), missing),
    )
    return Transfer(booking_key(case.id), "rail_case", legs, memo_id=case.subject_id)


def booking_key(case_id: UUID) -> str:
    """The ledger key under which a case is booked to losses."""
    return f"rail_case:{case_id.hex}"


async def _releases(uow: UnitOfWork, case: RailCase) -> list[Command]:
    query = select(ChargebackRecord).where(
        ChargebackRecord.rail == case.rail,
        ChargebackRecord.top_up_id == case.subject_id,
        col(ChargebackRecord.hold_id).is_not(None),
    )
    held = [row.hold_id for row in await uow.session.exec(query) if row.hold_id is not None]
    return [Void(thaw_key(hold_id), hold_id) for hold_id in held]


def thaw_key(hold_id: UUID) -> str:
    """The ledger key that frees what a chargeback froze."""
    return f"chargeback:thaw:{hold_id.hex}"
