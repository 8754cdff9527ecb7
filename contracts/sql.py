"""Raw SQL of the meter's hot paths and of bulk formation.

The figures: an ORM flush of many rows is 10x slower than ``unnest`` and a point read 2.3 ms
against 0.23 ms (style.md, trap 7); batched settling reached 43,167 deliveries/s on one
connection (delivery.md §3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from market.kernel.bulk import BulkTable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]
    Row = asyncpg.Record

_GRANT = (
    "id, agreement_id, unit, granted_units, reserved_units, settled_units, delivery_count, "
    "receipt_head, gen, status, expires_at, resold_from, granted_units - reserved_units "
    "- settled_units - offered_units - resold_units AS free_units"
)

# Columns of ``insert_agreements`` rows, in order.
AGREEMENT_COLUMNS = (
    "id",
    "trade_id",
    "buy_order_id",
    "sell_order_id",
    "listing_id",
    "product_id",
    "version_id",
    "plan_id",
    "certificate_id",
    "buyer_id",
    "seller_id",
    "kind",
    "status",
    "lots",
    "price_minor",
    "total_minor",
    "currency",
    "unit",
    "lot_units",
    "granted_units",
    "fee_ppm",
    "terms",
    "terms_sha256",
    "jws",
    "formed_at",
    "acceptance_due_at",
    "expires_at",
    "released_minor",
    "refunded_minor",
    "disputed_minor",
)
_AGREEMENTS = BulkTable(
    "contracts.agreement",
    AGREEMENT_COLUMNS,
    "uuid uuid uuid uuid uuid uuid uuid uuid uuid uuid uuid text text bigint bigint bigint text "
    "text bigint bigint int jsonb text text timestamptz timestamptz timestamptz bigint bigint "
    "bigint",
)
_STEPS = BulkTable(
    "contracts.agreement_step",
    ("id", "agreement_id", "status", "reason", "at"),
    "uuid uuid text text timestamptz",
)
# Columns of ``insert_grants`` rows, in order.
GRANT_COLUMNS = (
    "id",
    "agreement_id",
    "buyer_id",
    "seller_id",
    "product_id",
    "product_version_id",
    "unit",
    "granted_units",
    "created_at",
    "expires_at",
    "status",
    "reserved_units",
    "settled_units",
    "accrued_units",
    "delivery_count",
    "receipt_head",
    "gen",
    "resold_from",
)
_GRANTS = BulkTable(
    "contracts.access_grant",
    GRANT_COLUMNS,
    "uuid uuid uuid uuid uuid uuid text bigint timestamptz timestamptz text bigint bigint bigint "
    "bigint text bigint uuid",
)


async def lock_grant(connection: Connection, grant_id: UUID, *, share: bool = False) -> Row | None:
    """One entitlement, locked; ``share`` waits for a change under way without excluding readers.

    Justified by ``make bench-meter``: once per lease or per freshness window, on the read path.
    """
    mode = "SHARE" if share else "UPDATE"
    return await connection.fetchrow(
        f"SELECT {_GRANT} FROM contracts.access_grant WHERE id = $1 FOR {mode}", grant_id
    )


async def lock_grants(connection: Connection, ids: Sequence[UUID]) -> list[Row]:
    """Entitlements of a batch, locked in id order. Once per flush (``make bench-meter``)."""
    return list(
        await connection.fetch(
            f"SELECT {_GRANT} FROM contracts.access_grant WHERE id = ANY($1) "
            "ORDER BY id FOR UPDATE",
            list(ids),
        )
    )


async def next_token_end_ms(connection: Connection, grant_id: UUID) -> int | None:
    """Milliseconds until the first of the grant's replaced tokens ends; None: there is none."""
    found: int | None = await connection.fetchval(
        "SELECT ceil(extract(epoch FROM min(ends_at) - kernel.market_now()) * 1000)::bigint "
        "FROM contracts.delivery_token WHERE grant_id = $1 AND revoked_at IS NULL "
        "AND ends_at > kernel.market_now()",
        grant_id,
    )
    return found


async def revoked_tokens(connection: Connection, grant_id: UUID) -> list[str]:
    """Hex ids of the grant's revoked and replaced tokens that have not expired by themselves."""
    rows = await connection.fetch(
        "SELECT id FROM contracts.delivery_token WHERE grant_id = $1 "
        "AND (revoked_at IS NOT NULL OR ends_at <= kernel.market_now()) "
        "AND expires_at > kernel.market_now()",
        grant_id,
    )
    return [row["id"].hex for row in rows]


async def active_lease(connection: Connection, grant_id: UUID) -> Row | None:
    """The lease that serves a (locked) grant."""
    return await connection.fetchrow(
        "SELECT id, nonce, units, settled_units FROM contracts.lease "
        "WHERE grant_id = $1 AND state = 'active'",
        grant_id,
    )


