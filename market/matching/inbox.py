"""The table by which processes hand commands to the engine's owner and get its answers.

UNLOGGED, because nothing in it is the truth: an answer that is lost with it is found again by the
command's key. Its transactions therefore do not wait for the disk. Times are real database time.
Each function is one statement of its own transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from market.kernel.idempotency import Answer
from market.matching.wire import headers_text

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]
    Record = asyncpg.Record

# Told that commands wait.
COMMANDS_CHANNEL = "matching_commands"
# Commands whose caller has long gone.
KEPT_S = 60

_PUT = """
WITH room AS (
    SELECT $5::bigint - count(*) AS n FROM (
        SELECT FROM matching.inbox
        WHERE answered_at IS NULL AND good_until > clock_timestamp() LIMIT $5) waiting),
put AS (
    INSERT INTO matching.inbox (id, sender, command, good_until)
    SELECT c.id, $1, c.command, clock_timestamp() + make_interval(secs => $4)
    FROM unnest($2::uuid[], $3::bytea[]) WITH ORDINALITY AS c(id, command, n), room
    WHERE c.n <= room.n ORDER BY c.n
    RETURNING id)
SELECT coalesce(array_agg(id), '{}'), pg_notify($6, '') FROM put
"""
_TAKE = """
SELECT id, command, good_until FROM matching.inbox
WHERE answered_at IS NULL AND good_until > clock_timestamp() AND NOT id = ANY($1::uuid[])
ORDER BY seq LIMIT $2
"""
_ANSWER = """
WITH done AS (
    UPDATE matching.inbox i
    SET status = a.status, body = a.body, headers = a.headers, replayed = a.replayed,
        raised = a.raised, answered_at = clock_timestamp()
    FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::text[], $5::boolean[], $6::boolean[])
         AS a(id, status, body, headers, replayed, raised)
    WHERE i.id = a.id AND i.answered_at IS NULL
    RETURNING i.sender)
SELECT pg_notify('matching_' || replace(sender::text, '-', ''), '')
FROM (SELECT DISTINCT sender FROM done) senders
"""
_COLLECT = """
DELETE FROM matching.inbox WHERE sender = $1 AND answered_at IS NOT NULL
RETURNING id, status, body, headers, replayed, raised
"""
_PURGE = """
DELETE FROM matching.inbox WHERE good_until < clock_timestamp() - make_interval(secs => $1)
"""


class Answered(NamedTuple):
    """An answer on its way back. ``raised`` is a refusal that is no answer of a command's own."""

    id: UUID
    answer: Answer
    replayed: bool
    raised: bool


def answers_channel(sender: UUID) -> str:
    """Told that answers for ``sender`` wait."""
    return f"matching_{sender.hex}"


async def put(
    connection: Connection,
    sender: UUID,
    commands: Sequence[tuple[UUID, bytes]],
    *,
    good_for_s: int,
    waiting_max: int,
) -> set[UUID]:
    """Leave commands in order; returns those that found room among ``waiting_max``."""
    found = await connection.fetchval(
        _PUT,
        sender,
        [identity for identity, _ in commands],
        [command for _, command in commands],
        good_for_s,
        waiting_max,
        COMMANDS_CHANNEL,
    )
    return set(found)


async def take(connection: Connection, in_hand: Collection[UUID], limit: int) -> list[Record]:
    """The oldest commands without an answer that are not in hand and not late."""
    return await connection.fetch(_TAKE, list(in_hand), limit)


async def answer(connection: Connection, answers: Sequence[Answered]) -> None:
    """Leave answers and wake those who wait for them; the first answer to a command stays."""
    await connection.execute(
        _ANSWER,
        [item.id for item in answers],
        [item.answer.status for item in answers],
        [item.answer.body for item in answers],
        [headers_text(item.answer.headers) for item in answers],
        [item.replayed for item in answers],
        [item.raised for item in answers],
    )


async def collect(connection: Connection, sender: UUID) -> list[Record]:
    """Take the answers for ``sender`` away."""
    return await connection.fetch(_COLLECT, sender)


async def present(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Those that are still there."""
    rows = await connection.fetch(
        "SELECT id FROM matching.inbox WHERE id = ANY($1::uuid[])", list(ids)
    )
    return {row["id"] for row in rows}


async def purge(connection: Connection) -> None:
    """Remove what nobody waits for any more."""
    await connection.execute(_PURGE, KEPT_S)
