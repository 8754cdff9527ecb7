"""Inclusion proofs: one transfer, its place in its batch, the chain up to a signed checkpoint.

A party gets the proof of a transfer that touched its own available or receivable account. The
proof shows the transfer's legs and nobody's balance (leaf format 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Actor, Role
from settlement.accounts import PARTY_KINDS
from settlement.chain import (
    LEAF_FORMAT,
    Entry,
    HoldRow,
    PostingRow,
    ResolutionRow,
    TransferRow,
    leaf_bytes,
    leaf_hash,
)
from settlement.commands import micros
from settlement.errors import ProofNotOffered, ProofNotReady, TransferNotFound
from settlement.inclusion import audit_path
from settlement.proof_check import PROOF_LINKS_MAX, Proof

if TYPE_CHECKING:
    from asyncpg import Connection, Record

_TOUCHES = """
SELECT EXISTS (
    SELECT 1 FROM settlement.posting p JOIN settlement.account a ON a.id = p.account_id
    WHERE p.transfer_id = $1 AND a.owner = $2 AND a.kind = ANY($3::text[])
)
"""
# A transfer does not name its batch, but both were booked at one moment: the index on
# batch.booked_at finds it, and no index on the far larger table of commands is needed.
_PLACE = """
SELECT l.number, l.prev_hash, b.booked_at, b.format, c.batch_id, c.ordinal, c.key, c.body_hash,
       c.leaf_hash, c.type, c.hold_id, c.resolved_hold_id,
       t.kind, t.memo_id, t.event_at, t.reverses,
       h.account_id, h.amount, h.expires_at, h.memo_id AS hold_memo_id, r.outcome, r.captured
FROM settlement.transfer t
JOIN settlement.batch b ON b.booked_at = t.booked_at
JOIN settlement.command c ON c.batch_id = b.id AND c.transfer_id = t.id
JOIN settlement.chain_link l ON l.batch_id = b.id
LEFT JOIN settlement.hold h ON h.id = c.hold_id
LEFT JOIN settlement.hold_resolution r ON r.hold_id = c.resolved_hold_id
WHERE t.id = $1
"""
_POSTINGS = """
SELECT account_id, seq, amount, currency, balance FROM settlement.posting
WHERE transfer_id = $1
"""
_LEAVES = "SELECT leaf_hash FROM settlement.command WHERE batch_id = $1 ORDER BY ordinal"
_CHECKPOINT = """
SELECT number, jws FROM settlement.checkpoint WHERE number >= $1 ORDER BY number LIMIT 1
"""
_ROOTS = """
SELECT b.root FROM settlement.chain_link l JOIN settlement.batch b ON b.id = l.batch_id
WHERE l.number > $1 AND l.number <= $2 ORDER BY l.number
"""


async def transfer_proof(kernel: Kernel, actor: Actor, transfer_id: UUID) -> Proof:
    """The proof of a transfer, for its parties, operators and regulators.

    Raises TransferNotFound (404, also for the transfers of others), ProofNotReady (503: no
    checkpoint has been signed since), ProofNotOffered (409: see :func:`prove`).
    """
    oversees = actor.has(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        if not oversees:
            kinds = sorted(kind.value for kind in PARTY_KINDS)
            touches = await (await uow.raw()).fetchval(_TOUCHES, transfer_id, actor.party_id, kinds)
            if not touches:
                raise TransferNotFound
        return await prove(uow, transfer_id, with_balances=oversees)


async def prove(uow: UnitOfWork, transfer_id: UUID, *, with_balances: bool = True) -> Proof:
    """The proof of a transfer, for whoever may see it. Reads a few rows, writes none.

    Raises TransferNotFound, ProofNotReady, and ProofNotOffered when more than 100,000 links lie
    between the transfer and the next checkpoint, when its rows are not the ones that were booked,
    or, unless ``with_balances``, for leaves of format 1: they contain the balances of all legs.
    """
    connection = await uow.raw()
    place = await connection.fetchrow(_PLACE, transfer_id)
    if place is None:
        raise TransferNotFound
    if place["format"] != LEAF_FORMAT and not with_balances:
        raise ProofNotOffered("Transfers this old are proved to operators and regulators only.")
    checkpoint = await connection.fetchrow(_CHECKPOINT, place["number"])
    if checkpoint is None:
        raise ProofNotReady("No checkpoint has been signed since; one is due every few seconds.")
    if checkpoint["number"] - place["number"] > PROOF_LINKS_MAX:
        raise ProofNotOffered(f"More than {PROOF_LINKS_MAX} links lie before the checkpoint.")
    leaf = await _leaf(connection, place, transfer_id)
    leaves = [row["leaf_hash"] for row in await connection.fetch(_LEAVES, place["batch_id"])]
    if leaf_hash(leaf) != place["leaf_hash"]:
        raise ProofNotOffered("The transfer's rows are not the ones that were booked.")
    roots = await connection.fetch(_ROOTS, place["number"], checkpoint["number"])
    return Proof.model_validate(
        {
            "transfer_id": show("txn", transfer_id),
            "leaf": leaf.decode(),
            "path": [
                (side, neighbor.hex()) for side, neighbor in audit_path(leaves, place["ordinal"])
            ],
            "link": {"number": place["number"], "previous": place["prev_hash"].hex()},
            "roots": [row["root"].hex() for row in roots],
            "checkpoint": checkpoint["jws"],
        }
    )


async def _leaf(connection: Connection[Any], place: Record, transfer_id: UUID) -> bytes:
    rows = await connection.fetch(_POSTINGS, transfer_id)
    hold = resolution = None
    if place["hold_id"] is not None:
        hold = HoldRow(
            place["hold_id"],
            place["account_id"],
            place["amount"],
            place["expires_at"],
            place["hold_memo_id"],
        )
    if place["resolved_hold_id"] is not None:
        resolution = ResolutionRow(place["resolved_hold_id"], place["outcome"], place["captured"])
    entry = Entry(
        place["key"],
        place["body_hash"],
        place["type"],
        TransferRow(
            transfer_id,
            place["kind"],
            place["memo_id"],
            place["event_at"],
            place["reverses"],
            tuple(PostingRow(*row) for row in rows),
        ),
        hold,
        resolution,
    )
    booked_us = micros(place["booked_at"])
    assert booked_us is not None
    return leaf_bytes(entry, booked_us, place["format"])
