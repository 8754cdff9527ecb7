"""Targets of pushes: a buyer's webhooks and buckets, their sealed secrets, and the first ping."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import func, update
from sqlmodel import col, select

from contracts.outbound import sealing
from contracts.outbound.base_urls import BaseUrlRefused, checked_base
from contracts.push.errors import (
    PushTargetInvalid,
    PushTargetNotFound,
    PushTargetRetired,
    PushTargetsTooMany,
)
from contracts.push.models import Push, PushStatus, PushTarget, TargetKind, TargetStatus
from contracts.push.parcels import Message, new_signing_secret, pack
from contracts.push.schemas import (
    NewPushTarget,
    PushTargetInput,
    PushTargetView,
    PushVerification,
    WebhookInput,
)
from contracts.push.sending import NotTaken, Progress, sender_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id

TARGETS_MAX = 50
PING_S = 10.0
PINGS_PER_MINUTE = 30


async def register(kernel: Kernel, actor: Actor, body: PushTargetInput) -> NewPushTarget:
    """A target of the actor's party; nothing is dialed yet.

    Raises RoleRequired (403), PushTargetInvalid (422), PushTargetsTooMany (409),
    SecretsUnavailable (503). Emits ``push_target.registered``.
    """
    actor.require(Role.BUYER)
    place: dict[str, Any] = {}
    if isinstance(body, WebhookInput):
        address, param = body.url, "url"
        secret = {"signing": new_signing_secret()}
    else:
        address, param = body.endpoint, "endpoint"
        place = body.model_dump(include={"region", "bucket", "prefix"})
        secret = {
            "access_key_id": body.access_key_id.get_secret_value(),
            "secret_access_key": body.secret_access_key.get_secret_value(),
        }
    target_id, envelope = new_id(), sealing.envelope_of(kernel)
    async with kernel.unit_of_work() as uow:
        live = select(func.count()).where(
            PushTarget.party_id == actor.party_id, PushTarget.status != TargetStatus.RETIRED
        )
        if (await uow.session.exec(live)).one() >= TARGETS_MAX:
            raise PushTargetsTooMany(f"The limit is {TARGETS_MAX}.")
        row = PushTarget(
            id=target_id,
            party_id=actor.party_id,
            kind=TargetKind(body.kind),
            url=_checked(kernel, address, param=param),
            place=place,
            key_id=envelope.current,
            sealed=envelope.seal(orjson.dumps(secret), context=target_id.bytes),
            status=TargetStatus.UNVERIFIED,
            created_at=uow.now,
        )
        uow.session.add(row)
        _emit(uow, row, "push_target.registered")
        view = NewPushTarget(**view_of(row).model_dump(), signing_secret=secret.get("signing"))
        location = f"/v1/push-targets/{show('ptg', row.id)}"
        await uow.answer(view, secret=True, headers={"Location": location})
    return view


def _checked(kernel: Kernel, url: str, *, param: str) -> str:
    settings = kernel.settings
    try:
        return checked_base(url, sandbox=settings.is_sandbox, loopback=settings.upstream_loopback)
    except BaseUrlRefused as error:
        raise PushTargetInvalid(str(error), param=param) from error


async def verify(kernel: Kernel, actor: Actor, target_id: UUID) -> PushVerification:
    """Send a ping; a target that answers it with 2xx may be pushed to. Free.

    Raises PushTargetNotFound (404), PushTargetRetired (409), RateLimited (429),
    SecretsUnavailable (503). Emits ``push_target.verified``.
    """
    async with kernel.unit_of_work() as uow:
        target = await own(uow, actor, target_id)
        if target.status == TargetStatus.RETIRED:
            raise PushTargetRetired
    window = await kernel.limits.hit("push_ping", actor.party_id.hex, limit=PINGS_PER_MINUTE)
    window.require()
    body = orjson.dumps({"type": "ping", "target": show("ptg", target.id)})
    message = Message(f"ping.{new_id().hex}", "market-ping.json", "application/json", body, {})
    problem = None
    try:
        parcel = await pack(
            target, secret_of(kernel, target), message, now_s=kernel.clock.timestamp_s()
        )
        await sender_of(kernel).send(parcel, Progress(), deadline_s=PING_S)
    except NotTaken as failure:
        problem = failure.problem
    async with kernel.unit_of_work() as uow:
        row = await own(uow, actor, target_id, lock=True)
        if problem is None and row.status == TargetStatus.UNVERIFIED:
            row.status, row.verified_at = TargetStatus.VERIFIED, uow.now
            _emit(uow, row, "push_target.verified")
        view = PushVerification(ok=problem is None, problem=problem, target=view_of(row))
        await uow.answer(view, status=200)
    return view


async def retire(kernel: Kernel, actor: Actor, target_id: UUID) -> PushTargetView:
    """End a target for good and cancel its pushes; its secret is deleted.

    Repeating it changes nothing. Raises PushTargetNotFound (404). Emits ``push_target.retired``.
    """
    async with kernel.unit_of_work() as uow:
        row = await own(uow, actor, target_id, lock=True)
        if row.status != TargetStatus.RETIRED:
            row.status, row.sealed = TargetStatus.RETIRED, None
            query = (
                select(Push)
                .where(Push.target_id == row.id, Push.status == PushStatus.ACTIVE)
                .with_for_update()
            )
            for push in await uow.session.exec(query):
                push.status, push.ended_at = PushStatus.CANCELED, uow.now
            following = update(Push).where(
                col(Push.target_id) == row.id, col(Push.follow).is_not(None)
            )
            await uow.execute(following.values(follow=None))
            _emit(uow, row, "push_target.retired")
        view = view_of(row)
        await uow.answer(view, status=200)
    return view


async def show_target(kernel: Kernel, actor: Actor, target_id: UUID) -> PushTargetView:
    """One of the actor's party. Raises PushTargetNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return view_of(await own(uow, actor, target_id))


