"""Usage records summed up by hour, day, token or field set.

The sums are made from the records at each request, so they are never behind and never differ
from the list. What bounds them: a period of at most 366 days, a page of groups, and the index on
grant and time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from contracts import grants
from contracts.agreements import READERS, get_agreement
from contracts.usage_schemas import UsageGroup, UsageGrouping
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor
from settlement.errors import PeriodInvalid

if TYPE_CHECKING:
    from asyncpg import Record

PERIOD_DEFAULT = timedelta(days=30)
PERIOD_MAX = timedelta(days=366)


class _Key(NamedTuple):
    """How deliveries are grouped: expression, its type, and how a cursor's text becomes one."""

    sql: str
    type: str
    read: Callable[[str], object]


_KEYS = {
    UsageGrouping.HOUR: _Key(
        "date_trunc('hour', d.delivered_at, 'UTC')", "timestamptz", datetime.fromisoformat
    ),
    UsageGrouping.DAY: _Key(
        "date_trunc('day', d.delivered_at, 'UTC')", "timestamptz", datetime.fromisoformat
    ),
    UsageGrouping.TOKEN: _Key("d.token_id", "uuid", UUID),
    # A cursor is short, a field set need not be.
    UsageGrouping.FIELDS: _Key(
        "coalesce(sha256(convert_to(d.fields::text, 'UTF8')), '')", "bytea", bytes.fromhex
    ),
}
# What a reader may see, of the period and the grants asked for.
SELECTED = """
FROM contracts.delivery d JOIN contracts.access_grant g ON g.id = d.grant_id
WHERE d.delivered_at >= $1 AND d.delivered_at < $2
  AND ($3::uuid IS NULL OR g.buyer_id = $3 OR g.seller_id = $3)
  AND ($4::uuid IS NULL OR d.grant_id = $4)
  AND ($5::uuid IS NULL OR d.agreement_id = $5)
"""


def _query(key: _Key) -> str:
    return f"""
SELECT key, count(*) AS deliveries, sum(units)::bigint AS units, sum(row_count)::bigint AS rows,
       sum(byte_count)::bigint AS bytes,
       coalesce(sum(units) FILTER (WHERE assumed), 0)::bigint AS assumed_units,
       CASE WHEN min(unit) = max(unit) THEN min(unit) END AS unit,
       min(fields::text) AS fields, min(delivered_at) AS first_at, max(delivered_at) AS last_at
FROM (SELECT {key.sql} AS key, g.unit, d.* {SELECTED}) d
WHERE $6::{key.type} IS NULL OR key > $6::{key.type}
GROUP BY key ORDER BY key LIMIT $7
"""  # noqa: S608 - constants of this file


_QUERIES = {grouping: _query(key) for grouping, key in _KEYS.items()}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which usage records: a period and, if stated, one grant or agreement."""

    start: datetime | None = None
    end: datetime | None = None
    grant_id: UUID | None = None
    agreement_id: UUID | None = None


async def selected(uow: UnitOfWork, actor: Actor, wanted: Selection) -> tuple[Any, ...]:
    """The first five parameters of a query over ``SELECTED``.

    The period ends now and begins 30 days before its end unless stated. Raises PeriodInvalid
    (422), GrantNotFound and AgreementNotFound (404, also for those of strangers).
    """
    start, end = _period(wanted, uow.now)
    if not start < end or end - start > PERIOD_MAX:
        raise PeriodInvalid(
            f"The period has an end after its beginning, and at most {PERIOD_MAX.days} days.",
            param="from",
        )
    if wanted.grant_id is not None:
        await grants.find(uow, wanted.grant_id, actor)
    if wanted.agreement_id is not None:
        await get_agreement(uow, wanted.agreement_id, actor)
    party = None if actor.has(*READERS) else actor.party_id
    return (start, end, party, wanted.grant_id, wanted.agreement_id)


def _period(wanted: Selection, now: datetime) -> tuple[datetime, datetime]:
    try:
        end = (wanted.end or now).astimezone(UTC)
        return (wanted.start or end - PERIOD_DEFAULT).astimezone(UTC), end
    except OverflowError as error:
        raise PeriodInvalid("No database can hold this time.", param="from") from error


async def usage_groups(
    kernel: Kernel, actor: Actor, wanted: Selection, grouping: UsageGrouping, *, page: PageQuery
) -> Page[UsageGroup]:
    """Sums of the actor's usage as buyer or seller, oldest group first; overseers see all.

    Raises as :func:`selected`, and BadCursor (422).
    """
    await grants.settle_buffered(kernel)
    after = _after(page, _KEYS[grouping])
    async with kernel.unit_of_work() as uow:
        parameters = await selected(uow, actor, wanted)
        connection = await uow.raw()
        rows = await connection.fetch(_QUERIES[grouping], *parameters, after, page.limit + 1)
    return Page[UsageGroup].of(
        [_group(row, grouping) for row in rows], page.limit, [(_text(row["key"]),) for row in rows]
    )


def _after(page: PageQuery, key: _Key) -> object:
    parts = page.key(1)
    if parts is None:
        return None
    try:
        value = key.read(parts[0])
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise BadCursor(param="after")
            value = value.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadCursor(param="after") from error
    return value


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.hex()
    return key.isoformat() if isinstance(key, datetime) else str(key)


def _group(row: Record, grouping: UsageGrouping) -> UsageGroup:
    by_time = grouping in (UsageGrouping.HOUR, UsageGrouping.DAY)
    fields: list[str] | None = None
    if grouping is UsageGrouping.FIELDS:
        fields = orjson.loads(row["fields"] or "[]")
    return UsageGroup(
        starts_at=row["key"] if by_time else None,
        token_id=row["key"] if grouping is UsageGrouping.TOKEN else None,
        fields=fields,
        unit=row["unit"],
        deliveries=row["deliveries"],
        units=row["units"],
        rows=row["rows"],
        bytes=row["bytes"],
        assumed_units=row["assumed_units"],
        first_at=row["first_at"],
        last_at=row["last_at"],
    )
