"""Statements of an account over a period: opening balance, lines, closing balance.

``booking`` orders by when the ledger learned of a transfer: such a statement never changes.
``event`` orders by when it happened (backdated ``event_at``): a later correction appears in the
period where it belongs, so the same period can read differently tomorrow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor
from settlement import statements
from settlement.errors import PeriodInvalid, StatementTooLong
from settlement.schemas import BalanceView, Basis, PostingView

if TYPE_CHECKING:
    from asyncpg import Connection

LINES_MAX = 100_000
LINES_PER_READ = 2_000
_MICROSECOND = timedelta(microseconds=1)
_START = datetime(1970, 1, 1, tzinfo=UTC)

# The balance by booking time, corrected by what was booked before or after it happened: the
# partial index transfer_moved holds only those.
_EVENT_SHIFT = """
SELECT coalesce(sum(CASE WHEN t.event_at <= $2 THEN p.amount ELSE -p.amount END), 0)::bigint,
       coalesce(sum(CASE WHEN t.event_at <= $2 THEN 1 ELSE -1 END), 0)::bigint
FROM settlement.transfer t
JOIN settlement.posting p ON p.transfer_id = t.id AND p.account_id = $1
WHERE t.event_at <> t.booked_at AND (t.event_at <= $2) <> (t.booked_at <= $2)
"""
_EVENT_ORDER = """
SELECT seq FROM (
    SELECT p.seq, t.event_at FROM settlement.posting p
    JOIN settlement.transfer t ON t.id = p.transfer_id
    WHERE p.account_id = $1 AND p.seq > $2 AND p.seq <= $3
      AND t.event_at >= $4 AND t.event_at < $5
    UNION ALL
    SELECT p.seq, t.event_at FROM settlement.transfer t
    JOIN settlement.posting p ON p.transfer_id = t.id AND p.account_id = $1
    WHERE t.event_at <> t.booked_at AND t.event_at >= $4 AND t.event_at < $5
      AND NOT (p.seq > $2 AND p.seq <= $3) AND p.seq <= $6
) lines ORDER BY event_at, seq LIMIT $7
"""
_SUMS = """
SELECT coalesce(sum(amount) FILTER (WHERE amount > 0), 0)::bigint AS credit,
       coalesce(-sum(amount) FILTER (WHERE amount < 0), 0)::bigint AS debit
FROM settlement.posting WHERE account_id = $1 AND seq = ANY($2::bigint[])
"""
_LINES = """
SELECT p.seq, p.transfer_id, t.kind, t.memo_id, t.reverses, p.currency,
       p.amount AS amount_minor, p.balance AS balance_minor, t.event_at, t.booked_at
FROM settlement.posting p JOIN settlement.transfer t ON t.id = p.transfer_id
WHERE p.account_id = $1 AND p.seq = ANY($2::bigint[])
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """The head of a statement. ``seqs`` are its lines in order; amounts are minor units."""

    account_id: UUID
    kind: str
    currency: str
    basis: Basis
    start: datetime
    end: datetime
    opening: int
    closing: int
    credit: int
    debit: int
    seqs: Sequence[int]


async def position_at(
    connection: Connection[Any], account_id: UUID, moment: datetime, basis: Basis
) -> statements.Booked:
    """The balance of an account at ``moment`` (that moment included)."""
    posted, postings = await statements.booked_as_of(connection, account_id, moment)
    if basis is Basis.EVENT:
        row = await connection.fetchrow(_EVENT_SHIFT, account_id, moment)
        assert row is not None
        posted, postings = posted + row[0], postings + row[1]
    return statements.Booked(posted, postings)


async def balance_as_of(
    kernel: Kernel, actor: Actor, account_id: UUID, as_of: datetime | None, basis: Basis
) -> BalanceView:
    """The posted balance at ``as_of`` (default: now). Raises AccountNotFound."""
    async with kernel.unit_of_work() as uow:
        account = await statements.visible(uow, actor, account_id)
        moment = as_of or uow.now
        booked = await position_at(await uow.raw(), account_id, moment, basis)
    return BalanceView(
        account_id=account_id,
        currency=account.currency,
        as_of=moment,
        by=basis,
        posted_minor=booked.posted,
        posting_count=booked.postings,
    )


async def open_statement(
    kernel: Kernel,
    actor: Actor,
    account_id: UUID,
    *,
    start: datetime | None,
    end: datetime | None,
    basis: Basis,
) -> Statement:
    """The head of a visible account's statement from ``start`` to before ``end`` (default: now).

    Raises AccountNotFound, PeriodInvalid (422: empty, or not over), StatementTooLong (422: more
    than 100,000 lines).
    """
    async with kernel.unit_of_work() as uow:
        account = await statements.visible(uow, actor, account_id)
        begin, until = start or _START, end or uow.now
        if not begin < until <= uow.now:
            raise PeriodInvalid("The period must begin before it ends, and end by now.")
        connection = await uow.raw()
        before = await statements.booked_as_of(connection, account_id, begin - _MICROSECOND)
        after = await statements.booked_as_of(connection, account_id, until - _MICROSECOND)
        seqs: Sequence[int] = range(before.postings + 1, after.postings + 1)
        if basis is Basis.EVENT and len(seqs) <= LINES_MAX:
            rows = await connection.fetch(
                _EVENT_ORDER,
                account_id,
                before.postings,
                after.postings,
                begin,
                until,
                account.seq,
                LINES_MAX + 1,
            )
            seqs = [row["seq"] for row in rows]
        if len(seqs) > LINES_MAX:
            raise StatementTooLong(f"More than {LINES_MAX} lines.", param="from")
        opening = await position_at(connection, account_id, begin - _MICROSECOND, basis)
        sums = await connection.fetchrow(_SUMS, account_id, list(seqs))
        assert sums is not None
    return Statement(
        account_id=account_id,
        kind=account.kind,
        currency=account.currency,
        basis=basis,
        start=begin,
        end=until,
        opening=opening.posted,
        closing=opening.posted + sums["credit"] - sums["debit"],
        credit=sums["credit"],
        debit=sums["debit"],
        seqs=seqs,
    )


async def read_lines(kernel: Kernel, statement: Statement) -> AsyncIterator[list[PostingView]]:
    """The lines in order, 2,000 at a time; ``balance_minor`` is the one after each line.

    Each piece has a unit of work of its own: a slow reader keeps no connection. Postings never
    change, so the pieces fit together whatever is booked meanwhile.
    """
    balance = statement.opening
    for begin in range(0, len(statement.seqs), LINES_PER_READ):
        seqs = list(statement.seqs[begin : begin + LINES_PER_READ])
        async with kernel.unit_of_work() as uow:
            found = await _read(uow, statement.account_id, seqs)
        lines = []
        for seq in seqs:
            balance += found[seq]["amount_minor"]
            lines.append(PostingView(**{**found[seq], "balance_minor": balance}))
        yield lines


async def _read(uow: UnitOfWork, account_id: UUID, seqs: list[int]) -> dict[int, dict[str, Any]]:
    rows = await (await uow.raw()).fetch(_LINES, account_id, seqs)
    return {row["seq"]: dict(row) for row in rows}
