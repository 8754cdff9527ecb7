"""Reading the ledger: accounts, their postings, the trial balance, checkpoints.

A party reads its own accounts (available, receivable); every other account, and those of other
parties, answer 404 except to operators and regulators.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement.accounts import PARTY_KINDS, AccountKind, AccountRef
from settlement.errors import AccountNotFound
from settlement.models import Account, Checkpoint
from settlement.schemas import (
    AccountView,
    CheckpointView,
    PostingView,
    TrialBalance,
    TrialBalanceCurrency,
    TrialBalanceLine,
)

if TYPE_CHECKING:
    from asyncpg import Connection

_OWNER_PREFIX = {
    AccountKind.AVAILABLE: "pty",
    AccountKind.RECEIVABLE: "pty",
    AccountKind.ESCROW: "agr",
    AccountKind.FROZEN: "dsp",
}
_POSTINGS = """
SELECT p.seq, p.transfer_id, t.kind, t.memo_id, t.reverses, p.currency,
       p.amount AS amount_minor, p.balance AS balance_minor, t.event_at, t.booked_at
FROM settlement.posting p JOIN settlement.transfer t ON t.id = p.transfer_id
WHERE p.account_id = $1 AND p.seq < $2 ORDER BY p.seq DESC LIMIT $3
"""
# Booking time grows with seq, so the last posting of a moment is found by halving the range:
# at most 63 probes of the primary key, however long the statement is, and no further index.
_AS_OF = """
WITH RECURSIVE probe(low, high) AS (
    SELECT 0::bigint, a.seq FROM settlement.account a WHERE a.id = $1
    UNION ALL
    SELECT CASE WHEN t.booked_at <= $2 THEN m.seq ELSE probe.low END,
           CASE WHEN t.booked_at <= $2 THEN probe.high ELSE m.seq - 1 END
    FROM probe
    CROSS JOIN LATERAL (SELECT (probe.low + probe.high + 1) / 2 AS seq) m
    JOIN settlement.posting p ON p.account_id = $1 AND p.seq = m.seq
    JOIN settlement.transfer t ON t.id = p.transfer_id
    WHERE probe.low < probe.high
)
SELECT probe.low AS seq, coalesce(p.balance, 0) AS posted
FROM probe LEFT JOIN settlement.posting p ON p.account_id = $1 AND p.seq = probe.low
WHERE probe.low = probe.high
"""
_TRIAL = """
SELECT currency, kind, count(*) AS accounts, sum(held)::bigint AS held,
       coalesce(-sum(posted) FILTER (WHERE posted < 0), 0)::bigint AS debit,
       coalesce(sum(posted) FILTER (WHERE posted > 0), 0)::bigint AS credit
FROM settlement.account GROUP BY currency, kind ORDER BY currency, kind
"""
_SEQ_END = 2**62


async def list_accounts(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    kind: AccountKind | None = None,
    currency: str | None = None,
) -> Page[AccountView]:
    """A party's own accounts, or all of them for operators and regulators; ordered by id."""
    query = select(Account).order_by(col(Account.id)).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(Account.id) > after)
    if kind is not None:
        query = query.where(Account.kind == kind.value)
    if currency is not None:
        query = query.where(Account.currency == currency)
    if not _sees_all(actor):
        query = query.where(_own(actor))
    async with kernel.unit_of_work() as uow:
        views = [_account_view(row) for row in await uow.session.exec(query)]
    return Page[AccountView].of(views, page.limit, [(view.id,) for view in views])


async def get_account(kernel: Kernel, actor: Actor, account_id: UUID) -> AccountView:
    """One visible account. Raises AccountNotFound."""
    async with kernel.unit_of_work() as uow:
        return _account_view(await visible(uow, actor, account_id))


async def list_postings(
    kernel: Kernel, actor: Actor, account_id: UUID, page: PageQuery
) -> Page[PostingView]:
    """The statement of a visible account, newest first. Raises AccountNotFound."""
    key = page.key(1)
    before = _SEQ_END
    if key is not None:
        if not (key[0].isascii() and key[0].isdigit() and len(key[0]) < 19):
            raise BadCursor(param="after")
        before = int(key[0])
    async with kernel.unit_of_work() as uow:
        await visible(uow, actor, account_id)
        rows = await _postings(await uow.raw(), account_id, before=before, limit=page.limit + 1)
    return Page[PostingView].of(rows, page.limit, [(row.seq,) for row in rows])


async def history(uow: UnitOfWork, ref: AccountRef, *, limit: int = 200) -> list[PostingView]:
    """The newest ``limit`` postings of an account, for services (no access check)."""
    return await _postings(await uow.raw(), ref.id, before=_SEQ_END, limit=limit)


