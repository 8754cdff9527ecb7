"""A party's monthly statement: opening, postings by kind, closing, from the ledger itself.

A month is one of UTC, by booking time. Postings never change, so the statement of a month that
is over is the same whenever it is made, and none needs to be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.security import Actor
from market.parties.access import may_oversee
from market.parties.errors import PartyNotFound
from settlement.accounts import PARTY_KINDS, AccountKind
from settlement.billing_schemas import AccountStatement, MonthlyStatement, MovementView
from settlement.errors import MonthUnknown
from settlement.models import Account
from settlement.statements import booked_as_of

if TYPE_CHECKING:
    from asyncpg import Connection

# Two kinds of account in each of the currencies of ISO 4217.
ACCOUNTS_MAX = 400
# A transaction that began in the old month may still commit for this long; far above any timeout.
GRACE = timedelta(hours=1)
_MOMENT = timedelta(microseconds=1)
_MOVEMENTS = """
SELECT t.kind, count(*) AS postings,
       coalesce(sum(p.amount) FILTER (WHERE p.amount > 0), 0)::bigint AS credit,
       coalesce(-sum(p.amount) FILTER (WHERE p.amount < 0), 0)::bigint AS debit
FROM settlement.posting p JOIN settlement.transfer t ON t.id = p.transfer_id
WHERE p.account_id = $1 AND p.seq > $2 AND p.seq <= $3 GROUP BY t.kind ORDER BY t.kind
"""


def first_of(month: str) -> date:
    """The first day of ``YYYY-MM``."""
    year, number = month.split("-")
    return date(int(year), int(number), 1)


def next_month(first: date) -> date:
    """The first day of the month after ``first``'s."""
    return date(first.year + first.month // 12, first.month % 12 + 1, 1)


def midnight(day: date) -> datetime:
    """The beginning of a day in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def monthly_statement(
    kernel: Kernel, actor: Actor, month: str, *, party_id: UUID | None = None
) -> MonthlyStatement:
    """The month of the actor, or of any party for overseers; a running month up to now.

    Raises MonthUnknown (422) for a month to come, PartyNotFound (404) for a stranger.
    """
    wanted = party_id or actor.party_id
    if not may_oversee(actor, wanted):
        raise PartyNotFound(param="party_id")
    first = first_of(month)
    starts, ends = midnight(first), midnight(next_month(first))
    kinds = sorted(kind.value for kind in PARTY_KINDS)
    query = (
        select(Account)
        .where(Account.owner == wanted, col(Account.kind).in_(kinds))
        .order_by(col(Account.currency), col(Account.kind))
        .limit(ACCOUNTS_MAX)
    )
    async with kernel.unit_of_work() as uow:
        if starts > uow.now:
            raise MonthUnknown(param="month")
        accounts = list(await uow.session.exec(query))
        connection = await uow.raw()
        made = [
            await account_month(connection, account, starts=starts, ends=ends)
            for account in accounts
        ]
        final = uow.now >= ends + GRACE
    return MonthlyStatement(
        party_id=wanted,
        month=month,
        starts_at=starts,
        ends_at=ends,
        final=final,
        accounts=_with_history(made),
    )


def _with_history(made: Sequence[AccountStatement]) -> list[AccountStatement]:
    """Accounts that were opened by the end of the month."""
    return [item for item in made if item.movements or item.opening_minor or item.closing_minor]


async def account_month(
    connection: Connection[Any], account: Account, *, starts: datetime, ends: datetime
) -> AccountStatement:
    """One account's part of a statement, from ``starts`` to before ``ends``."""
    opening, before = await booked_as_of(connection, account.id, starts - _MOMENT)
    closing, last = await booked_as_of(connection, account.id, ends - _MOMENT)
    rows = await connection.fetch(_MOVEMENTS, account.id, before, last)
    return AccountStatement(
        account_id=account.id,
        kind=AccountKind(account.kind),
        currency=account.currency,
        opening_minor=opening,
        movements=[
            MovementView(
                kind=row["kind"],
                postings=row["postings"],
                credit_minor=row["credit"],
                debit_minor=row["debit"],
                net_minor=row["credit"] - row["debit"],
            )
            for row in rows
        ],
        closing_minor=closing,
        first_seq=before + 1 if last > before else None,
        last_seq=last if last > before else None,
    )
