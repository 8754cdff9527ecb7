"""Evidence of broken answers: written when they happen, listed for both parties and in disputes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from contracts.agreements import get_agreement
from contracts.proxy.calls import AnswerBroken
from contracts.proxy.errors import UpstreamAnswerInvalid, UpstreamTooLarge
from contracts.proxy.models import Upstream, Violation, ViolationKind
from contracts.proxy.schemas import Finding, Operation, OperationView, ViolationView
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

# Of the newest, in what the exchange attaches to a dispute; the whole list stays readable.
ATTACHED_MAX = 50
WRITTEN_PER_MINUTE = 60


async def write(
    kernel: Kernel,
    broken: AnswerBroken,
    *,
    agreement_id: UUID,
    upstream: Upstream,
    operation: Operation,
    delivery_key: str,
    parameters_sha256: str,
) -> str:
    """Keep one violation; give its id on the wire. Emits ``upstream.violated`` to the seller."""
    async with kernel.unit_of_work() as uow:
        row = Violation(
            id=new_id(),
            agreement_id=agreement_id,
            upstream_id=upstream.id,
            revision=upstream.revision,
            delivery_key=delivery_key,
            operation=shown(operation).model_dump(mode="json"),
            kind=broken.kind,
            findings=broken.findings,
            parameters_sha256=parameters_sha256,
            body_sha256=broken.body_sha256,
            byte_count=broken.byte_count,
            happened_at=uow.now,
        )
        uow.session.add(row)
        shown_id = show("vio", row.id)
        data = {
            "violation_id": shown_id,
            "agreement_id": show("agr", agreement_id),
            "operation": operation.name,
            "kind": broken.kind.value,
        }
        uow.emit("upstream.violated", row.id, data, parties=[upstream.owner_id])
    return shown_id


async def refusal(
    kernel: Kernel,
    broken: AnswerBroken,
    *,
    agreement_id: UUID,
    upstream: Upstream,
    operation: Operation,
    delivery_key: str,
    parameters_sha256: str,
) -> UpstreamAnswerInvalid:
    """The 502 for a broken answer, after its evidence was written.

    At most WRITTEN_PER_MINUTE of an upstream are: more prove nothing more.
    """
    window = await kernel.limits.hit("violation", upstream.id.hex, limit=WRITTEN_PER_MINUTE)
    written: dict[str, Any] = {}
    if window.allowed:
        written["violation"] = await write(
            kernel,
            broken,
            agreement_id=agreement_id,
            upstream=upstream,
            operation=operation,
            delivery_key=delivery_key,
            parameters_sha256=parameters_sha256,
        )
    made = UpstreamTooLarge if broken.kind is ViolationKind.SIZE else UpstreamAnswerInvalid
    return made(f"{operation.name}: {broken.findings[0]['message']}", **written)


async def list_violations(
    kernel: Kernel, actor: Actor, agreement_id: UUID, *, page: PageQuery
) -> Page[ViolationView]:
    """An agreement's violations, newest first, for both parties and overseers.

    Raises AgreementNotFound, BadCursor.
    """
    after = after_id(page)
    query = (
        select(Violation)
        .where(Violation.agreement_id == agreement_id)
        .order_by(col(Violation.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(Violation.id) < after)
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        rows = list(await uow.session.exec(query))
        return Page[ViolationView].of(
            [_view(row) for row in rows], page.limit, [(row.id,) for row in rows]
        )


async def facts(uow: UnitOfWork, agreement_id: UUID) -> dict[str, object] | None:
    """What a dispute is told of an agreement's violations; None when there are none."""
    of = Violation.agreement_id == agreement_id
    count = (await uow.session.exec(select(func.count()).where(of))).one()
    if not count:
        return None
    query = select(Violation).where(of).order_by(col(Violation.id).desc()).limit(ATTACHED_MAX)
    newest = [
        {
            "violation": show("vio", row.id),
            "operation": row.operation["name"],
            "kind": row.kind,
            "first_finding": row.findings[0],
            "delivery_id": row.delivery_key,
            "body_sha256": row.body_sha256,
            "happened_at": row.happened_at.isoformat(),
        }
        for row in await uow.session.exec(query)
    ]
    return {"count": int(count), "newest": newest}


def shown(operation: Operation) -> OperationView:
    """What buyers may know of an operation."""
    names = OperationView.model_fields
    return OperationView(**{name: getattr(operation, name) for name in names})


def _view(row: Violation) -> ViolationView:
    findings: list[dict[str, Any]] = row.findings
    return ViolationView(
        id=row.id,
        agreement_id=row.agreement_id,
        upstream_id=row.upstream_id,
        revision=row.revision,
        delivery_id=row.delivery_key,
        operation=OperationView.model_validate(row.operation),
        kind=row.kind,
        findings=[Finding.model_validate(finding) for finding in findings],
        parameters_sha256=row.parameters_sha256,
        body_sha256=row.body_sha256,
        byte_count=row.byte_count,
        happened_at=row.happened_at,
    )
