"""Pushes as their buyers order, watch, cancel and repeat them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, or_
from sqlmodel import col, select

from contracts import grants
from contracts.delivery.gate import gate_of
from contracts.errors import GrantNotFound, TokenEnded, TokenNotFound
from contracts.models import DeliveryToken
from contracts.push import reading, targets
from contracts.push.errors import (
    PushCannotFollow,
    PushesTooMany,
    PushNotFound,
    PushStateConflict,
    PushTargetNotVerified,
)
from contracts.push.models import Push, PushPart, PushStatus, TargetStatus
from contracts.push.schemas import PushInput, PushPartView, PushView
from contracts.tokens import claims_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

ACTIVE_MAX = 20
# What a buyer can do something about and then go on from.
_STOPPED = frozenset({PushStatus.EXHAUSTED, PushStatus.REFUSED, PushStatus.DEAD})


async def order(kernel: Kernel, actor: Actor, grant_id: UUID, body: PushInput) -> PushView:
    """Start a push of a grant's version to a verified target of the actor's party.

    Every part is checked, reserved and charged like a page that the token asks for. Raises
    GrantNotFound, TokenNotFound, PushTargetNotFound, VersionNotFound (404), TokenEnded,
    PushTargetNotVerified, PushCannotFollow, PushesTooMany (409), as
    :func:`contracts.push.reading.require_readable`, and as
    :meth:`contracts.delivery.gate.Gate.authorize` about the token. Emits ``push.started``.
    """
    async with kernel.unit_of_work() as uow:
        grant = await grants.find(uow, grant_id, actor)
        if grant.buyer_id != actor.party_id:
            raise GrantNotFound(param="grant_id")
        token = await uow.session.get(DeliveryToken, body.token_id)
        if token is None or (token.party_id, token.grant_id) != (actor.party_id, grant_id):
            raise TokenNotFound(param="token_id")
        if token.revoked_at is not None or token.expires_at <= uow.now:
            raise TokenEnded(param="token_id")
    claims = claims_of(token)
    request = reading.request_of(body, body.format, version=body.version)
    context, _ = await gate_of(kernel).allow(claims, request)
    if body.follow is not None and context.policy.versions != "follow_latest":
        raise PushCannotFollow(param="follow")
    await reading.require_readable(kernel, claims, context, body, body.since)
    async with kernel.unit_of_work() as uow:
        target = await targets.own(uow, actor, body.target_id, lock=True)
        if target.status != TargetStatus.VERIFIED:
            raise PushTargetNotVerified(f"It is {target.status}.", param="target_id")
        await _require_room(uow, grant_id)
        push = Push(
            id=new_id(),
            party_id=actor.party_id,
            target_id=target.id,
            grant_id=grant_id,
            token_id=token.id,
            version=context.version,
            since=body.since,
            follow=body.follow,
            query=body.model_dump(include={"select", "filter", "order", "format", "page_rows"}),
            status=PushStatus.ACTIVE,
            next_at=uow.now,
            created_at=uow.now,
        )
        uow.session.add(push)
        emit(uow, push, "push.started")
        view = view_of(push)
        location = f"/v1/pushes/{show('psh', push.id)}"
        await uow.answer(view, headers={"Location": location})
    return view


async def _require_room(uow: UnitOfWork, grant_id: UUID, *, besides: UUID | None = None) -> None:
    """Raises PushesTooMany (409): active ones count, and those that will go on."""
    live = select(func.count()).where(
        Push.grant_id == grant_id,
        or_(col(Push.status) == PushStatus.ACTIVE, col(Push.follow).is_not(None)),
        col(Push.id).is_distinct_from(besides),
    )
    if (await uow.session.exec(live)).one() >= ACTIVE_MAX:
        raise PushesTooMany(f"The limit is {ACTIVE_MAX}.")


async def cancel(kernel: Kernel, actor: Actor, push_id: UUID) -> PushView:
    """End a push; a part that is being sent is charged as far as it gets.

    A completed one that follows later versions stays completed and follows no more. Raises
    PushNotFound (404), PushStateConflict (409) after its end. Emits ``push.canceled`` or
    ``push.follow_ended``.
    """
    async with kernel.unit_of_work() as uow:
        push = await _own(uow, actor, push_id, lock=True)
        if push.follow is None and push.status in {PushStatus.COMPLETED, PushStatus.CANCELED}:
            raise PushStateConflict(f"It is {push.status}.", current=push.status)
        push.follow = None
        if push.status == PushStatus.COMPLETED:
            emit(uow, push, "push.follow_ended")
        else:
            push.status, push.ended_at = PushStatus.CANCELED, uow.now
            emit(uow, push, "push.canceled")
        view = view_of(push)
        await uow.answer(view, status=200)
    return view


async def retry(kernel: Kernel, actor: Actor, push_id: UUID) -> PushView:
    """Go on with a push that stands still, with the part that did not arrive.

    Raises PushNotFound (404), PushStateConflict, PushTargetNotVerified, PushesTooMany (409).
    Emits ``push.started``.
    """
    async with kernel.unit_of_work() as uow:
        push = await _own(uow, actor, push_id, lock=True)
        if push.status not in _STOPPED:
            raise PushStateConflict(f"It is {push.status}.", current=push.status)
        target = await targets.own(uow, actor, push.target_id)
        if target.status != TargetStatus.VERIFIED:
            raise PushTargetNotVerified(f"It is {target.status}.")
        await _require_room(uow, push.grant_id, besides=push.id)
        push.status, push.attempts, push.problem = PushStatus.ACTIVE, 0, None
        push.next_at, push.leased_until, push.ended_at = uow.now, None, None
        emit(uow, push, "push.started")
        view = view_of(push)
        await uow.answer(view, status=200)
    return view


async def show_push(kernel: Kernel, actor: Actor, push_id: UUID) -> PushView:
    """One of the actor's party. Raises PushNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return view_of(await _own(uow, actor, push_id))