async def credited_since(uow: UnitOfWork, ref: AccountRef, moment: datetime) -> int:
    """Minor units that came onto an account after ``moment``, by booking time."""
    connection = await uow.raw()
    row = await connection.fetchrow(_AS_OF, ref.id, moment)
    if row is None:
        return 0
    credited: int = await connection.fetchval(
        "SELECT coalesce(sum(amount) FILTER (WHERE amount > 0), 0)::bigint "
        "FROM settlement.posting WHERE account_id = $1 AND seq > $2",
        ref.id,
        row["seq"],
    )
    return credited


async def posted_range(
    uow: UnitOfWork, ref: AccountRef, since: datetime, until: datetime
) -> tuple[int, int]:
    """The numbers of an account's postings in (``since``, ``until``]: after the first, to the
    second. Equal when there are none."""
    connection = await uow.raw()
    rows = [await connection.fetchrow(_AS_OF, ref.id, moment) for moment in (since, until)]
    first, last = (0 if row is None else int(row["seq"]) for row in rows)
    return first, last


class Booked(NamedTuple):
    """A balance in minor units and how many postings made it."""

    posted: int
    postings: int


async def booked_as_of(connection: Connection[Any], account_id: UUID, moment: datetime) -> Booked:
    """What was booked on an existing account up to ``moment``, that moment included."""
    row = await connection.fetchrow(_AS_OF, account_id, moment)
    assert row is not None
    return Booked(row["posted"], row["seq"])


async def trial_balance(kernel: Kernel, actor: Actor) -> TrialBalance:
    """Debits and credits of the whole ledger by currency and kind. Operators and regulators."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_TRIAL)
        as_of = uow.now
    by_currency: dict[str, list[TrialBalanceLine]] = {}
    for row in rows:
        by_currency.setdefault(row["currency"], []).append(
            TrialBalanceLine(
                kind=AccountKind(row["kind"]),
                account_count=row["accounts"],
                debit_minor=row["debit"],
                credit_minor=row["credit"],
                held_minor=row["held"],
            )
        )
    currencies = [_sum_up(currency, lines) for currency, lines in by_currency.items()]
    return TrialBalance(
        as_of=as_of, balanced=all(item.balanced for item in currencies), currencies=currencies
    )


async def list_checkpoints(kernel: Kernel, page: PageQuery) -> Page[CheckpointView]:
    """Signed checkpoints of the hash chain, newest first. Public."""
    key = page.key(1)
    query = select(Checkpoint).order_by(col(Checkpoint.number).desc()).limit(page.limit + 1)
    if key is not None:
        if not (key[0].isascii() and key[0].isdigit() and len(key[0]) < 19):
            raise BadCursor(param="after")
        query = query.where(col(Checkpoint.number) < int(key[0]))
    async with kernel.unit_of_work() as uow:
        views = [
            CheckpointView(
                number=row.number, hash=row.hash.hex(), jws=row.jws, created_at=row.created_at
            )
            for row in await uow.session.exec(query)
        ]
    return Page[CheckpointView].of(views, page.limit, [(view.number,) for view in views])


async def _postings(
    connection: Connection[Any], account_id: UUID, *, before: int, limit: int
) -> list[PostingView]:
    rows = await connection.fetch(_POSTINGS, account_id, before, limit)
    return [PostingView(**row) for row in rows]


async def visible(uow: UnitOfWork, actor: Actor, account_id: UUID) -> Account:
    """The account, if the actor may see it. Raises AccountNotFound."""
    account = await uow.session.get(Account, account_id)
    own = account is not None and account.kind in PARTY_KINDS and account.owner == actor.party_id
    if account is None or not (own or _sees_all(actor)):
        raise AccountNotFound
    return account


def _own(actor: Actor) -> ColumnElement[bool]:
    kinds = sorted(kind.value for kind in PARTY_KINDS)
    return and_(col(Account.owner) == actor.party_id, col(Account.kind).in_(kinds))


def _sees_all(actor: Actor) -> bool:
    return actor.has(Role.OPERATOR, Role.REGULATOR)


def _account_view(account: Account) -> AccountView:
    kind = AccountKind(account.kind)
    owner = None if account.owner is None else show(_OWNER_PREFIX[kind], account.owner)
    return AccountView(
        id=account.id,
        kind=kind,
        owner=owner,
        currency=account.currency,
        posted_minor=account.posted,
        held_minor=account.held,
        available_minor=account.posted - account.held,
        posting_count=account.seq,
    )


def _sum_up(currency: str, lines: list[TrialBalanceLine]) -> TrialBalanceCurrency:
    debit = sum(line.debit_minor for line in lines)
    credit = sum(line.credit_minor for line in lines)
    return TrialBalanceCurrency(
        currency=currency,
        lines=lines,
        debit_minor=debit,
        credit_minor=credit,
        balanced=debit == credit,
    )
