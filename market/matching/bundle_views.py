"""Bundles as the API shows them, from memory after a batch or from rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from market.kernel.ids import show
from market.matching import bundle_sql
from market.matching.bundle_orders import FilledBundle
from market.matching.bundle_schemas import BundleSummary, BundleView
from market.matching.models import SelfTradeMode
from market.matching.views import new_order_json, read_views

if TYPE_CHECKING:
    from market.matching.sql import Connection


def new_bundle_json(filled: FilledBundle, now: datetime) -> bytes:
    """A bundle right after its batch, as BundleView writes it."""
    body = filled.command.body
    view = {
        "id": show("bnd", filled.command.bundle_id),
        "party_id": show("pty", filled.command.party_id),
        "currency": filled.currency,
        "cost_minor": filled.cost,
        "cost_max_minor": body.cost_max_minor,
        "self_trade_prevention": body.self_trade_prevention,
        "client_order_id": body.client_order_id,
        "created_at": now,
        "order_ids": [show("ord", leg.order.id) for leg in filled.legs],
        "legs": [orjson.Fragment(new_order_json(leg, now)) for leg in filled.legs],
    }
    return orjson.dumps(view, option=orjson.OPT_UTC_Z)


async def read_bundles(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, BundleSummary]:
    """Bundles by id, in one query."""
    rows = await bundle_sql.read(connection, ids) if ids else {}
    return {
        bundle_id: BundleSummary(
            id=row["id"],
            party_id=row["party_id"],
            currency=row["currency"],
            cost_minor=row["cost_minor"],
            cost_max_minor=row["cost_max_minor"],
            self_trade_prevention=SelfTradeMode(row["self_trade_mode"]),
            client_order_id=row["client_order_id"],
            created_at=row["created_at"],
            order_ids=row["order_ids"],
        )
        for bundle_id, row in rows.items()
    }


async def with_legs(connection: Connection, bundle: BundleSummary) -> BundleView:
    """The same with its legs as orders."""
    orders = await read_views(connection, bundle.order_ids)
    legs = [orders[order_id] for order_id in bundle.order_ids]
    return BundleView(**bundle.model_dump(), legs=legs)
