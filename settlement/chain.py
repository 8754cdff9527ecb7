"""Tamper evidence: canonical bytes of a command, Merkle root of a batch, chain of batches.

A batch's root is the RFC 6962 §2.1 tree hash over its commands in order, so that one transfer
can later be proved without showing the rest of its batch. A link hashes the previous link, its
own number and the root; the database's deferred trigger computes the same (see migration 0005).

Leaves of format 2 (since migration 0011) leave each posting's running balance out: it follows
from the amounts and the gapless ``seq``, so a proof of one transfer shows nobody's balance. A
batch says which format its leaves have, and each leaf begins with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from settlement.commands import canonical_bytes, micros

GENESIS_HASH = bytes(32)
# First member of every leaf: no two formats can collide. New batches are written in the last.
LEAF_FORMAT = 2
LEAF_FORMATS = (1, LEAF_FORMAT)
_sha256 = hashlib.sha256


class PostingRow(NamedTuple):
    """One leg as booked: ``seq`` is gapless per account, ``balance`` the one after it."""

    account_id: UUID
    seq: int
    amount: int
    currency: str
    balance: int


class TransferRow(NamedTuple):
    """One immutable transfer with its postings in leg order."""

    id: UUID
    kind: str
    memo_id: UUID | None
    event_at: datetime
    reverses: UUID | None
    postings: tuple[PostingRow, ...]


class HoldRow(NamedTuple):
    """One reservation."""

    id: UUID
    account_id: UUID
    amount: int
    expires_at: datetime
    memo_id: UUID | None


class ResolutionRow(NamedTuple):
    """How a hold ended: captured, voided or expired, and how much of it was paid."""

    hold_id: UUID
    outcome: str
    captured: int


class Entry(NamedTuple):
    """One decided command: what the ledger keeps of it, refusals included."""

    key: str
    body_hash: bytes
    type: str
    transfer: TransferRow | None = None
    hold: HoldRow | None = None
    resolution: ResolutionRow | None = None
    code: str | None = None
    detail: str | None = None


# As a number: the same order as the text's, at a tenth of its price.
_account_order = attrgetter("account_id.int")


def leaf_bytes(entry: Entry, booked_us: int, leaf_format: int = LEAF_FORMAT) -> bytes:
    """The canonical bytes of an entry: a JSON array without spaces, times in microseconds.

    Raises ValueError for a format that does not exist.
    """
    if leaf_format not in LEAF_FORMATS:
        raise ValueError(f"no leaf format {leaf_format}")
    transfer, hold = entry.transfer, entry.hold
    # A posting's balance is its last member, and only part of format 1.
    members = 5 if leaf_format == 1 else 4
    return canonical_bytes(
        [
            leaf_format,
            entry.key,
            entry.body_hash.hex(),
            entry.type,
            booked_us,
            entry.code,
            entry.detail,
            transfer
            and [
                transfer.id,
                transfer.kind,
                transfer.memo_id,
                micros(transfer.event_at),
                transfer.reverses,
                # By account, not by leg: the database need not remember the order of the legs.
                [posting[:members] for posting in sorted(transfer.postings, key=_account_order)],
            ],
            hold and [hold.id, hold.account_id, hold.amount, micros(hold.expires_at), hold.memo_id],
            entry.resolution and list(entry.resolution),
        ]
    )


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 leaf: the 0x00 prefix keeps leaves and nodes apart."""
    return _sha256(b"\x00" + data).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 tree hash over leaf hashes. Raises ValueError for an empty batch."""
    if not leaves:
        raise ValueError("a batch has at least one command")
    level = list(leaves)
    # Pairing neighbors and carrying an odd last node up gives the same tree as RFC 6962's
    # split at the largest power of two.
    while len(level) > 1:
        paired = [
            _sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def batch_leaves(entries: Sequence[Entry], booked_at: datetime) -> list[bytes]:
    """The leaf hashes of a batch in LEAF_FORMAT; its commands were all booked at one moment."""
    booked_us = micros(booked_at)
    assert booked_us is not None
    return [leaf_hash(leaf_bytes(entry, booked_us)) for entry in entries]


def link_hash(previous: bytes, number: int, root: bytes) -> bytes:
    """SHA-256 over previous hash, 8-byte big-endian number and batch root."""
    return _sha256(previous + number.to_bytes(8, "big") + root).digest()
