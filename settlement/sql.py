"""The ledger's raw SQL: lock, read and write in separate statements (ledger.md §5, cala #845).

Raw asyncpg because this is the hottest path of the exchange: tests/benchmarks/bench_ledger.py
compares it with a SQL function per transfer; the ORM flush alone is ten times an unnest insert
(style trap 7). Every statement takes arrays, so a batch costs as many round trips as one command.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from settlement.accounts import AccountRef
from settlement.chain import LEAF_FORMAT, Entry, TransferRow, merkle_root
from settlement.commands import Applied, Refused, Result
from settlement.copying import COMMAND_COLUMNS, TRANSFER_COLUMNS, command_rows, transfer_rows
from settlement.rules import AccountState, HoldState, Memory, PastTransfer

if TYPE_CHECKING:
    import asyncpg

_CREATE_ACCOUNTS = """
INSERT INTO settlement.account (id, kind, owner, currency, created_at)
SELECT u.id, u.kind, u.owner, u.currency, $5
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS u(id, kind, owner, currency)
WHERE NOT EXISTS (SELECT 1 FROM settlement.account a WHERE a.id = u.id)
ORDER BY u.id
ON CONFLICT (id) DO NOTHING
"""
# All or none: the count is a one-time filter, evaluated before the first row is locked, so that
# missing accounts can be made without breaking the order of locks. NO KEY: foreign keys from
# holds may still be checked by others meanwhile.
_LOCK_ACCOUNTS = """
SELECT id, posted, held, seq FROM settlement.account
WHERE id = ANY($1::uuid[])
  AND (SELECT count(*) FROM settlement.account WHERE id = ANY($1::uuid[])) = cardinality($1::uuid[])
ORDER BY id FOR NO KEY UPDATE
"""
# Always after the locks, in a statement of its own, so that it sees what their last owner
# committed. The elapsed time makes booking times grow along every account's seq.
_READ_MEMORY = """
SELECT c.key, c.body_hash, c.transfer_id, c.hold_id, c.code, c.detail,
       clock_timestamp() - now() AS elapsed
FROM (SELECT 1) AS one LEFT JOIN settlement.command c ON c.key = ANY($1::text[])
"""
_READ_HOLDS = """
SELECT h.id, h.account_id, h.amount, h.expires_at, h.memo_id, r.hold_id IS NOT NULL AS resolved,
       a.kind, a.owner, a.currency
FROM settlement.hold h
JOIN settlement.account a ON a.id = h.account_id
LEFT JOIN settlement.hold_resolution r ON r.hold_id = h.id
WHERE h.id = ANY($1::uuid[])
"""
_READ_TRANSFERS = """
SELECT t.id, t.reverses IS NOT NULL AS is_reversal, p.account_id, p.amount,
       EXISTS (SELECT 1 FROM settlement.transfer b WHERE b.reverses = t.id) AS reversed