async def list_pushes(
    kernel: Kernel, actor: Actor, *, status: PushStatus | None, page: PageQuery
) -> Page[PushView]:
    """Those of the actor's party, newest first. Raises BadCursor (422)."""
    query = (
        select(Push)
        .where(Push.party_id == actor.party_id)
        .order_by(col(Push.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        query = query.where(col(Push.id) < after)
    if status is not None:
        query = query.where(Push.status == status)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
    return Page[PushView].of(
        [view_of(row) for row in rows], page.limit, [(row.id,) for row in rows]
    )


async def list_parts(
    kernel: Kernel, actor: Actor, push_id: UUID, *, page: PageQuery
) -> Page[PushPartView]:
    """The parts that arrived, first to last. Raises PushNotFound (404), BadCursor (422)."""
    key = page.key(1)
    if key is not None and not (key[0].isascii() and key[0].isdecimal() and len(key[0]) < 10):
        raise BadCursor(param="after")
    after = 0 if key is None else int(key[0])
    query = (
        select(PushPart)
        .where(PushPart.push_id == push_id, col(PushPart.number) > after)
        .order_by(col(PushPart.number))
        .limit(page.limit + 1)
    )
    async with kernel.unit_of_work() as uow:
        await _own(uow, actor, push_id)
        rows = list(await uow.session.exec(query))
    return Page[PushPartView].of(
        [part_of(row) for row in rows], page.limit, [(row.number,) for row in rows]
    )


async def _own(uow: UnitOfWork, actor: Actor, push_id: UUID, *, lock: bool = False) -> Push:
    row = await uow.session.get(Push, push_id, with_for_update=lock)
    if row is None or row.party_id != actor.party_id:
        raise PushNotFound(param="push_id")
    return row


def part_of(row: PushPart) -> PushPartView:
    """As API and manifest show it."""
    return PushPartView(
        number=row.number,
        delivery_id=row.delivery_key,
        receipt_id=row.receipt_id,
        rows=row.rows,
        bytes=row.bytes,
        sha256=row.sha256,
        arrived_at=row.arrived_at,
    )


def view_of(row: Push) -> PushView:
    """As the API shows it."""
    return PushView(
        id=row.id,
        target_id=row.target_id,
        grant_id=row.grant_id,
        token_id=row.token_id,
        version=row.version,
        since=row.since,
        follow=row.follow,
        previous_id=row.previous_id,
        **row.query,
        status=row.status,
        parts=row.parts,
        rows=row.rows,
        bytes=row.bytes,
        attempts=row.attempts,
        problem=row.problem,
        next_at=row.next_at if row.status == PushStatus.ACTIVE else None,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def emit(uow: UnitOfWork, push: Push, type_: str) -> None:
    """An event about a push, for its buyer."""
    data = {
        "push_id": show("psh", push.id),
        "grant_id": show("grt", push.grant_id),
        "version": push.version,
        "status": push.status,
        "parts": push.parts,
        "problem": push.problem,
    }
    uow.emit(type_, push.id, data, parties=[push.party_id])
