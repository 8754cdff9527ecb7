"""Monthly invoices from what was released: sellers' to buyers, the exchange's to sellers.

Months are those of UTC. The job invoices the oldest month that is over and not done, in bounded
steps; each line's ``source_key`` is unique in the database, so an agreement's month cannot be
invoiced twice, however often the job runs. Money that was refunded from escrow was never released
and so is never invoiced; money paid back later has a credit note.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlmodel import col, select

from contracts.schemas import Terms
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import LocalizedText
from settlement import invoices
from settlement.billing_models import EXCHANGE, Supply
from settlement.monthly import GRACE, midnight, next_month
from settlement.tax import contained_in_step

if TYPE_CHECKING:
    from asyncpg import Connection, Record

CURSOR = "contracts.invoicing"
# Invoices per run; the next run goes on where this one stopped.
BATCH = 50
FEE_ITEM = {"en": "Exchange service fee", "zh": "交易服务费"}
# What of the month is not on an invoice yet; $3 is the supply, $4 the month.
_OPEN = """
FROM contracts.release_record r
WHERE r.released_at >= $1 AND r.released_at < $2
  AND ($3::text = 'data' OR r.fee_minor > 0)
  AND NOT EXISTS (SELECT 1 FROM settlement.invoice_line l WHERE l.source_key =
      $3::text || ':' || replace(r.agreement_id::text, '-', '') || ':' || $4::text)
"""
_GROUPS = f"""
SELECT DISTINCT r.seller_id, r.currency,
       CASE WHEN $3::text = 'data' THEN r.buyer_id END AS buyer_id {_OPEN}
ORDER BY r.seller_id, r.currency, buyer_id LIMIT $5
"""
_LINES = f"""
SELECT r.agreement_id, a.terms, a.listing_id, m.amount, m.fee, m.before, m.fee_before
FROM (SELECT DISTINCT r.agreement_id {_OPEN}
      AND r.seller_id = $5 AND r.currency = $6 AND ($7::uuid IS NULL OR r.buyer_id = $7)
      ORDER BY r.agreement_id LIMIT $8) r
JOIN contracts.agreement a ON a.id = r.agreement_id
CROSS JOIN LATERAL (
    SELECT sum(x.amount_minor)::bigint AS amount, sum(x.fee_minor)::bigint AS fee,
           min(x.released_before_minor) AS before, min(x.fee_before_minor) AS fee_before
    FROM contracts.release_record x WHERE x.agreement_id = r.agreement_id
      AND x.released_at >= $1 AND x.released_at < $2) m
ORDER BY r.agreement_id
"""  # noqa: S608 - constants of this file


@dataclass(frozen=True, slots=True)
class _Group:
    """Whom one invoice is between; ``buyer_id`` None for the exchange's fee."""

    supply: Supply
    first: date
    seller_id: UUID
    buyer_id: UUID | None
    currency: str

    @property
    def range(self) -> tuple[Any, ...]:
        """The first four parameters of the queries."""
        return _range(self.first, self.supply)


async def issue_invoices(kernel: Kernel) -> int:
    """Issue up to 100 invoices of the oldest month that is over; give how many.

    Effects: invoices with their events; the month is ticked off when nothing is left of it.
    """
    async with kernel.unit_of_work() as uow:
        first = await _due(uow)
        groups = [] if first is None else await _groups(await uow.raw(), first)
        if first is not None and not groups:
            await _tick_off(uow, first)
    issued = 0
    for group in groups:
        async with kernel.unit_of_work() as uow:
            issued += await _issue(uow, kernel, group)
    return issued


async def _due(uow: UnitOfWork) -> date | None:
    connection = await uow.raw()
    done: str | None = await connection.fetchval(
        "SELECT position FROM settlement.job_cursor WHERE name = $1", CURSOR
    )
    if done is not None:
        first = next_month(date.fromisoformat(done))
    else:
        oldest = await connection.fetchval("SELECT min(released_at) FROM contracts.release_record")
        if oldest is None:
            return None
        first = oldest.astimezone(UTC).date().replace(day=1)
    return first if uow.now >= midnight(next_month(first)) + GRACE else None


async def _tick_off(uow: UnitOfWork, first: date) -> None:
    await (await uow.raw()).execute(
        "INSERT INTO settlement.job_cursor (name, position) VALUES ($1, $2) "
        "ON CONFLICT (name) DO UPDATE SET position = greatest(job_cursor.position, $2)",
        CURSOR,
        first.isoformat(),
    )


async def _groups(connection: Connection[Any], first: date) -> list[_Group]:
    found = []
    for supply in Supply:
        rows = await connection.fetch(_GROUPS, *_range(first, supply), BATCH)
        found += [
            _Group(supply, first, row["seller_id"], row["buyer_id"], row["currency"])
            for row in rows
        ]
    return found


def _range(first: date, supply: Supply) -> tuple[Any, ...]:
    return (midnight(first), midnight(next_month(first)), supply.value, f"{first:%Y-%m}")


async def _issue(uow: UnitOfWork, kernel: Kernel, group: _Group) -> int:
    connection = await uow.raw()
    # Two runs at once would find the same lines; the second waits, and then finds none.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", CURSOR)
    rows = await connection.fetch(
        _LINES,
        *group.range,
        group.seller_id,
        group.currency,
        group.buyer_id,
        invoices.LINES_MAX,
    )
    if not rows:
        return 0
    titles = await _titles(uow, {row["listing_id"] for row in rows})
    issuer, recipient = group.seller_id, group.buyer_id
    if recipient is None:
        issuer, recipient = EXCHANGE, group.seller_id
    draft = invoices.Draft(
        supply=group.supply,
        issuer_id=issuer,
        recipient_id=recipient,
        currency=group.currency,
        period_start=group.first,
        period_end=next_month(group.first),
        lines=[_line(kernel, group, row, titles) for row in rows],
    )
    await invoices.issue(uow, kernel, draft)
    return 1


def _line(
    kernel: Kernel, group: _Group, row: Record, titles: dict[UUID, dict[str, Any]]
) -> invoices.Line:
    terms = Terms.model_validate(row["terms"])
    if group.supply is Supply.DATA:
        rate = 0 if terms.tax is None else terms.tax.rate_ppm
        taxed = contained_in_step(row["before"], row["amount"], rate)
        item = titles[row["listing_id"]]
    else:
        rate = kernel.settings.platform_vat_ppm if terms.fee is None else terms.fee.vat_ppm
        taxed = contained_in_step(row["fee_before"], row["fee"], rate)
        item = FEE_ITEM
    key = f"{group.supply.value}:{row['agreement_id'].hex}:{group.first:%Y-%m}"
    return invoices.Line(row["agreement_id"], item, rate, taxed, key)


async def _titles(uow: UnitOfWork, ids: set[UUID]) -> dict[UUID, dict[str, Any]]:
    query = select(Listing.id, Listing.title).where(col(Listing.id).in_(ids))
    return {
        listing_id: LocalizedText.model_validate(title).model_dump()
        for listing_id, title in await uow.session.exec(query)
    }
