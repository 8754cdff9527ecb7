"""Rows of a large batch in the binary format of COPY (PostgreSQL manual, COPY, "Binary Format").

Made by hand because asyncpg's array parameters cost a type check per element: for a batch of
thousands this is cheaper for both sides than ``unnest``. Pure: bytes out, no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from settlement.chain import Entry, TransferRow
from settlement.commands import micros

# Signature, no flags, no extension.
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_UUID_LENGTH = (16).to_bytes(4, "big")
_HASH_LENGTH = (32).to_bytes(4, "big")
# Postgres counts microseconds from 2000-01-01 UTC; this is that moment since 1970.
_POSTGRES_EPOCH_US = 946_684_800_000_000
_length = struct.Struct(">i").pack
_int4 = struct.Struct(">ii").pack
_int8 = struct.Struct(">iq").pack

TRANSFER_COLUMNS = ("id", "kind", "memo_id", "reverses", "event_at", "booked_at")
COMMAND_COLUMNS = (
    "batch_id",
    "ordinal",
    "key",
    "body_hash",
    "leaf_hash",
    "type",
    "transfer_id",
    "hold_id",
    "resolved_hold_id",
    "code",
    "detail",
)
_TRANSFER_FIELDS = len(TRANSFER_COLUMNS).to_bytes(2, "big")
_COMMAND_FIELDS = len(COMMAND_COLUMNS).to_bytes(2, "big")


def transfer_rows(transfers: Sequence[TransferRow], booked_at: datetime) -> bytes:
    """``settlement.transfer`` rows, columns as in TRANSFER_COLUMNS."""
    booked = _moment(booked_at)
    parts = [_HEADER]
    for row in transfers:
        parts += (
            _TRANSFER_FIELDS,
            _UUID_LENGTH,
            row.id.bytes,
            _text(row.kind),
            _uuid(row.memo_id),
            _uuid(row.reverses),
            booked if row.event_at == booked_at else _moment(row.event_at),
            booked,
        )
    parts.append(_TRAILER)
    return b"".join(parts)


def command_rows(batch_id: UUID, entries: Sequence[Entry], leaves: Sequence[bytes]) -> bytes:
    """``settlement.command`` rows, columns as in COMMAND_COLUMNS; ``leaves`` one per entry."""
    start = _COMMAND_FIELDS + _UUID_LENGTH + batch_id.bytes
    parts = [_HEADER]
    for ordinal, (entry, leaf) in enumerate(zip(entries, leaves, strict=True)):
        parts += (
            start,
            _int4(4, ordinal),
            _text(entry.key),
            _HASH_LENGTH,
            entry.body_hash,
            _HASH_LENGTH,
            leaf,
            _text(entry.type),
            _uuid(entry.transfer and entry.transfer.id),
            _uuid(entry.hold and entry.hold.id),
            _uuid(entry.resolution and entry.resolution.hold_id),
            _text(entry.code),
            _text(entry.detail),
        )
    parts.append(_TRAILER)
    return b"".join(parts)


def _uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else _UUID_LENGTH + value.bytes


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    data = value.encode()
    return _length(len(data)) + data


def _moment(value: datetime) -> bytes:
    since_1970 = micros(value)
    assert since_1970 is not None
    return _int8(8, since_1970 - _POSTGRES_EPOCH_US)
