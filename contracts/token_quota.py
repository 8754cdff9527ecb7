"""A token's own quota: a part of its grant that it may take, exact through crashes.

Units are set aside in Postgres before the meter reserves them, by one conditional update, and
billed in the transaction that makes their usage record durable. So what is billed under a quota
never passes it, whatever is lost: the cache, the process, or both. A hold of a dead process is
given back when no record of its delivery can come any more. Tokens without a quota of their own
never come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from contracts import sql
from contracts.errors import MeterRecovering, TokenQuotaExhausted
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from market.kernel.logging import get_logger

if TYPE_CHECKING:
    from contracts.metering_records import Fact

# How long after its end a hold's record may still come: as for leases.
GRACE_S = 10

_log = get_logger("contracts.token_quota")


@dataclass(frozen=True, slots=True)
class QuotaHold:
    """Units of ``quota_id`` that are set aside for one delivery."""

    id: UUID
    quota_id: UUID

    @classmethod
    def of(cls, values: dict[str, Any] | None) -> QuotaHold | None:
        """From its JSON form."""
        return None if values is None else cls(UUID(values["id"]), UUID(values["quota_id"]))


async def take(
    kernel: Kernel, quota_id: UUID, *, key: str, units: int, hold_s: int
) -> tuple[QuotaHold, int] | None:
    """Set ``units`` > 0 aside for the delivery ``key``; with them, what remains of the quota.

    None: ``key`` is being delivered, or was and is not durable yet. Raises TokenQuotaExhausted
    (402), or MeterRecovering (503) while holds of a dead process are in the way.
    """
    hold = QuotaHold(new_id(), quota_id)
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        remaining: int | None = await connection.fetchval(
            "WITH taken AS (UPDATE contracts.token_quota SET held_units = held_units + $2 "
            "WHERE id = $1 AND used_units + held_units + $2 <= quota_units "
            "RETURNING id, quota_units - used_units - held_units AS remaining), "
            "held AS (INSERT INTO contracts.token_quota_hold "
            "(id, quota_id, delivery_key, units, ends_at) SELECT $3, id, $4, $2, "
            "clock_timestamp() + make_interval(secs => $5) FROM taken) "
            "SELECT remaining FROM taken",
            *(quota_id, units, hold.id, key, float(hold_s)),
        )
        if remaining is not None:
            return hold, remaining
        row = await connection.fetchrow(
            "SELECT q.quota_units - q.used_units - q.held_units AS free, "
            "coalesce(sum(h.units) FILTER (WHERE h.ends_at <= clock_timestamp()), 0)::bigint "
            "AS overdue, bool_or(h.delivery_key = $2) AS running, g.unit "
            "FROM contracts.token_quota q JOIN contracts.access_grant g ON g.id = q.grant_id "
            "LEFT JOIN contracts.token_quota_hold h ON h.quota_id = q.id "
            "WHERE q.id = $1 GROUP BY q.id, g.id",
            *(quota_id, key),
        )
    assert row is not None
    if row["running"]:
        return None
    free = int(row["free"])
    if free + row["overdue"] >= units:
        raise MeterRecovering(retry_after_s=GRACE_S, remaining=free)
    raise TokenQuotaExhausted(
        f"{free} units ({row['unit']}) are left of the token's quota.",
        remaining=free,
        unit=row["unit"],
    )


async def give_back(kernel: Kernel, hold: QuotaHold) -> None:
    """Nothing was delivered. A database in trouble leaves the hold to the sweeper."""
    try:
        async with kernel.unit_of_work() as uow:
            await _end(await uow.raw(), hold.quota_id, [hold.id])
    except (MarketError, OSError) as error:
        _log.warning("quota_not_given_back", quota=hold.quota_id.hex, error=str(error))


async def overdue(connection: sql.Connection, *, limit: int) -> list[tuple[UUID, UUID]]:
    """(grant, quota) pairs with holds that no record will claim any more."""
    rows = await connection.fetch(
        "SELECT DISTINCT q.grant_id, q.id FROM contracts.token_quota_hold h "
        "JOIN contracts.token_quota q ON q.id = h.quota_id "
        "WHERE h.ends_at < clock_timestamp() - make_interval(secs => $1) LIMIT $2",
        float(GRACE_S),
        limit,
    )
    return [(row["grant_id"], row["id"]) for row in rows]


async def end_overdue(connection: sql.Connection, quota_id: UUID) -> int:
    """Give the units of a quota's overdue holds back; the number of holds."""
    rows = await connection.fetch(
        "SELECT id FROM contracts.token_quota_hold WHERE quota_id = $1 "
        "AND ends_at < clock_timestamp() - make_interval(secs => $2)",
        quota_id,
        float(GRACE_S),
    )
    return await _end(connection, quota_id, [row["id"] for row in rows])


