"""Making deliveries durable: usage records, receipts, settled units, in one transaction.

A fact is written once, whoever brings it: the process that served it, the sweeper that found it
in the cache, or both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from contracts import receipts, sql
from contracts.errors import MeterUnavailable
from contracts.metering_asked import Asked
from contracts.models import LeaseState
from contracts.token_quota import QuotaBatch, QuotaHold
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Keyring


class Fact(NamedTuple):
    """One delivery as it happened. ``units`` is what it costs, before any cap.

    ``assumed``: nobody could tell whether it was delivered; the agreement is seller-safe.

    A tuple: each delivery makes two of these, which takes a frozen data class 5 times as long.
    """

    usage_id: UUID
    receipt_id: UUID
    grant_id: UUID
    agreement_id: UUID
    version_id: UUID
    lease_id: UUID
    token_id: UUID
    key: str
    query_sha256: str
    format: str
    units: int
    rows: int
    bytes: int
    body_sha256: str
    complete: bool
    delivered_at: datetime
    assumed: bool = False
    asked: Asked | None = None
    quota: QuotaHold | None = None

    def pack(self) -> str:
        """Text for the cache; :func:`unpack` is its inverse."""
        # asyncpg's UUID is a subclass, which orjson does not take by itself.
        return orjson.dumps(self._asdict(), default=str).decode()


# What this code can read. Processes of two versions share a cache while a new one is rolled out.
# A record whose new members change what is billed says ``needs`` with a higher number; members
# that are only more to know need no such thing, and are passed over by who does not know them.
READS = 1
_MEMBERS = frozenset(Fact._fields)
_IDS = ("usage_id", "receipt_id", "grant_id", "agreement_id", "version_id", "lease_id", "token_id")


class FactTooNew(MeterUnavailable):
    """The fact is for processes of a later version; until one reads it, it stays where it is."""


def unpack(text: str) -> Fact:
    """The fact behind :meth:`Fact.pack`, of whatever version. Raises FactTooNew (503)."""
    packed: dict[str, Any] = orjson.loads(text)
    if packed.get("needs", READS) > READS:
        raise FactTooNew("A later version of this server delivered it.", retry_after_s=2)
    values = {name: value for name, value in packed.items() if name in _MEMBERS}
    for name in _IDS:
        values[name] = UUID(values[name])
    values["delivered_at"] = datetime.fromisoformat(values["delivered_at"])
    # Facts of a version before this one say nothing about it.
    values["asked"] = Asked.of(values.get("asked"))
    values["quota"] = QuotaHold.of(values.get("quota"))
    return Fact(**values)


@dataclass(slots=True)
class _Tally:
    """What a batch changes about one grant."""

    unit: str
    free: int | None
    resold_from: UUID | None
    seq: int
    head: str
    settled: int = 0
    unreserved: int = 0
    deliveries: int = 0


@dataclass(slots=True)
class _Room:
    """What a lease can still take. A closed lease takes nothing."""

    units: int
    used: int = 0


@dataclass(slots=True)
class _Batch:
    tallies: dict[UUID, _Tally]
    rooms: dict[UUID, _Room]
    quotas: QuotaBatch
    deliveries: list[tuple[Any, ...]] = field(default_factory=list)
    receipts: list[tuple[Any, ...]] = field(default_factory=list)


async def record(uow: UnitOfWork, keys: Keyring, facts: Sequence[Fact]) -> int:
    """Write those of ``facts`` that are not durable yet; give their number.

    Locks the grants in id order. Units come out of the fact's lease; what a closed or
    overrun lease cannot cover comes out of the grant's free units, and what those cannot cover
    stays unbilled (delivery.md §3): a grant is never charged beyond what was bought, nor a token
    beyond its own quota.
    """
    connection = await uow.raw()
    grants = await sql.lock_grants(connection, list({fact.grant_id for fact in facts}))
    known = await _known(connection, facts)
    twice = [_apart(fact) for fact in facts if _is_other(fact, known)]
    known |= await _known(connection, twice)
    leases = await sql.leases_of(connection, list({fact.lease_id for fact in facts}))
    batch = _Batch(
        tallies={grant["id"]: _tally(grant) for grant in grants},
        rooms={
            lease_id: _Room(
                0
                if lease["state"] == LeaseState.CLOSED
                else int(lease["units"] - lease["settled_units"])
            )
            for lease_id, lease in leases.items()
        },
        quotas=await QuotaBatch.lock(connection, facts),
    )
    for given in facts:
        fact = _apart(given) if _is_other(given, known) else given
        if (fact.grant_id, fact.key) not in known and fact.grant_id in batch.tallies:
            known[fact.grant_id, fact.key] = fact.query_sha256
            _add(batch, fact, keys, now=uow.now)
        else:
            batch.quotas.settle(fact, 0)
    await batch.quotas.write(connection)
    if not batch.deliveries:
        return 0
    await sql.insert_deliveries(connection, batch.deliveries)
    await sql.insert_receipts(connection, batch.receipts)
    await sql.settle_leases(
        connection, [(lease_id, room.used) for lease_id, room in batch.rooms.items() if room.used]
    )
    await sql.settle_grants(
        connection,
        [
            (grant_id, tally.settled, tally.unreserved, tally.deliveries, tally.head)
            for grant_id, tally in batch.tallies.items()
            if tally.deliveries
        ],
    )
    return len(batch.deliveries)


async def _known(connection: sql.Connection, facts: Sequence[Fact]) -> dict[tuple[UUID, str], str]:
    """The digest of what was asked under each of the ids that is durable already."""
    if not facts:
        return {}
    return await sql.known_deliveries(
        connection, [fact.grant_id for fact in facts], [fact.key for fact in facts]
    )


def _is_other(fact: Fact, known: Mapping[tuple[UUID, str], str]) -> bool:
    return known.get((fact.grant_id, fact.key), fact.query_sha256) != fact.query_sha256


def _apart(fact: Fact) -> Fact:
    """Under an id of its own: something else was delivered under its id.

    Who repeats the id that a sub-lease made, before that is durable, with another question has
    got both; clients cannot name an id with a tilde.
    """
    return fact._replace(key=f"{fact.key}~{fact.usage_id.hex}")


def _tally(grant: sql.Row) -> _Tally:
    return _Tally(
        unit=grant["unit"],
        free=grant["free_units"],
        resold_from=grant["resold_from"],
        seq=int(grant["delivery_count"]),
        head=str(grant["receipt_head"]),
    )


def _lineage(tally: _Tally) -> dict[str, str]:
    """The agreement that resold units came from; nothing for those of a first sale."""
    return {} if tally.resold_from is None else {"resold_from": show("agr", tally.resold_from)}


def _charge(batch: _Batch, fact: Fact) -> int:
    tally = batch.tallies[fact.grant_id]
    room = batch.rooms.get(fact.lease_id)
    from_lease, units = 0, batch.quotas.most(fact)
    if room is not None:
        from_lease = min(units, room.units - room.used)
        room.used += from_lease
    beyond = units - from_lease
    if tally.free is not None:
        beyond = min(beyond, tally.free)
        tally.free -= beyond
    tally.settled += from_lease + beyond
    tally.unreserved += from_lease
    batch.quotas.settle(fact, from_lease + beyond)
    return from_lease + beyond


def _add(batch: _Batch, fact: Fact, keys: Keyring, *, now: datetime) -> None:
    tally = batch.tallies[fact.grant_id]
    units = _charge(batch, fact)
    tally.seq += 1
    tally.deliveries += 1
    jws = keys.sign(
        receipts.TYP,
        receipts.claims(
            receipt=show("rcp", fact.receipt_id),
            usage=show("use", fact.usage_id),
            delivery=fact.key,
            agreement=show("agr", fact.agreement_id),
            grant=show("grt", fact.grant_id),
            version=show("ver", fact.version_id),
            query_sha256=fact.query_sha256,
            format=fact.format,
            unit=tally.unit,
            units=units,
            rows=fact.rows,
            bytes=fact.bytes,
            body_sha256=fact.body_sha256,
            complete=fact.complete,
            assumed=fact.assumed,
            delivered_at=fact.delivered_at.isoformat(),
            seq=tally.seq,
            prev=tally.head,
            **_lineage(tally),
        ),
    )
    previous, tally.head = tally.head, receipts.digest(jws)
    asked = fact.asked or Asked()
    batch.deliveries.append(
        (
            fact.usage_id,
            fact.grant_id,
            fact.agreement_id,
            fact.lease_id,
            fact.token_id,
            fact.receipt_id,
            fact.key,
            fact.query_sha256,
            fact.format,
            units,
            fact.rows,
            fact.bytes,
            fact.body_sha256,
            fact.complete,
            fact.delivered_at,
            fact.assumed,
            orjson.dumps(sorted(asked.fields)).decode() if asked.fields else None,
            asked.sequence,
            asked.after,
            asked.until,
            asked.address,
        )
    )
    batch.receipts.append(
        (
            fact.receipt_id,
            fact.agreement_id,
            fact.usage_id,
            tally.seq,
            previous,
            tally.head,
            jws,
            now,
        )
    )
