"""Resale: unused units of a grant are offered, and become another grant's when the offer trades.

Postgres alone says what is free: units granted, less those used, lent to the meter's leases,
offered or resold. Whoever takes some locks the grant's row first, so no unit is both delivered
and sold on; a transaction that rolls back has taken none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from contracts.agreement_states import EARNING, AgreementStatus
from contracts.errors import (
    GrantNotFound,
    ResaleGrantInactive,
    ResaleNotAllowed,
    ResalePlanMismatch,
)
from contracts.models import GrantStatus
from contracts.resale_terms import last_offer, may_resell
from contracts.schemas import Terms
from market.kernel.bulk import BulkTable
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import new_id, show

if TYPE_CHECKING:
    from contracts.formation import Formed

_SOURCES = """
SELECT g.id, g.buyer_id, g.status, a.plan_id, a.status AS agreement_status, a.lot_units,
       a.terms::text AS terms, g.granted_units - g.reserved_units - g.settled_units
       - g.offered_units - g.resold_units AS free_units
FROM contracts.access_grant g JOIN contracts.agreement a ON a.id = g.agreement_id
WHERE g.id = ANY($1::uuid[]) ORDER BY g.id
"""
_APPLY = """
UPDATE contracts.access_grant g
SET offered_units = g.offered_units + u.offered, resold_units = g.resold_units + u.resold,
    status = CASE WHEN g.status = 'active'
        AND g.settled_units + g.resold_units + u.resold = g.granted_units
        THEN 'exhausted' ELSE g.status END
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS u(id, offered, resold)
WHERE g.id = u.id
"""
_MOVES = BulkTable(
    "contracts.resale",
    (
        "id",
        "trade_id",
        "from_grant_id",
        "from_agreement_id",
        "to_grant_id",
        "to_agreement_id",
        "units",
        "moved_at",
    ),
    "uuid uuid uuid uuid uuid uuid bigint timestamptz",
)


class Source(NamedTuple):
    """A grant that units are sold from, with the terms that bind whoever buys them."""

    grant_id: UUID
    holder_id: UUID
    plan_id: UUID
    lot_units: int
    free_units: int
    active: bool
    terms: Terms


class Change(NamedTuple):
    """What happens to a grant's units: more or fewer of them offered, some resold for good."""

    grant_id: UUID
    offered: int
    resold: int

    @property
    def needed(self) -> int:
        """Free units that it takes; negative: gives back."""
        return self.offered + self.resold


async def read_sources(
    uow: UnitOfWork, grant_ids: Collection[UUID], *, lock: bool = False
) -> dict[UUID, Source]:
    """Those of ``grant_ids`` that exist, by id; with ``lock`` their rows, in id order."""
    if not grant_ids:
        return {}
    connection = await uow.raw()
    rows = await connection.fetch(
        f"{_SOURCES} FOR UPDATE OF g" if lock else _SOURCES, list(grant_ids)
    )
    return {row["id"]: _source(row) for row in rows}


def _source(row: Any) -> Source:
    return Source(
        grant_id=row["id"],
        holder_id=row["buyer_id"],
        plan_id=row["plan_id"],
        lot_units=row["lot_units"],
        free_units=row["free_units"] or 0,
        active=row["status"] == GrantStatus.ACTIVE
        and AgreementStatus(row["agreement_status"]) in EARNING,
        terms=Terms.model_validate_json(row["terms"]),
    )


def check_offer(source: Source | None, *, holder_id: UUID, plan_id: UUID) -> Source:
    """May ``holder_id`` offer units of this grant under ``plan_id``? How many is asked elsewhere.

    Raises GrantNotFound (404), also for the grant of somebody else, ResalePlanMismatch (422) and
    ResaleNotAllowed (403).
    """
    if source is None or source.holder_id != holder_id:
        raise GrantNotFound(param="grant_id")
    if source.plan_id != plan_id:
        raise ResalePlanMismatch(param="plan_id")
    if not may_resell(source.terms):
        raise ResaleNotAllowed(param="grant_id")
    return source


def inactive(source: Source, now: datetime) -> MarketError | None:
    """Why no unit of this grant may change hands at ``now``, or None."""
    if not source.active:
        return ResaleGrantInactive("The grant is not active.", param="grant_id")
    if now >= last_offer(source.terms):
        return ResaleGrantInactive("Too little of the grant's term is left.", param="grant_id")
    return None


async def apply(uow: UnitOfWork, changes: Sequence[Change]) -> None:
    """Change what locked grants have offered and resold.

    The grant's CHECK refuses what the free units do not cover (asyncpg's CheckViolationError).
    """
    if changes:
        connection = await uow.raw()
        await connection.execute(_APPLY, *map(list, zip(*changes, strict=True)))


async def record(uow: UnitOfWork, formed: Sequence[Formed]) -> None:
    """Note which of the new agreements were formed from which grants; call after their rows.

    Effect: event ``grant.resold`` to the reseller and to the original seller.
    """
    rows = []
    for made in formed:
        source, terms = made.deal.source, made.terms
        if source is None:
            continue
        assert terms.resale is not None
        units = terms.lots * terms.lot_units
        origin = (source.grant_id, source.terms.agreement_id)
        target = (made.grant_id, terms.agreement_id)
        rows.append((new_id(), terms.trade_id, *origin, *target, units, terms.formed_at))
        data: dict[str, object] = {
            "grant_id": show("grt", source.grant_id),
            "agreement_id": show("agr", source.terms.agreement_id),
            "resale_agreement_id": show("agr", terms.agreement_id),
            "units": units,
        }
        parties = [source.holder_id, terms.resale.original_seller_id]
        uow.emit("grant.resold", source.grant_id, data, parties=parties)
    await _MOVES.insert(await uow.raw(), rows)