FROM settlement.transfer t JOIN settlement.posting p ON p.transfer_id = t.id
WHERE t.id = ANY($1::uuid[])
"""
# One statement, one snapshot: triggers see all of it at its end. The balances are relative and
# guarded by seq, so a state read without a lock can never be written.
_MOVES = f"""
WITH new_batch AS (
    INSERT INTO settlement.batch (id, root, command_count, booked_at, format)
    VALUES ($1, $2, $3, $4, {LEAF_FORMAT})
), changed AS (
    UPDATE settlement.account a
    SET posted = a.posted + u.posted, held = a.held + u.held, seq = a.seq + u.steps
    FROM unnest($5::uuid[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
         AS u(id, posted, held, steps, seq)
    WHERE a.id = u.id AND a.seq = u.seq
    RETURNING 1
), new_posting AS (
    INSERT INTO settlement.posting (account_id, seq, transfer_id, currency, amount, balance)
    SELECT * FROM unnest($10::uuid[], $11::bigint[], $12::uuid[], $13::text[], $14::bigint[],
                         $15::bigint[])"""
_APPENDED = """
), new_transfer AS (
    INSERT INTO settlement.transfer (id, kind, memo_id, reverses, event_at, booked_at)
    SELECT u.*, $4 FROM unnest($16::uuid[], $17::text[], $18::uuid[], $19::uuid[],
                               $20::timestamptz[]) AS u
), new_command AS (
    INSERT INTO settlement.command (batch_id, ordinal, key, body_hash, leaf_hash, type,
                                    transfer_id, hold_id, resolved_hold_id, code, detail)
    SELECT $1, u.n - 1, u.key, u.body_hash, u.leaf_hash, u.type, u.transfer_id, u.hold_id,
           u.resolved, u.code, u.detail
    FROM unnest($21::text[], $22::bytea[], $23::bytea[], $24::text[], $25::uuid[], $26::uuid[],
                $27::uuid[], $28::text[], $29::text[]) WITH ORDINALITY
         AS u(key, body_hash, leaf_hash, type, transfer_id, hold_id, resolved, code, detail, n)"""
_CHANGED = """
)
SELECT count(*) FROM changed
"""
_WRITE_ALL = _MOVES + _APPENDED + _CHANGED
_WRITE_MOVES = _MOVES + _CHANGED
# From here on two COPYs are cheaper than arrays in the statement; below, one round trip is.
COPY_FROM_ENTRIES = 128
_WRITE_HOLDS = """
INSERT INTO settlement.hold (id, account_id, amount, expires_at, memo_id, created_at)
SELECT u.*, $6 FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::uuid[]) AS u
"""
_WRITE_RESOLUTIONS = """
INSERT INTO settlement.hold_resolution (hold_id, outcome, captured, resolved_at)
SELECT u.*, $4 FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS u
"""


async def lock_accounts(
    connection: asyncpg.Connection[Any], refs: Sequence[AccountRef], *, at: datetime
) -> dict[UUID, AccountState]:
    """Lock the rows of ``refs`` in id order until the transaction ends and read them.

    The only place that locks accounts. Missing ones are made first (created ``at``): a row that
    does not exist takes no lock, and waiting for another creator must not happen under locks.
    """
    by_id = {ref.id: ref for ref in refs}
    ids = list(by_id)
    rows = await connection.fetch(_LOCK_ACCOUNTS, ids)
    if len(rows) != len(ids):
        named = list(by_id.values())
        await connection.execute(
            _CREATE_ACCOUNTS,
            ids,
            [str(ref.kind) for ref in named],
            [ref.owner for ref in named],
            [ref.currency for ref in named],
            at,
        )
        rows = await connection.fetch(_LOCK_ACCOUNTS, ids)
    assert len(rows) == len(ids), "an account was neither there nor made"
    return {
        identity: AccountState(by_id[identity], posted, held, seq)
        for identity, posted, held, seq in rows
    }


async def read_memory(
    connection: asyncpg.Connection[Any], keys: Sequence[str]
) -> tuple[dict[str, Memory], timedelta]:
    """What ``keys`` were used for, and the time since this transaction began."""
    rows = await connection.fetch(_READ_MEMORY, keys)
    elapsed: timedelta = rows[0]["elapsed"]
    memory = {}
    for key, digest, transfer_id, hold_id, code, detail, _ in rows:
        if key is not None:
            result: Result = (
                Applied(key, transfer_id, hold_id) if code is None else Refused(key, code, detail)
            )
            memory[key] = Memory(digest, result)
    return memory, elapsed


async def read_holds(
    connection: asyncpg.Connection[Any], ids: Sequence[UUID]
) -> dict[UUID, HoldState]:
    """The known ones among ``ids``."""
    rows = await connection.fetch(_READ_HOLDS, ids)
    return {
        row["id"]: HoldState(
            AccountRef(row["kind"], row["owner"], row["currency"]),
            row["amount"],
            row["expires_at"],
            row["memo_id"],
            row["resolved"],
        )
        for row in rows
    }


async def read_transfers(
    connection: asyncpg.Connection[Any], ids: Sequence[UUID]
) -> dict[UUID, PastTransfer]:
    """The known ones among ``ids``, with what a reversal must know."""
    rows = await connection.fetch(_READ_TRANSFERS, ids)
    legs: dict[UUID, dict[UUID, int]] = {}
    found = {}
    for identity, is_reversal, account, amount, was_reversed in rows:
        own = legs.setdefault(identity, {})
        own[account] = amount
        found[identity] = PastTransfer(own, is_reversal, was_reversed)
    return found


async def write(
    connection: asyncpg.Connection[Any],
    *,
    batch_id: UUID,
    leaves: Sequence[bytes],
    booked_at: datetime,
    entries: Sequence[Entry],
    before: Mapping[UUID, AccountState],
    after: Mapping[UUID, AccountState],
) -> None:
    """Write a decided batch: balances folded per account, then everything it appended.

    Raises AssertionError when an account is not in the state that was locked (a bug: the
    transaction must roll back) and asyncpg's UniqueViolationError for a key that another
    transaction booked on unrelated accounts.
    """
    moved = list(after.items())
    transfers = [entry.transfer for entry in entries if entry.transfer is not None]
    legs = [(transfer.id, posting) for transfer in transfers for posting in transfer.postings]
    moves = (
        batch_id,
        merkle_root(leaves),
        len(entries),
        booked_at,
        [identity for identity, _ in moved],
        [state.posted - before[identity].posted for identity, state in moved],
        [state.held - before[identity].held for identity, state in moved],
        [state.seq - before[identity].seq for identity, state in moved],
        [before[identity].seq for identity, _ in moved],
        [posting.account_id for _, posting in legs],
        [posting.seq for _, posting in legs],
        [transfer_id for transfer_id, _ in legs],
        [posting.currency for _, posting in legs],
        [posting.amount for _, posting in legs],
        [posting.balance for _, posting in legs],
    )
    if len(entries) < COPY_FROM_ENTRIES:
        appended = _appended(transfers, entries, leaves)
        changed = await connection.fetchval(_WRITE_ALL, *moves, *appended)
    else:
        # Transfers first: the trigger on postings looks for theirs.
        await _copy(connection, "transfer", transfer_rows(transfers, booked_at), TRANSFER_COLUMNS)
        changed = await connection.fetchval(_WRITE_MOVES, *moves)
        commands = command_rows(batch_id, entries, leaves)
        await _copy(connection, "command", commands, COMMAND_COLUMNS)
    assert changed == len(moved), f"{changed} of {len(moved)} accounts were in the locked state"
    await _write_holds(connection, entries, booked_at)


def _appended(
    transfers: Sequence[TransferRow], entries: Sequence[Entry], leaves: Sequence[bytes]
) -> tuple[Sequence[object], ...]:
    return (
        [transfer.id for transfer in transfers],
        [transfer.kind for transfer in transfers],
        [transfer.memo_id for transfer in transfers],
        [transfer.reverses for transfer in transfers],
        [transfer.event_at for transfer in transfers],
        [entry.key for entry in entries],
        [entry.body_hash for entry in entries],
        leaves,
        [entry.type for entry in entries],
        [entry.transfer and entry.transfer.id for entry in entries],
        [entry.hold and entry.hold.id for entry in entries],
        [entry.resolution and entry.resolution.hold_id for entry in entries],
        [entry.code for entry in entries],
        [entry.detail for entry in entries],
    )


async def _copy(
    connection: asyncpg.Connection[Any], table: str, rows: bytes, columns: Sequence[str]
) -> None:
    await connection.copy_to_table(
        table,
        schema_name="settlement",
        columns=columns,
        source=io.BytesIO(rows),
        format="binary",
    )


async def _write_holds(
    connection: asyncpg.Connection[Any], entries: Sequence[Entry], booked_at: datetime
) -> None:
    holds = [entry.hold for entry in entries if entry.hold is not None]
    if holds:
        columns = [list(column) for column in zip(*holds, strict=True)]
        await connection.execute(_WRITE_HOLDS, *columns, booked_at)
    resolutions = [entry.resolution for entry in entries if entry.resolution is not None]
    if resolutions:
        columns = [list(column) for column in zip(*resolutions, strict=True)]
        await connection.execute(_WRITE_RESOLUTIONS, *columns, booked_at)


async def read_balances(
    connection: asyncpg.Connection[Any], ids: Sequence[UUID]
) -> dict[UUID, int]:
    """Posted minus held of the known ones among ``ids``, without a lock."""
    rows = await connection.fetch(
        "SELECT id, posted - held FROM settlement.account WHERE id = ANY($1::uuid[])", ids
    )
    return {row[0]: row[1] for row in rows}


async def read_leg(connection: asyncpg.Connection[Any], transfer_id: UUID, account_id: UUID) -> int:
    """The signed amount that a transfer posted to an account; 0 if it did not touch it."""
    amount: int | None = await connection.fetchval(
        "SELECT amount FROM settlement.posting WHERE transfer_id = $1 AND account_id = $2",
        transfer_id,
        account_id,
    )
    return amount or 0


async def read_legs(
    connection: asyncpg.Connection[Any], transfer_id: UUID
) -> list[tuple[AccountRef, int]]:
    """Accounts and signed amounts of a transfer, by account id; empty if it does not exist."""
    rows = await connection.fetch(
        "SELECT a.kind, a.owner, a.currency, p.amount FROM settlement.posting p "
        "JOIN settlement.account a ON a.id = p.account_id WHERE p.transfer_id = $1 ORDER BY a.id",
        transfer_id,
    )
    return [(AccountRef(kind, owner, currency), amount) for kind, owner, currency, amount in rows]
