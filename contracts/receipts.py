"""Receipts: signed proof of each delivery, chained per agreement, checkable offline.

Each receipt names the SHA-256 of the one before it, so that none can be left out or put in later
without breaking the chain; each carries the SHA-256 of the body that was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from contracts.agreements import get_agreement, may_read
from contracts.errors import ReceiptNotFound
from contracts.models import Agreement, Receipt
from contracts.schemas import ReceiptView
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, sha256_hex, verify_with_jwks

TYP = "receipt+jws"


def claims(**values: object) -> dict[str, object]:
    """The payload of a receipt: ids, query digest, counts, body hash, time, ``seq``, ``prev``."""
    return dict(values)


def digest(jws: str) -> str:
    """What the next receipt names as ``prev``."""
    return sha256_hex(jws.encode())


def verify_chain(receipts: Sequence[str], jwks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check an agreement's receipts, first to last, offline; give their payloads.

    Raises InvalidToken for a bad signature, ValueError for a gap, a swap or a foreign receipt.
    """
    payloads: list[dict[str, Any]] = []
    previous, agreement = "", None
    for number, jws in enumerate(receipts, start=1):
        payload = verify_with_jwks(TYP, jws, jwks)
        agreement = agreement or payload.get("agreement")
        if payload.get("seq") != number or payload.get("prev") != previous:
            raise ValueError(f"receipt {number} does not follow its predecessor")
        if payload.get("agreement") != agreement:
            raise ValueError(f"receipt {number} belongs to another agreement")
        previous = digest(jws)
        payloads.append(payload)
    return payloads


def view(receipt: Receipt) -> ReceiptView:
    """The API shape of a receipt."""
    return ReceiptView(
        id=receipt.id,
        agreement_id=receipt.agreement_id,
        usage_id=receipt.delivery_id,
        seq=receipt.seq,
        prev_sha256=receipt.prev_sha256,
        sha256=receipt.sha256,
        jws=receipt.jws,
        issued_at=receipt.issued_at,
    )


async def get_receipt(kernel: Kernel, actor: Actor, receipt_id: UUID) -> ReceiptView:
    """One receipt, for those who may read its agreement. Raises ReceiptNotFound."""
    async with kernel.unit_of_work() as uow:
        receipt = await uow.session.get(Receipt, receipt_id)
        agreement = (
            None if receipt is None else await uow.session.get(Agreement, receipt.agreement_id)
        )
        if receipt is None or agreement is None or not may_read(agreement, actor):
            raise ReceiptNotFound(param="receipt_id")
        return view(receipt)


async def list_receipts(
    kernel: Kernel, actor: Actor, agreement_id: UUID, *, page: PageQuery
) -> Page[ReceiptView]:
    """An agreement's receipts in chain order. Raises AgreementNotFound, BadCursor."""
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        rows = await receipts_after(uow, agreement_id, after=_after_seq(page), limit=page.limit + 1)
        return Page[ReceiptView].of(
            [view(row) for row in rows], page.limit, [(row.seq,) for row in rows]
        )


def _after_seq(page: PageQuery) -> int:
    key = page.key(1)
    if key is None:
        return 0
    if not key[0].isascii() or not key[0].isdigit() or len(key[0]) > 18:
        raise BadCursor(param="after")
    return int(key[0])


async def receipts_after(
    uow: UnitOfWork, agreement_id: UUID, *, after: int, limit: int
) -> list[Receipt]:
    """Receipts with ``seq`` above ``after``, in chain order."""
    query = (
        select(Receipt)
        .where(Receipt.agreement_id == agreement_id, col(Receipt.seq) > after)
        .order_by(col(Receipt.seq))
        .limit(limit)
    )
    return list(await uow.session.exec(query))
