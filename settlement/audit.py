"""The record of what operators decided about money: append-only, written with the decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement.money_schemas import OperatorActionView
from settlement.payout_run_models import OperatorAction


def record(
    uow: UnitOfWork,
    actor: Actor | None,
    action: str,
    subject_id: UUID,
    *,
    reason: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry to this unit of work. ``actor`` None is the command line of the exchange."""
    uow.session.add(
        OperatorAction(
            id=new_id(),
            via="cli" if actor is None else "api",
            actor_id=None if actor is None else actor.party_id,
            credential_id=None if actor is None else actor.credential_id,
            action=action,
            subject_id=subject_id,
            reason=reason,
            data=dict(data or {}),
            at=uow.now,
        )
    )


async def list_actions(
    kernel: Kernel, actor: Actor, page: PageQuery, *, subject_id: UUID | None
) -> Page[OperatorActionView]:
    """Newest first. Raises RoleRequired (403)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = select(OperatorAction).order_by(col(OperatorAction.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(OperatorAction.id) < after)
    if subject_id is not None:
        query = query.where(OperatorAction.subject_id == subject_id)
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query)
        views = [OperatorActionView.model_validate(row) for row in rows]
    return Page[OperatorActionView].of(views, page.limit, [(view.id,) for view in views])
