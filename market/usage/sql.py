"""What the watch over use reads; each query is about the grants that were used lately."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from market.usage.watch import Newcomer, Reader, Volume, Walk

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

GRANTS_MAX = 200
WALKS_MAX = 1_000
ADDRESSES_MAX = 20_000

# In random order: with more of them than the limit, each has its turn.
_USED = """
SELECT g.id, g.agreement_id, a.plan_id, g.buyer_id, g.seller_id
FROM contracts.access_grant g JOIN contracts.agreement a ON a.id = g.agreement_id
WHERE g.id IN (SELECT d.grant_id FROM contracts.delivery d WHERE d.delivered_at > $1)
ORDER BY random() LIMIT $2
"""
_VOLUMES = """
SELECT h.grant_id, g.unit, coalesce(sum(h.units) FILTER (WHERE NOT h.earlier), 0)::bigint AS units,
       coalesce(max(h.units) FILTER (WHERE h.earlier), 0)::bigint AS busiest,
       count(*) FILTER (WHERE h.earlier) AS hours
FROM (SELECT d.grant_id, d.delivered_at <= $2 AS earlier, sum(d.units) AS units
      FROM contracts.delivery d
      WHERE d.grant_id = ANY ($1) AND d.delivered_at > $3
      GROUP BY 1, 2, CASE WHEN d.delivered_at <= $2
                     THEN floor(extract(epoch FROM $2 - d.delivered_at) / 3600) END) h
JOIN contracts.access_grant g ON g.id = h.grant_id
GROUP BY h.grant_id, g.unit
"""
# A page counts once however often it is read, and only at the beginning or behind another one.
_WALKS = """
WITH page AS (
    SELECT DISTINCT ON (d.grant_id, d.page_sequence, d.page_after)
           d.grant_id, d.page_sequence, d.page_after, d.page_until, d.row_count,
           v.row_count AS whole
    FROM contracts.delivery d
    JOIN contracts.access_grant g ON g.id = d.grant_id
    JOIN listings.product_version v ON v.id = g.product_version_id
    WHERE d.grant_id = ANY ($1) AND d.delivered_at > $2 AND d.complete
      AND d.page_sequence IS NOT NULL
    ORDER BY d.grant_id, d.page_sequence, d.page_after, d.row_count DESC)
SELECT p.grant_id, count(*) AS pages, sum(p.row_count)::bigint AS rows, max(p.whole) AS whole
FROM page p
WHERE p.page_after IS NULL OR EXISTS (
    SELECT FROM page before WHERE before.grant_id = p.grant_id
    AND before.page_sequence = p.page_sequence AND before.page_until = p.page_after)
GROUP BY p.grant_id, p.page_sequence ORDER BY rows DESC LIMIT $3
"""
_NEWCOMERS = """
SELECT n.grant_id, n.address, n.at,
       (SELECT count(*) FROM contracts.delivery e
        WHERE e.grant_id = n.grant_id AND e.delivered_at < n.at
        AND e.client_address <> n.address) AS earlier
FROM (SELECT d.grant_id, d.client_address AS address, min(d.delivered_at) AS at
      FROM contracts.delivery d
      WHERE d.grant_id = ANY ($1) AND d.client_address IS NOT NULL AND d.delivered_at > $2
      GROUP BY 1, 2) n
WHERE NOT EXISTS (
    SELECT FROM contracts.delivery o WHERE o.grant_id = n.grant_id AND o.delivered_at <= $2
    AND o.client_address = n.address)
ORDER BY n.at LIMIT $3
"""

# Those used most first: with more of them than the limit, the rare ones are forgotten.
_ADDRESSES = """
SELECT d.grant_id, d.client_address AS address, count(*) AS deliveries
FROM contracts.delivery d
WHERE d.grant_id = ANY ($1) AND d.client_address IS NOT NULL AND d.delivered_at <= $2
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT $3
"""


async def read_used(connection: Connection, since: datetime) -> dict[UUID, Reader]:
    """Grants that were used since, at most 200."""
    rows = await connection.fetch(_USED, since, GRANTS_MAX)
    return {row["id"]: Reader(*row.values()) for row in rows}


async def read_volumes(
    connection: Connection,
    readers: dict[UUID, Reader],
    *,
    now: datetime,
    since: datetime,
    history: datetime,
) -> list[Volume]:
    """Units since ``since``, and by whole hours before it back to ``history``."""
    rows = await connection.fetch(_VOLUMES, list(readers), since, history)
    return [
        Volume(
            *(readers[row["grant_id"]], now, row["unit"]),
            *(row["units"], row["busiest"], row["hours"]),
        )
        for row in rows
    ]


async def read_walks(
    connection: Connection, readers: dict[UUID, Reader], *, now: datetime, since: datetime
) -> list[Walk]:
    """Pages since ``since`` by query, those with most rows first."""
    rows = await connection.fetch(_WALKS, list(readers), since, WALKS_MAX)
    return [
        Walk(readers[row["grant_id"]], now, row["pages"], row["rows"], row["whole"]) for row in rows
    ]


async def read_newcomers(
    connection: Connection, readers: dict[UUID, Reader], *, since: datetime
) -> Sequence[Newcomer]:
    """Addresses first seen since ``since``."""
    rows = await connection.fetch(_NEWCOMERS, list(readers), since, WALKS_MAX)
    return [
        Newcomer(readers[row["grant_id"]], row["at"], row["address"], row["earlier"])
        for row in rows
    ]


async def read_addresses(
    connection: Connection, grant_ids: Collection[UUID], *, until: datetime
) -> dict[UUID, dict[str, int]]:
    """Deliveries until then by grant and address."""
    found: dict[UUID, dict[str, int]] = {grant_id: {} for grant_id in grant_ids}
    for row in await connection.fetch(_ADDRESSES, list(found), until, ADDRESSES_MAX):
        found[row["grant_id"]][row["address"]] = row["deliveries"]
    return found