async def list_targets(kernel: Kernel, actor: Actor, *, page: PageQuery) -> Page[PushTargetView]:
    """Those of the actor's party, newest first. Raises BadCursor (422)."""
    query = (
        select(PushTarget)
        .where(PushTarget.party_id == actor.party_id)
        .order_by(col(PushTarget.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        query = query.where(col(PushTarget.id) < after)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
    return Page[PushTargetView].of(
        [view_of(row) for row in rows], page.limit, [(row.id,) for row in rows]
    )


async def own(uow: UnitOfWork, actor: Actor, target_id: UUID, *, lock: bool = False) -> PushTarget:
    """A target of the actor's party. Raises PushTargetNotFound (404)."""
    row = await uow.session.get(PushTarget, target_id, with_for_update=lock)
    if row is None or row.party_id != actor.party_id:
        raise PushTargetNotFound(param="target_id")
    return row


def secret_of(kernel: Kernel, target: PushTarget) -> dict[str, Any]:
    """The opened secret. Raises PushTargetRetired (409), SecretsUnavailable (503)."""
    if target.sealed is None:
        raise PushTargetRetired
    opened: dict[str, Any] = orjson.loads(
        sealing.envelope_of(kernel).open(target.sealed, context=target.id.bytes)
    )
    return opened


async def rewrap(kernel: Kernel) -> int:
    """Wrap up to 100 of their secrets under the newest key. Raises SecretsUnavailable (503)."""
    return await sealing.rewrap(kernel, PushTarget)


def view_of(row: PushTarget) -> PushTargetView:
    """As the API shows it."""
    return PushTargetView(
        id=row.id,
        kind=row.kind,
        url=row.url,
        **row.place,
        status=row.status,
        created_at=row.created_at,
        verified_at=row.verified_at,
    )


def _emit(uow: UnitOfWork, row: PushTarget, type_: str) -> None:
    data = {"target_id": show("ptg", row.id), "kind": row.kind, "status": row.status}
    uow.emit(type_, row.id, data, parties=[row.party_id])
