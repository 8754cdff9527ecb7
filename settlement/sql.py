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
from settlement.chain import LEAF_FORMAT, Entry, merkle_root
from settlement.commands import Applied, Refused, Result
from settlement.copying import (
    COMMAND_COLUMNS,
    COPY_FROM_ENTRIES,
    POSTING_COLUMNS,
    TRANSFER_COLUMNS,
    CopiedBatch,
)
from settlement.rules import AccountState, HoldState, Memory, PastTransfer

if TYPE_CHECKING:
    import asyncpg

# Whichever unique index meets a creator at the same moment first, of the id or of the name behind
# it: naming the id alone let the other one raise.
_CREATE_ACCOUNTS = """
INSERT INTO settlement.account (id, kind, owner, currency, created_at)
SELECT u.id, u.kind, u.owner, u.currency, $5
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS u(id, kind, owner, currency)
WHERE NOT EXISTS (SELECT 1 FROM settlement.account a WHERE a.id = u.id)
ORDER BY u.id
ON CONFLICT DO NOTHING
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
# The same, but says only how many rows are in the expected state: a guess is checked without
# reading thousands of rows into Python.
_LOCK_EXPECTED = """
SELECT count(*) FROM (
    SELECT id, posted, held, seq FROM settlement.account
    WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
) a JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u(id, posted, held, seq)
    ON a.id = u.id AND a.posted = u.posted AND a.held = u.held AND a.seq = u.seq
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
# What frees money comes first, what reserves it last (with the new holds), and the postings move
# their accounts by their trigger in between: each row keeps posted >= held at every step.
_FREE = """
WITH new_batch AS (
    INSERT INTO settlement.batch (id, root, command_count, booked_at, format)
    VALUES ($1, $2, $3, $4, $5)
), freed AS (
    UPDATE settlement.account a SET held = u.held FROM unnest($6::uuid[], $7::bigint[])
        AS u(id, held) WHERE a.id = u.id RETURNING 1"""
_APPENDED = """
), new_posting AS (
    INSERT INTO settlement.posting (account_id, seq, transfer_id, currency, amount, balance)
    SELECT * FROM unnest($8::uuid[], $9::bigint[], $10::uuid[], $11::text[], $12::bigint[],
                         $13::bigint[])
), new_transfer AS (
    INSERT INTO settlement.transfer (id, kind, memo_id, reverses, event_at, booked_at)
    SELECT u.*, $4 FROM unnest($14::uuid[], $15::text[], $16::uuid[], $17::uuid[],
                               $18::timestamptz[]) AS u
), new_command AS (
    INSERT INTO settlement.command (batch_id, ordinal, key, body_hash, leaf_hash, type,
                                    transfer_id, hold_id, resolved_hold_id, code, detail)
    SELECT $1, u.n - 1, u.key, u.body_hash, u.leaf_hash, u.type, u.transfer_id, u.hold_id,
           u.resolved, u.code, u.detail
    FROM unnest($19::text[], $20::bytea[], $21::bytea[], $22::text[], $23::uuid[], $24::uuid[],
                $25::uuid[], $26::text[], $27::text[]) WITH ORDINALITY
         AS u(key, body_hash, leaf_hash, type, transfer_id, hold_id, resolved, code, detail, n)"""