async def draining_until(connection: Connection, grant_id: UUID) -> int | None:
    """Whole seconds until the grant's last draining lease gives its units back, or None."""
    found: int | None = await connection.fetchval(
        "SELECT ceil(extract(epoch FROM max(drain_until) - clock_timestamp()))::int "
        "FROM contracts.lease WHERE grant_id = $1 AND state = 'draining' "
        "AND units > settled_units",
        grant_id,
    )
    return None if found is None else max(1, found)


async def open_lease(
    connection: Connection, lease_id: UUID, grant_id: UUID, *, nonce: str, units: int
) -> None:
    """Lend ``units`` of a locked grant to a new lease."""
    await connection.execute(
        "INSERT INTO contracts.lease (id, grant_id, nonce, units, settled_units, state, "
        "opened_at, touched_at) VALUES ($1, $2, $3, $4, 0, 'active', clock_timestamp(), "
        "clock_timestamp())",
        lease_id,
        grant_id,
        nonce,
        units,
    )
    await _reserve(connection, grant_id, units)


async def extend_lease(
    connection: Connection, lease_id: UUID, grant_id: UUID, *, units: int
) -> None:
    """Lend ``units`` more of a locked grant to its active lease."""
    await connection.execute(
        "UPDATE contracts.lease SET units = units + $2, touched_at = clock_timestamp() "
        "WHERE id = $1",
        lease_id,
        units,
    )
    await _reserve(connection, grant_id, units)


async def _reserve(connection: Connection, grant_id: UUID, units: int) -> None:
    await connection.execute(
        "UPDATE contracts.access_grant SET reserved_units = reserved_units + $2 WHERE id = $1",
        grant_id,
        units,
    )


async def drain_lease(connection: Connection, lease_id: UUID, *, grace_s: int) -> None:
    """Stop serving from a lease; it still takes records for ``grace_s``."""
    await connection.execute(
        "UPDATE contracts.lease SET state = 'draining', "
        "drain_until = clock_timestamp() + make_interval(secs => $2) "
        "WHERE id = $1 AND state = 'active'",
        lease_id,
        float(grace_s),
    )


async def close_lease(connection: Connection, lease_id: UUID, grant_id: UUID) -> bool:
    """Give a draining lease's unused units back to its (locked) grant. False: not draining."""
    unused: int | None = await connection.fetchval(
        "UPDATE contracts.lease SET state = 'closed', drain_until = NULL "
        "WHERE id = $1 AND state = 'draining' RETURNING units - settled_units",
        lease_id,
    )
    if unused:
        await _reserve(connection, grant_id, -unused)
    return unused is not None


async def leases_to_end(connection: Connection, *, idle_s: int, limit: int) -> list[Row]:
    """Leases to drain (idle, or of an ended grant) and drained ones whose time is over.

    Background job, on the partial index ``lease_open``.
    """
    return list(
        await connection.fetch(
            "SELECT l.id, l.grant_id, l.state FROM contracts.lease l "
            "JOIN contracts.access_grant g ON g.id = l.grant_id "
            "WHERE (l.state = 'draining' AND l.drain_until < clock_timestamp()) "
            "OR (l.state = 'active' AND (g.status IN ('revoked', 'expired', 'exhausted') "
            "OR l.touched_at < clock_timestamp() - make_interval(secs => $1))) "
            "ORDER BY l.touched_at LIMIT $2",
            float(idle_s),
            limit,
        )
    )


async def grants_in_use(connection: Connection, *, window_s: int, limit: int) -> list[UUID]:
    """Grants whose leases were touched within ``window_s``: where facts may lie in the cache.

    In random order: with more of them than ``limit``, each has its turn.
    """
    rows = await connection.fetch(
        "SELECT grant_id FROM contracts.lease WHERE state <> 'closed' "
        "AND touched_at > clock_timestamp() - make_interval(secs => $1) "
        "GROUP BY grant_id ORDER BY random() LIMIT $2",
        float(window_s),
        limit,
    )
    return [row["grant_id"] for row in rows]


async def agreements_to_accrue(connection: Connection, *, limit: int) -> list[UUID]:
    """Agreements with use that has not been turned into money; not while disputed."""
    return await _ids(
        connection,
        "SELECT a.id FROM contracts.access_grant g JOIN contracts.agreement a "
        "ON a.id = g.agreement_id WHERE g.settled_units + g.resold_units > g.accrued_units "
        "AND a.status NOT IN ('objected', 'disputed') ORDER BY a.id LIMIT $1",
        limit,
    )


async def agreements_expiring(connection: Connection, *, limit: int) -> list[UUID]:
    """Agreements whose grant's term is over while its status does not say so."""
    return await _ids(
        connection,
        "SELECT agreement_id FROM contracts.access_grant "
        "WHERE status IN ('active', 'suspended', 'exhausted') "
        "AND expires_at <= kernel.market_now() ORDER BY agreement_id LIMIT $1",
        limit,
    )


