"""The work on pushes: due ones are leased, and sent part by part.

A part is a page of the rows API under a Delivery-Id of its own, ``push.part.break``: prepared and
reserved, sent, settled by the bytes that the kernel took, its usage record made durable, and then
the push moved on. Whoever dies in between sends the part again under the same id, for free.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlmodel import col, select

from contracts.changes.errors import ChangesPreparing, VersionsIncomparable
from contracts.copies.errors import CopyPreparing
from contracts.delivery.formats import MEDIA_TYPES, Format
from contracts.delivery.gate import gate_of
from contracts.delivery.response import to_the_end
from contracts.delivery.rows import Ready, rows_service
from contracts.errors import (
    DeliveryIdExpired,
    DeliveryIncomplete,
    DeliveryInProgress,
    QuotaExhausted,
    TokenExpired,
    UnitRefused,
)
from contracts.metering import meter_of
from contracts.models import DeliveryToken
from contracts.push import pushes, reading
from contracts.push.models import Push, PushPart, PushStatus, PushTarget
from contracts.push.parcels import Message, pack
from contracts.push.schemas import PushView
from contracts.push.sending import NotTaken, Progress, sender_of
from contracts.push.targets import secret_of
from contracts.tokens import claims_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import parse, show
from market.kernel.logging import get_logger

# Each holds a page of up to 64 MiB and its body.
AT_ONCE = 4
# Of one push, before the others get their turn.
TURN_S = 20.0
ATTEMPTS_MAX = 10
BACKOFF_S = 10
BACKOFF_MAX_S = 10_800
MANIFEST_S = 20.0
# What takes its time.
_WAITING = (CopyPreparing, ChangesPreparing, DeliveryInProgress)
# Conflicts that no later attempt will not meet.
_FOR_GOOD = (UnitRefused, VersionsIncomparable)
_EXTENSIONS = {Format.ARROW: "arrows"}

_TAKE = """
UPDATE contracts.push SET leased_until = :until WHERE id IN (
    SELECT id FROM contracts.push
    WHERE status = 'active' AND next_at <= :now AND (leased_until IS NULL OR leased_until < :now)
    ORDER BY next_at LIMIT :most FOR UPDATE SKIP LOCKED
) RETURNING id
"""

_log = get_logger("contracts.push")


class _Broken(Exception):
    """The next part's Delivery-Id is used up by a delivery that ended early."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A push that this process has the lease of."""

    push: Push
    target: PushTarget
    token: DeliveryToken

    @property
    def view(self) -> PushView:
        return pushes.view_of(self.push)

    @property
    def number(self) -> int:
        """Of the next part, from 1."""
        return self.push.parts + 1

    @property
    def key(self) -> str:
        """The next part's Delivery-Id."""
        return f"{self.push.id.hex}.{self.number}.{self.push.breaks}"


async def run_pushes(kernel: Kernel) -> int:
    """Send some parts of up to AT_ONCE due pushes. Returns how many pushes had a turn."""
    lease = timedelta(seconds=_lease_s(kernel))
    async with kernel.unit_of_work() as uow:
        until = uow.now + lease
        taken = await uow.execute(text(_TAKE), {"until": until, "now": uow.now, "most": AT_ONCE})
        ids = [row.id for row in taken]
    await asyncio.gather(*(_turn(kernel, push_id, until) for push_id in ids))
    return len(ids)


def _lease_s(kernel: Kernel) -> float:
    """Longer than a turn whose last part is prepared and sent as slowly as allowed."""
    return TURN_S + 2 * kernel.settings.delivery_timeout_s + meter_of(kernel).hold_s + 30.0


async def _turn(kernel: Kernel, push_id: UUID, lease: datetime) -> None:
    ends = time.monotonic() + TURN_S
    try:
        while True:
            work = await _load(kernel, push_id, lease)
            if work is None or not await _step(kernel, work, lease):
                return
            if time.monotonic() >= ends:
                return
    finally:
        async with kernel.unit_of_work() as uow:
            push = await _leased(uow, push_id, lease)
            if push is not None:
                push.leased_until = None
                # Behind those that were waiting.
                push.next_at = max(push.next_at, uow.now)


