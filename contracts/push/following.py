"""Pushes that go on: when the agreement reads a later version, its push is started by itself."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlmodel import col, select

from contracts.delivery.gate import gate_of
from contracts.errors import TokenEnded
from contracts.models import DeliveryToken
from contracts.push import pushes, reading
from contracts.push.models import Follow, Push, PushStatus
from contracts.tokens import claims_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from market.parties.errors import PartySuspended

AT_ONCE = 50
# A version is pushed so long after it came into effect, at the latest.
LOOK_S = 60


async def follow_versions(kernel: Kernel) -> int:
    """Look after up to AT_ONCE completed pushes that are to go on. Returns how many these were.

    A push that can be read no more ends the chain, and keeps the reason as its ``problem``. Emits
    ``push.started`` or ``push.follow_ended``.
    """
    async with kernel.unit_of_work() as uow:
        query = (
            select(Push)
            .where(
                Push.status == PushStatus.COMPLETED,
                col(Push.follow).is_not(None),
                col(Push.next_at) <= uow.now,
            )
            .order_by(col(Push.next_at))
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        due = list(await uow.session.exec(query))
        for push in due:
            push.next_at = uow.now + timedelta(seconds=LOOK_S)
        ids = [push.id for push in due]
    for push_id in ids:
        await _follow(kernel, push_id)
    return len(ids)


async def _follow(kernel: Kernel, push_id: UUID) -> None:
    async with kernel.unit_of_work() as uow:
        push = await uow.session.get_one(Push, push_id)
        token = await uow.session.get_one(DeliveryToken, push.token_id)
        ended = token.revoked_at is not None or token.expires_at <= uow.now
    claims = claims_of(token)
    since = push.version if push.follow == Follow.CHANGES else None
    try:
        if ended:
            raise TokenEnded
        # Not the gate's ``allow``: a look is no use of the token's pace.
        context = await gate_of(kernel).scoped(claims, None)
        if context.version <= push.version:
            return
        await reading.require_readable(kernel, claims, context, pushes.view_of(push), since)
    except MarketError as error:
        if error.status < 500 and not isinstance(error, PartySuspended):
            await _end(kernel, push_id, error.code)
        return
    async with kernel.unit_of_work() as uow:
        last = await _following(uow, push_id)
        if last is None:
            return
        following = Push(
            id=new_id(),
            party_id=last.party_id,
            target_id=last.target_id,
            grant_id=last.grant_id,
            token_id=last.token_id,
            version=context.version,
            since=since,
            follow=last.follow,
            previous_id=last.id,
            query=last.query,
            status=PushStatus.ACTIVE,
            next_at=uow.now,
            created_at=uow.now,
        )
        last.follow = None
        uow.session.add(following)
        pushes.emit(uow, following, "push.started")


async def _end(kernel: Kernel, push_id: UUID, problem: str) -> None:
    async with kernel.unit_of_work() as uow:
        push = await _following(uow, push_id)
        if push is not None:
            push.follow, push.problem = None, problem
            pushes.emit(uow, push, "push.follow_ended")


async def _following(uow: UnitOfWork, push_id: UUID) -> Push | None:
    """The push, locked, if it is still to go on."""
    push = await uow.session.get_one(Push, push_id, with_for_update=True)
    return None if push.follow is None else push