async def agreements_past_window(connection: Connection, *, limit: int) -> list[UUID]:
    """Licenses that nobody objected to within the acceptance window."""
    return await _ids(
        connection,
        "SELECT id FROM contracts.agreement WHERE kind = 'license' "
        "AND status IN ('active', 'delivered') AND acceptance_due_at <= kernel.market_now() "
        "AND ending IS NULL ORDER BY id LIMIT $1",
        limit,
    )


async def agreements_to_close_out(connection: Connection, *, limit: int) -> list[UUID]:
    """Agreements whose grant has ended with every lease closed; not while disputed."""
    return await _ids(
        connection,
        "SELECT a.id FROM contracts.access_grant g JOIN contracts.agreement a "
        "ON a.id = g.agreement_id WHERE g.closed_out_at IS NULL "
        "AND g.status IN ('expired', 'revoked') "
        "AND a.status NOT IN ('objected', 'disputed', 'ruled') "
        "AND NOT EXISTS (SELECT 1 FROM contracts.lease l WHERE l.grant_id = g.id "
        "AND l.state <> 'closed') ORDER BY a.id LIMIT $1",
        limit,
    )


async def _ids(connection: Connection, query: str, limit: int) -> list[UUID]:
    return [row[0] for row in await connection.fetch(query, limit)]


async def known_deliveries(
    connection: Connection, grant_ids: Sequence[UUID], keys: Sequence[str]
) -> dict[tuple[UUID, str], str]:
    """Those (grant, Delivery-Id) pairs that are durable already, with the query's digest."""
    rows = await connection.fetch(
        "SELECT d.grant_id, d.delivery_key, d.query_sha256 "
        "FROM unnest($1::uuid[], $2::text[]) AS k(g, d_key) "
        "JOIN contracts.delivery d ON d.grant_id = k.g AND d.delivery_key = k.d_key",
        list(grant_ids),
        list(keys),
    )
    return {(row["grant_id"], row["delivery_key"]): row["query_sha256"] for row in rows}


async def leases_of(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Leases by id; their grants are locked."""
    rows = await connection.fetch(
        "SELECT id, units, settled_units, state FROM contracts.lease WHERE id = ANY($1)",
        list(ids),
    )
    return {row["id"]: row for row in rows}


async def insert_deliveries(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """One statement per flush; the key's uniqueness is the last guard against double billing."""
    await connection.execute(
        "INSERT INTO contracts.delivery (id, grant_id, agreement_id, lease_id, token_id, "
        "receipt_id, delivery_key, query_sha256, format, units, row_count, byte_count, "
        "body_sha256, complete, delivered_at, assumed, fields, page_sequence, page_after, "
        "page_until, client_address) "
        "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], "
        "$6::uuid[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], "
        "$12::bigint[], $13::text[], $14::boolean[], $15::timestamptz[], $16::boolean[], "
        "$17::jsonb[], $18::text[], $19::bigint[], $20::bigint[], $21::text[])",
        *_columns(rows, 21),
    )


async def insert_receipts(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """One statement per flush."""
    await connection.execute(
        "INSERT INTO contracts.receipt (id, agreement_id, delivery_id, seq, prev_sha256, sha256, "
        "jws, issued_at) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], "
        "$5::text[], $6::text[], $7::text[], $8::timestamptz[])",
        *_columns(rows, 8),
    )


async def settle_leases(connection: Connection, rows: Sequence[tuple[UUID, int]]) -> None:
    """Add used units to leases: (lease, units)."""
    await connection.execute(
        "UPDATE contracts.lease l SET settled_units = l.settled_units + u.units, "
        "touched_at = clock_timestamp() "
        "FROM unnest($1::uuid[], $2::bigint[]) AS u(id, units) WHERE l.id = u.id",
        *_columns(rows, 2),
    )


async def settle_grants(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Move units from reserved to settled: (grant, settled, unreserved, deliveries, head)."""
    await connection.execute(
        "UPDATE contracts.access_grant g SET "
        "settled_units = g.settled_units + u.settled, "
        "reserved_units = g.reserved_units - u.unreserved, "
        "delivery_count = g.delivery_count + u.deliveries, receipt_head = u.head, "
        "status = CASE WHEN g.status = 'active' "
        "AND g.settled_units + u.settled + g.resold_units = g.granted_units THEN 'exhausted' "
        "ELSE g.status END "
        "FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) "
        "AS u(id, settled, unreserved, deliveries, head) WHERE g.id = u.id",
        *_columns(rows, 5),
    )


async def insert_agreements(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Agreements of a matching batch (``make bench``: matching, durable)."""
    await _AGREEMENTS.insert(connection, rows)


async def insert_steps(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """History of a matching batch's agreements."""
    await _STEPS.insert(connection, rows)


async def insert_grants(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Grants of a matching batch."""
    await _GRANTS.insert(connection, rows)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]