async def _step(kernel: Kernel, work: _Work, lease: datetime) -> bool:
    """One part, or the manifest after the last. False when the turn is over."""
    push_id = work.push.id
    try:
        if work.push.all_sent:
            await _finish(kernel, work, lease)
            return False
        await _send_part(kernel, work, lease)
    except (_Broken, DeliveryIncomplete, DeliveryIdExpired):
        return await _change(kernel, push_id, lease, breaks=1)
    except QuotaExhausted as error:
        await _stop(kernel, push_id, lease, PushStatus.EXHAUSTED, error.code)
        return False
    except NotTaken as failure:
        await _fail(kernel, push_id, lease, failure.problem)
        return False
    except MarketError as error:
        await _refused(kernel, push_id, lease, error)
        return False
    except Exception:  # noqa: BLE001 - one push that breaks us must not break the others
        _log.exception("push_failed", push=push_id.hex)
        await _fail(kernel, push_id, lease, "internal_error")
        return False
    return True


async def _refused(kernel: Kernel, push_id: UUID, lease: datetime, error: MarketError) -> None:
    wait_s = int(error.headers.get("Retry-After", "0"))
    if (
        isinstance(error, CopyPreparing | ChangesPreparing | DeliveryInProgress)
        or error.status == 429
    ):
        # Nobody's failure; it ends with the token at the latest.
        await _change(kernel, push_id, lease, wait_s=max(1, wait_s))
    elif error.status >= 500 or (error.status == 409 and not isinstance(error, _FOR_GOOD)):
        await _fail(kernel, push_id, lease, error.code)
    else:
        await _stop(kernel, push_id, lease, PushStatus.REFUSED, error.code)


async def _send_part(kernel: Kernel, work: _Work, lease: datetime) -> None:
    """Raises NotTaken, _Broken, and as :meth:`contracts.delivery.rows.RowsService.deliver`."""
    claims, push = claims_of(work.token), work.push
    if claims.expires_at_s <= kernel.clock.timestamp_s():
        raise TokenExpired
    rows = rows_service(kernel)
    request = reading.request_of(
        work.view,
        work.view.format,
        version=push.version,
        after=push.next_after,
        delivery_id=work.key,
    )
    context, _ = await gate_of(kernel).allow(claims, request)
    context, request, told = await reading.opened(kernel, claims, context, request, push.since)
    ready = await rows.prepare(claims, context, request)
    progress = Progress()
    try:
        parcel = await pack(
            work.target,
            secret_of(kernel, work.target),
            _message(work, ready, told),
            now_s=kernel.clock.timestamp_s(),
        )
        await sender_of(kernel).send(parcel, progress, deadline_s=ready.deadline_s)
    except NotTaken as failure:
        if not ready.paid and 0 < progress.sent < len(ready.page.body):
            raise _Broken from failure
        raise
    finally:
        # Whatever happened to the sending: what is out is charged, the rest is given back.
        await to_the_end(_settle(kernel, ready, progress.sent))
    await _record(kernel, work, ready, lease)


async def _settle(kernel: Kernel, ready: Ready, sent: int) -> None:
    rest = ready.finish(sent)
    if rest is not None:
        await rest
    # The usage record and its receipt first: the part is recorded after them, never before.
    await meter_of(kernel).flush()


def _message(work: _Work, ready: Ready, told: dict[str, str]) -> Message:
    page, view = ready.page, work.view
    digest = base64.b64encode(bytes.fromhex(page.body_sha256)).decode()
    extension = _EXTENSIONS.get(page.format, page.format.value)
    headers = {
        **ready.headers,
        **told,
        "Push-Id": show("psh", view.id),
        "Push-Part": str(work.number),
        "Content-Digest": f"sha-256=:{digest}:",
    }
    headers.pop("Next-After", None)
    path = f"{show('psh', view.id)}/part-{work.number:05d}.{extension}"
    return Message(work.key, path, MEDIA_TYPES[page.format], page.body, headers)