async def _end(connection: sql.Connection, quota_id: UUID, holds: Sequence[UUID]) -> int:
    # The quota first, as everywhere: who waits for a hold must not have what another waits for.
    await connection.execute("SELECT FROM contracts.token_quota WHERE id = $1 FOR UPDATE", quota_id)
    freed = await connection.fetch(
        "DELETE FROM contracts.token_quota_hold WHERE id = ANY($1) RETURNING units", list(holds)
    )
    if freed:
        await connection.execute(
            "UPDATE contracts.token_quota SET held_units = held_units - $2 WHERE id = $1",
            quota_id,
            sum(row["units"] for row in freed),
        )
    return len(freed)


@dataclass(slots=True)
class _Room:
    """What a batch changes about one quota. ``free``: neither used nor set aside."""

    free: int
    used: int = 0
    freed: int = 0


class QuotaBatch:
    """The quotas of a batch of records, locked. Empty, and no query, without such tokens."""

    def __init__(self, rooms: dict[UUID, _Room], holds: dict[UUID, int]) -> None:
        self._rooms = rooms
        self._holds = holds
        self._ended: list[UUID] = []

    @classmethod
    async def lock(cls, connection: sql.Connection, facts: Sequence[Fact]) -> QuotaBatch:
        """Call with the grants locked: quotas come after them, in id order."""
        holds = [fact.quota for fact in facts if fact.quota is not None]
        if not holds:
            return cls({}, {})
        rooms = await connection.fetch(
            "SELECT id, quota_units - used_units - held_units AS free FROM contracts.token_quota "
            "WHERE id = ANY($1) ORDER BY id FOR UPDATE",
            list({hold.quota_id for hold in holds}),
        )
        held = await connection.fetch(
            "SELECT id, units FROM contracts.token_quota_hold WHERE id = ANY($1)",
            [hold.id for hold in holds],
        )
        return cls(
            {row["id"]: _Room(row["free"]) for row in rooms},
            {row["id"]: row["units"] for row in held},
        )

    def most(self, fact: Fact) -> int:
        """What may be billed of the fact: all of it, unless its hold was swept meanwhile."""
        room = self._rooms.get(fact.quota.quota_id) if fact.quota else None
        if fact.quota is None or room is None:
            return fact.units
        return min(fact.units, self._holds.get(fact.quota.id, 0) + room.free)

    def settle(self, fact: Fact, units: int) -> None:
        """``units`` of the fact are billed; its hold ends. 0 for a record that is there already."""
        room = self._rooms.get(fact.quota.quota_id) if fact.quota else None
        if fact.quota is None or room is None:
            return
        held = self._holds.pop(fact.quota.id, 0)
        if held:
            self._ended.append(fact.quota.id)
        room.free += held - units
        room.freed += held
        room.used += units

    async def write(self, connection: sql.Connection) -> None:
        """Write what was settled, in the caller's transaction."""
        if not self._rooms:
            return
        await connection.execute(
            "DELETE FROM contracts.token_quota_hold WHERE id = ANY($1)", self._ended
        )
        await connection.execute(
            "UPDATE contracts.token_quota q SET used_units = q.used_units + u.used, "
            "held_units = q.held_units - u.freed "
            "FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u(id, used, freed) "
            "WHERE q.id = u.id",
            list(self._rooms),
            [room.used for room in self._rooms.values()],
            [room.freed for room in self._rooms.values()],
        )
