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
# Postgres counts microseconds from 2000-01-01 UTC; this is that moment since 1970.
_POSTGRES_EPOCH_US = 946_684_800_000_000
_length = struct.Struct(">i").pack
_int8 = struct.Struct(">iq").pack

# From here on three COPYs are cheaper than arrays in the statement; below, one round trip is.
COPY_FROM_ENTRIES = 128
TRANSFER_COLUMNS = ("id", "kind", "memo_id", "reverses", "event_at", "booked_at")
POSTING_COLUMNS = ("account_id", "seq", "transfer_id", "currency", "amount", "balance")
COMMAND_COLUMNS = (
    "batch_id",
    "ordinal",
    "body_hash",
    "leaf_hash",
    "key",
    "type",
    "transfer_id",
    "hold_id",
    "resolved_hold_id",
    "code",
    "detail",
)
# Field count, then length and value of each column; a currency code has three letters.
_posting = struct.Struct(">hi16siqi16si3siqiq").pack
_transfer = struct.Struct(">hi16s").pack
# Up to and including the key's length.
_command = struct.Struct(">hi16siii32si32si").pack


class CopiedBatch:
    """The rows of one batch, encoded bit by bit while it is still growing."""

    def __init__(self, batch_id: UUID, booked_at: datetime) -> None:
        self.batch_id = batch_id
        self.booked_at = booked_at
        self.entries = 0
        self._batch = batch_id.bytes
        self._booked = _moment(booked_at)
        self._transfers = [_HEADER]
        self._postings = [_HEADER]
        self._commands = [_HEADER]

    def add(self, entries: Sequence[Entry], leaves: Sequence[bytes]) -> None:
        """Append the rows of ``entries``; ``leaves`` one per entry."""
        ordinal, batch, parts = self.entries, self._batch, self._commands
        for entry, leaf in zip(entries, leaves, strict=True):
            key, transfer = entry.key.encode(), entry.transfer
            digest = entry.body_hash
            head = _command(11, 16, batch, 4, ordinal, 32, digest, 32, leaf, len(key))
            parts.append(head + key)
            ordinal += 1
            if transfer is None:
                parts.append(_text(entry.type))
                parts.append(_NULL)
            else:
                identity = transfer.id.bytes
                self._add_transfer(transfer, identity)
                parts.append(_text(entry.type) + _UUID_LENGTH + identity)
            hold, resolution = entry.hold, entry.resolution
            if hold is None and resolution is None and entry.code is None:
                parts.append(_FOUR_NULLS)
                continue
            parts += (
                _uuid(hold and hold.id),
                _uuid(resolution and resolution.hold_id),
                _text(entry.code),
                _text(entry.detail),
            )
        self.entries = ordinal

    def _add_transfer(self, row: TransferRow, identity: bytes) -> None:
        booked = self._booked
        self._transfers += (
            _transfer(6, 16, identity),
            _text(row.kind),
            _uuid(row.memo_id),
            _uuid(row.reverses),
            booked if row.event_at is self.booked_at else _moment(row.event_at),
            booked,
        )
        add = self._postings.append
        for account_id, seq, amount, currency, balance in row.postings:
            code, account = currency.encode(), account_id.bytes
            assert len(code) == 3, "a currency code has three ASCII letters"
            add(_posting(6, 16, account, 8, seq, 16, identity, 3, code, 8, amount, 8, balance))

    def transfers(self) -> bytes:
        """``settlement.transfer`` rows, columns as in TRANSFER_COLUMNS."""
        return b"".join([*self._transfers, _TRAILER])

    def postings(self) -> bytes:
        """``settlement.posting`` rows, columns as in POSTING_COLUMNS."""
        return b"".join([*self._postings, _TRAILER])

    def commands(self) -> bytes:
        """``settlement.command`` rows, columns as in COMMAND_COLUMNS."""
        return b"".join([*self._commands, _TRAILER])


_FOUR_NULLS = _NULL * 4


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
