"""Answers kept for 24 hours under the Delivery-Id that a client chose, so that repeating is free.

An upstream cannot be asked again for the answer that it gave: it may have changed, and a second
call may cost its owner. So the answer itself is kept, before it is sent.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlmodel import select

from contracts.delivery.once import REPLAY_FREE
from contracts.proxy.models import KeptAnswer
from market.kernel.context import Kernel

KEPT_MAX_BYTES: Final = 1 << 20
_PRUNE_BATCH: Final = 500

_KEEP: Final = """
INSERT INTO contracts.proxy_answer
    (grant_id, delivery_key, query_sha256, media_type, body, kept_until)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (grant_id, delivery_key) DO NOTHING
"""
_FORGET: Final = "DELETE FROM contracts.proxy_answer WHERE grant_id = $1 AND delivery_key = $2"
_PRUNE: Final = text(
    "DELETE FROM contracts.proxy_answer WHERE (grant_id, delivery_key) IN ("
    "SELECT grant_id, delivery_key FROM contracts.proxy_answer WHERE kept_until <= :now "
    "ORDER BY kept_until LIMIT :batch FOR UPDATE SKIP LOCKED)"
)


async def find(kernel: Kernel, grant_id: UUID, delivery_id: str | None) -> KeptAnswer | None:
    """The answer under that id, if it is kept still; None also without an id."""
    if delivery_id is None:
        return None
    query = select(KeptAnswer).where(
        KeptAnswer.grant_id == grant_id, KeptAnswer.delivery_key == delivery_id
    )
    async with kernel.unit_of_work() as uow:
        row = (await uow.session.exec(query)).one_or_none()
        return row if row is not None and row.kept_until > uow.now else None


async def keep(
    kernel: Kernel,
    grant_id: UUID,
    delivery_id: str | None,
    *,
    query_sha256: str,
    media_type: str,
    body: bytes,
) -> None:
    """Keep an answer of at most KEPT_MAX_BYTES; nothing without an id of the client's own."""
    if delivery_id is None or len(body) > KEPT_MAX_BYTES:
        return
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            _KEEP, grant_id, delivery_id, query_sha256, media_type, body, uow.now + REPLAY_FREE
        )


async def forget(kernel: Kernel, grant_id: UUID, delivery_id: str | None) -> None:
    """Delete the answer of a delivery that was not charged; its repetition asks again."""
    if delivery_id is None:
        return
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(_FORGET, grant_id, delivery_id)


async def prune(kernel: Kernel) -> int:
    """Delete up to 500 answers whose time is over."""
    async with kernel.unit_of_work() as uow:
        done = await uow.execute(_PRUNE, {"now": uow.now, "batch": _PRUNE_BATCH})
        return done.rowcount
