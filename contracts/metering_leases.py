"""The meter's door to Postgres: checking an entitlement, lending and recovering its units.

Every function runs with the grant's row locked, so that two processes never lend the same unit.
Times of leases are the database's own clock, not the sandbox's: they bound real requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts import sql
from contracts.errors import (
    GrantExpired,
    GrantNotFound,
    GrantRevoked,
    GrantSuspended,
    MeterRecovering,
    QuotaExhausted,
    TokenRevoked,
)
from contracts.models import GrantStatus, Unit
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import new_id

UNBOUNDED = -1
# Postgres is asked at least this often per grant, so that a revocation that could not reach
# Valkey still takes effect; and when a replaced token ends, to within the smaller one.
FRESH_MS = 2_000
FRESH_MIN_MS = 50
# A lease takes at most this part of a bounded grant, so that a lost cache delays only that part.
LEASE_PARTS = 10
# Deliveries come to many bytes and milliseconds each; an ordinary loan is for many deliveries.
LOAN_UNITS = {Unit.BYTE.value: 1_024, Unit.MILLISECOND.value: 20}
# What a record may be late by, beyond its hold: a flush, a refused cache, a freshness window.
DRAIN_MARGIN_S = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """What the cache answered when it could not reserve ``units``.

    ``lease`` is empty when the cache knew nothing; then ``nonce`` names that emptiness.
    """

    grant_id: UUID
    units: int
    lease: str
    lease_units: int
    avail: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A lease to activate. ``rest`` are the grant's units outside it, or UNBOUNDED."""

    lease: str
    units: int
    gen: int
    rest: int
    revoked: tuple[str, ...]
    # Until one more token is to be among those revoked.
    fresh_ms: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The cache serves a lease that Postgres no longer calls active."""

    lease: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No. The unit of work still commits: it may have started a drain."""

    error: MarketError


def refusal_of(grant: Mapping[str, Any] | sql.Row, now: datetime) -> MarketError | None:
    """Why a grant does not deliver, or None."""
    status = grant["status"]
    if status == GrantStatus.REVOKED:
        return GrantRevoked()
    if status == GrantStatus.EXPIRED or now >= grant["expires_at"]:
        return GrantExpired()
    if status == GrantStatus.SUSPENDED:
        return GrantSuspended()
    if status == GrantStatus.EXHAUSTED:
        return exhausted(0, grant["unit"])
    return None


def exhausted(remaining: int, unit: str) -> QuotaExhausted:
    """The 402 with the units that can still be had, and what they count."""
    return QuotaExhausted(f"{remaining} units ({unit}) are left.", remaining=remaining, unit=unit)


async def obtain(
    uow: UnitOfWork, ask: Ask, *, lease_units: int, hold_s: int
) -> Offer | Forget | Refuse:
    """Lend units for ``ask``. Raises GrantNotFound; every other refusal is returned.

    ``lease_units`` is the size of an ordinary loan, ``hold_s`` how long a reservation may live.
    """
    connection = await uow.raw()
    grant = await sql.lock_grant(connection, ask.grant_id)
    if grant is None:
        raise GrantNotFound
    lease = await sql.active_lease(connection, ask.grant_id)
    if ask.lease and (lease is None or lease["id"].hex != ask.lease):
        return Forget(ask.lease)
    refusal = refusal_of(grant, uow.now)
    if refusal is not None:
        return Refuse(refusal)
    free = grant["free_units"]
    if ask.lease:
        assert lease is not None
        return await _extend(connection, grant, lease, ask, free=free, lease_units=lease_units)
    if lease is not None and lease["nonce"] == ask.nonce:
        return await _offer(connection, grant, lease["id"], int(lease["units"]), free)
    if lease is not None:
        # Its cache is gone. What was reserved there may still be delivered and recorded.
        await sql.drain_lease(connection, lease["id"], grace_s=hold_s + DRAIN_MARGIN_S)
    if free is not None and free < ask.units:
        wait_s = await sql.draining_until(connection, ask.grant_id)
        if wait_s is not None:
            return Refuse(MeterRecovering(retry_after_s=wait_s, remaining=free))
        return Refuse(exhausted(free, grant["unit"]))
    units = _loan(grant, ask.units, free, lease_units)
    lease_id = new_id()
    await sql.open_lease(connection, lease_id, ask.grant_id, nonce=ask.nonce, units=units)
    return await _offer(connection, grant, lease_id, units, None if free is None else free - units)


async def _extend(
    connection: sql.Connection,
    grant: sql.Row,
    lease: sql.Row,
    ask: Ask,
    *,
    free: int | None,
    lease_units: int,
) -> Offer | Refuse:
    units = int(lease["units"])
    if units > ask.lease_units:
        # Lent already, by a process that did not come to tell the cache, or just now.
        return await _offer(connection, grant, lease["id"], units, free)
    missing = ask.units - ask.avail
    if free is not None and free < missing:
        wait_s = await sql.draining_until(connection, ask.grant_id)
        if wait_s is not None:
            return Refuse(MeterRecovering(retry_after_s=wait_s, remaining=free + ask.avail))
        return Refuse(exhausted(free + ask.avail, grant["unit"]))
    more = _loan(grant, missing, free, lease_units)
    await sql.extend_lease(connection, lease["id"], ask.grant_id, units=more)
    return await _offer(
        connection, grant, lease["id"], units + more, None if free is None else free - more
    )


def _loan(grant: sql.Row, needed: int, free: int | None, lease_units: int) -> int:
    lease_units *= LOAN_UNITS.get(grant["unit"], 1)
    if free is None:
        return max(needed, lease_units)
    part = max(1, int(grant["granted_units"]) // LEASE_PARTS)
    return min(free, max(needed, min(lease_units, part)))


async def _offer(
    connection: sql.Connection, grant: sql.Row, lease_id: UUID, units: int, free: int | None
) -> Offer:
    ends_ms = await sql.next_token_end_ms(connection, grant["id"])
    return Offer(
        lease=lease_id.hex,
        units=units,
        gen=int(grant["gen"]),
        rest=UNBOUNDED if free is None else free,
        revoked=tuple(await sql.revoked_tokens(connection, grant["id"])),
        fresh_ms=FRESH_MS if ends_ms is None else min(FRESH_MS, max(FRESH_MIN_MS, ends_ms)),
    )


async def check(uow: UnitOfWork, grant_id: UUID, token_id: UUID) -> None:
    """Raises the refusal of a grant that does not deliver, TokenRevoked, or GrantNotFound.

    Waits as recheck.
    """
    grant = await sql.lock_grant(await uow.raw(), grant_id, share=True)
    if grant is None:
        raise GrantNotFound
    refusal = refusal_of(grant, uow.now)
    if refusal is not None:
        raise refusal
    if token_id.hex in await sql.revoked_tokens(await uow.raw(), grant_id):
        raise TokenRevoked


async def recheck(uow: UnitOfWork, grant_id: UUID, lease: str) -> Offer | Forget | Refuse:
    """What Postgres says about a grant whose cache must not go on by itself.

    Waits for a change of the grant under way (row lock), which is what makes revocation
    immediate. Raises GrantNotFound.
    """
    connection = await uow.raw()
    grant = await sql.lock_grant(connection, grant_id, share=True)
    if grant is None:
        raise GrantNotFound
    refusal = refusal_of(grant, uow.now)
    if refusal is not None:
        return Refuse(refusal)
    active = await sql.active_lease(connection, grant_id)
    if active is None or active["id"].hex != lease:
        return Forget(lease)
    return await _offer(connection, grant, active["id"], int(active["units"]), grant["free_units"])