async def _record(kernel: Kernel, work: _Work, ready: Ready, lease: datetime) -> None:
    page = ready.page
    async with kernel.unit_of_work() as uow:
        push = await _leased(uow, work.push.id, lease)
        if push is None:
            return
        uow.session.add(
            PushPart(
                push_id=push.id,
                number=work.number,
                delivery_key=work.key,
                receipt_id=parse("rcp", ready.headers["Receipt-Id"]),
                rows=page.rows,
                bytes=len(page.body),
                sha256=page.body_sha256,
                arrived_at=uow.now,
            )
        )
        push.parts += 1
        push.rows += page.rows
        push.bytes += len(page.body)
        push.next_after, push.all_sent = page.next_after, page.next_after is None
        push.attempts = push.breaks = 0
        push.problem = None


async def _finish(kernel: Kernel, work: _Work, lease: datetime) -> None:
    """Tell the target that all is there. Raises NotTaken."""
    query = select(PushPart).where(PushPart.push_id == work.push.id).order_by(col(PushPart.number))
    async with kernel.unit_of_work() as uow:
        parts = [pushes.part_of(row) for row in await uow.session.exec(query)]
    view, name = work.view, show("psh", work.push.id)
    manifest = {
        "type": "push.completed",
        "push": view.model_dump(
            mode="json",
            include={
                *("id", "previous_id", "grant_id", "version", "since"),
                *("select", "filter", "order", "format", "rows"),
            },
        ),
        "parts": [part.model_dump(mode="json") for part in parts],
    }
    message = Message(
        f"{work.push.id.hex}.completed",
        f"{name}/manifest.json",
        "application/json",
        orjson.dumps(manifest),
        {"Push-Id": name},
    )
    parcel = await pack(
        work.target, secret_of(kernel, work.target), message, now_s=kernel.clock.timestamp_s()
    )
    await sender_of(kernel).send(parcel, Progress(), deadline_s=MANIFEST_S)
    await _stop(kernel, work.push.id, lease, PushStatus.COMPLETED, None)


async def _load(kernel: Kernel, push_id: UUID, lease: datetime) -> _Work | None:
    async with kernel.unit_of_work() as uow:
        push = await _leased(uow, push_id, lease)
        if push is None:
            return None
        target = await uow.session.get_one(PushTarget, push.target_id)
        token = await uow.session.get_one(DeliveryToken, push.token_id)
        return _Work(push, target, token)


async def _leased(uow: UnitOfWork, push_id: UUID, lease: datetime) -> Push | None:
    """The push, locked, while it is active and this process's."""
    push = await uow.session.get(Push, push_id, with_for_update=True)
    if push is None or push.status != PushStatus.ACTIVE or push.leased_until != lease:
        return None
    return push


async def _change(
    kernel: Kernel, push_id: UUID, lease: datetime, *, breaks: int = 0, wait_s: int = 0
) -> bool:
    """Another Delivery-Id, or a later time. True when the turn may go on at once."""
    async with kernel.unit_of_work() as uow:
        push = await _leased(uow, push_id, lease)
        if push is None:
            return False
        push.breaks += breaks
        push.attempts += breaks
        push.next_at = uow.now + timedelta(seconds=wait_s)
        if push.attempts < ATTEMPTS_MAX:
            return wait_s == 0
    await _stop(kernel, push_id, lease, PushStatus.DEAD, "target_connection_broken")
    return False


async def _fail(kernel: Kernel, push_id: UUID, lease: datetime, problem: str) -> None:
    """Try again later, ATTEMPTS_MAX times."""
    async with kernel.unit_of_work() as uow:
        push = await _leased(uow, push_id, lease)
        if push is None:
            return
        push.attempts, push.problem = push.attempts + 1, problem
        pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 3 ** (push.attempts - 1))
        # Jitter: the pushes that one broken target lost do not come back at once.
        pause_s *= random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        push.next_at = uow.now + timedelta(seconds=pause_s)
        attempts = push.attempts
    if attempts >= ATTEMPTS_MAX:
        await _stop(kernel, push_id, lease, PushStatus.DEAD, problem)


async def _stop(
    kernel: Kernel, push_id: UUID, lease: datetime, status: PushStatus, problem: str | None
) -> None:
    async with kernel.unit_of_work() as uow:
        push = await _leased(uow, push_id, lease)
        if push is not None:
            push.status, push.problem, push.ended_at = status, problem, uow.now
            pushes.emit(uow, push, f"push.{status.value}")
