"""Lineage of resold units in the trace: where they came from, where others of them went."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlmodel import col, select

from contracts import trace
from contracts.models import Agreement
from contracts.resale_models import Resale
from contracts.schemas import Terms
from market.kernel.db import UnitOfWork
from market.kernel.ids import show

# Beyond this many sales of one and the same unit the trace names the original sale only.
GENERATIONS_MAX = 50


async def lineage(uow: UnitOfWork, agreement: Agreement) -> list[Agreement]:
    """The agreements that the units came from, the latest first; empty for a first sale."""
    found: list[Agreement] = []
    terms = Terms.model_validate(agreement.terms)
    while terms.resale is not None and len(found) < GENERATIONS_MAX:
        earlier = await uow.session.get(Agreement, terms.resale.resold_from)
        assert earlier is not None
        found.append(earlier)
        terms = Terms.model_validate(earlier.terms)
    return found


async def _section(uow: UnitOfWork, agreement: Agreement) -> Any:
    """Digests, not terms: the parties to earlier sales agreed among themselves."""
    earlier = await lineage(uow, agreement)
    query = (
        select(Resale)
        .where(Resale.from_agreement_id == agreement.id)
        .order_by(col(Resale.id))
        .limit(trace.ITEMS_MAX)
    )
    onward = list(await uow.session.exec(query))
    if not earlier and not onward:
        return None
    return {
        "terms": agreement.terms.get("resale"),
        "resold_from": [
            {
                "agreement_id": show("agr", one.id),
                "terms_sha256": one.terms_sha256,
                "formed_at": one.formed_at.isoformat(),
            }
            for one in earlier
        ],
        "resold_to": [_onward(move) for move in onward],
    }


def _onward(move: Resale) -> dict[str, object]:
    shown: dict[str, tuple[str, UUID]] = {
        "trade_id": ("trd", move.trade_id),
        "agreement_id": ("agr", move.to_agreement_id),
    }
    ids = {name: show(prefix, value) for name, (prefix, value) in shown.items()}
    return {**ids, "units": move.units, "moved_at": move.moved_at.isoformat()}


def install() -> None:
    """Add the section ``resale`` to every trace. May be called twice."""
    trace.register("resale", _section)