_COUNTED = """
)
SELECT count(*) FROM freed
"""
_WRITE_ALL = _FREE + _APPENDED + _COUNTED
_WRITE_BATCH = _FREE + _COUNTED
_WRITE_HOLDS = """
WITH reserved AS (
    UPDATE settlement.account a SET held = u.held FROM unnest($7::uuid[], $8::bigint[])
        AS u(id, held) WHERE a.id = u.id RETURNING 1
), new_hold AS (
    INSERT INTO settlement.hold (id, account_id, amount, expires_at, memo_id, created_at)
    SELECT u.*, $6
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::uuid[]) AS u
)
SELECT count(*) FROM reserved
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


async def lock_expected(
    connection: asyncpg.Connection[Any], expected: Mapping[UUID, AccountState]
) -> bool:
    """Lock accounts like :func:`lock_accounts`; whether all exist and are as ``expected``."""
    states = expected.values()
    found: int = await connection.fetchval(
        _LOCK_EXPECTED,
        list(expected),
        [state.posted for state in states],
        [state.held for state in states],
        [state.seq for state in states],
    )
    return found == len(expected)


async def read_accounts(
    connection: asyncpg.Connection[Any], refs: Sequence[AccountRef]
) -> tuple[dict[UUID, AccountState], datetime | None]:
    """The states of ``refs`` as last committed, and when the newest of them was booked.

    Takes no lock. Accounts never used have zeros.
    """
    rows = await connection.fetch(
        "SELECT a.id, a.posted, a.held, a.seq, (SELECT t.booked_at FROM settlement.posting p "
        "JOIN settlement.transfer t ON t.id = p.transfer_id "
        "WHERE p.account_id = a.id AND p.seq = a.seq) "
        "FROM settlement.account a WHERE a.id = ANY($1::uuid[])",
        [ref.id for ref in refs],
    )
    found = {row[0]: row for row in rows}
    states = {}
    for ref in refs:
        _, posted, held, seq, _ = found.get(ref.id, (None, 0, 0, 0, None))
        states[ref.id] = AccountState(ref, posted, held, seq)
    return states, max((row[4] for row in rows if row[4] is not None), default=None)


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
    batch: CopiedBatch,
    entries: Sequence[Entry],
    leaves: Sequence[bytes],
    before: Mapping[UUID, AccountState],
    after: Mapping[UUID, AccountState],
) -> None:
    """Write a decided batch; the trigger on postings moves the balances.

    From COPY_FROM_ENTRIES on ``batch`` must hold all entries, below it is not read. Raises
    asyncpg's CheckViolationError when an account is not in the state that was locked (a bug: the
    transaction must roll back) and UniqueViolationError for a key that another transaction
    booked on unrelated accounts.
    """
    held = [(i, before[i].held, state.held) for i, state in after.items()]
    freed = [(i, new) for i, old, new in held if new < old]
    reserved = [(i, new) for i, old, new in held if new > old]
    moves = (
        batch.batch_id,
        merkle_root(leaves),
        len(entries),
        batch.booked_at,
        LEAF_FORMAT,
        [identity for identity, _ in freed],
        [amount for _, amount in freed],
    )
    if len(entries) < COPY_FROM_ENTRIES:
        found = await connection.fetchval(_WRITE_ALL, *moves, *_appended(entries, leaves))
    else:
        assert batch.entries == len(entries), "entries were left out of the copy"
        found = await connection.fetchval(_WRITE_BATCH, *moves)
        # Transfers first: the trigger on postings looks for theirs.
        await _copy(connection, "transfer", batch.transfers(), TRANSFER_COLUMNS)
        await _copy(connection, "posting", batch.postings(), POSTING_COLUMNS)
        await _copy(connection, "command", batch.commands(), COMMAND_COLUMNS)
    assert found == len(freed), "an account with a hold does not exist"
    await _write_holds(connection, entries, batch.booked_at, reserved)


def _appended(entries: Sequence[Entry], leaves: Sequence[bytes]) -> tuple[Sequence[object], ...]:
    transfers = [entry.transfer for entry in entries if entry.transfer is not None]
    legs = [(transfer.id, posting) for transfer in transfers for posting in transfer.postings]
    return (
        [posting.account_id for _, posting in legs],
        [posting.seq for _, posting in legs],
        [transfer_id for transfer_id, _ in legs],
        [posting.currency for _, posting in legs],
        [posting.amount for _, posting in legs],
        [posting.balance for _, posting in legs],
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
    connection: asyncpg.Connection[Any],
    entries: Sequence[Entry],
    booked_at: datetime,
    reserved: Sequence[tuple[UUID, int]],
) -> None:
    holds = [entry.hold for entry in entries if entry.hold is not None]
    if holds:
        columns = [list(column) for column in zip(*holds, strict=True)]
        ids, amounts = [identity for identity, _ in reserved], [amount for _, amount in reserved]
        found = await connection.fetchval(_WRITE_HOLDS, *columns, booked_at, ids, amounts)
        assert found == len(reserved), "an account with a hold does not exist"
    else:
        assert not reserved, "money is reserved by holds only"
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
