"""Orders as the API shows them, from memory after a batch or from rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from market.kernel.ids import show
from market.matching import sql
from market.matching.models import (
    CloseReason,
    OrderSide,
    OrderStatus,
    OrderType,
    SelfTradeMode,
    TimeInForceName,
)
from market.matching.schemas import ORDER_TRADES_MAX, OrderTrade, OrderView
from market.matching.touched import Touched

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record


def remaining_lots(lots: int | None, filled: int, status: OrderStatus) -> int | None:
    """Lots that can still trade: null without an end, 0 once closed."""
    if not status.is_open:
        return 0
    return None if lots is None else lots - filled


def average_price(amount_minor: int, lots: int) -> int | None:
    """Minor units per lot, rounded half up; None before the first fill."""
    return (2 * amount_minor + lots) // (2 * lots) if lots else None


def new_order_json(touched: Touched, now: datetime) -> bytes:
    """A new order right after its batch, as OrderView writes it.

    Without the model: validating and serializing one took longer than matching the order did.
    """
    admitted, order = touched.admitted, touched.order
    assert admitted is not None
    body = admitted.place.body
    view = {
        "id": show("ord", order.id),
        "plan_id": show("pln", order.plan_id),
        "listing_id": show("lst", admitted.listing.id),
        "party_id": show("pty", order.party_id),
        "side": body.side,
        "type": body.type,
        "time_in_force": body.effective_tif,
        "post_only": body.post_only,
        "price_minor": order.price,
        "currency": admitted.plan.currency,
        "lots": touched.lots,
        "filled_lots": touched.filled,
        "remaining_lots": remaining_lots(touched.lots, touched.filled, touched.status),
        "filled_amount_minor": touched.amount,
        "average_price_minor": average_price(touched.amount, touched.filled),
        "status": touched.status,
        "reason": touched.reason,
        "client_order_id": body.client_order_id,
        "min_lots": body.min_lots,
        "self_trade_prevention": body.self_trade_prevention,
        "amendments": 0,
        "grant_id": None if body.grant_id is None else show("grt", body.grant_id),
        "bundle_id": None if admitted.leg is None else show("bnd", admitted.leg.bundle_id),
        "expires_at": order.expires_at,
        "created_at": now,
        "updated_at": now,
        "trades": [
            {
                "trade_id": show("trd", match.trade_id),
                "agreement_id": show("agr", match.agreement_id),
                "lots": match.lots,
                "price_minor": match.price,
            }
            for match in touched.matches[-ORDER_TRADES_MAX:]
        ],
    }
    try:
        return orjson.dumps(view, option=orjson.OPT_UTC_Z)
    except TypeError:
        # An amount beyond 64 bits: a posted price without an end can earn that much.
        return OrderView.model_validate(view).model_dump_json().encode()


async def read_views(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, OrderView]:
    """Orders by id with their latest trades, in two queries."""
    if not ids:
        return {}
    rows = await sql.read_orders(connection, ids)
    trades: dict[UUID, list[OrderTrade]] = {order_id: [] for order_id in rows}
    found = await sql.read_order_trades(connection, list(rows), per_order_max=ORDER_TRADES_MAX)
    for row in found:
        trades[row["order_id"]].append(
            OrderTrade(
                trade_id=row["id"],
                agreement_id=row["agreement_id"],
                lots=row["lots"],
                price_minor=row["price_minor"],
            )
        )
    return {order_id: _row_view(row, trades[order_id]) for order_id, row in rows.items()}


def _row_view(row: Record, trades: list[OrderTrade]) -> OrderView:
    status = OrderStatus(row["status"])
    amount = int(row["filled_amount_minor"])
    return OrderView(
        id=row["id"],
        plan_id=row["plan_id"],
        listing_id=row["listing_id"],
        party_id=row["party_id"],
        side=OrderSide(row["side"]),
        type=OrderType(row["type"]),
        time_in_force=TimeInForceName(row["time_in_force"]),
        post_only=row["post_only"],
        price_minor=row["price_minor"],
        currency=row["currency"],
        lots=row["lots"],
        filled_lots=row["filled_lots"],
        remaining_lots=remaining_lots(row["lots"], row["filled_lots"], status),
        filled_amount_minor=amount,
        average_price_minor=average_price(amount, row["filled_lots"]),
        status=status,
        reason=CloseReason(row["reason"]) if row["reason"] else None,
        client_order_id=row["client_order_id"],
        min_lots=row["min_lots"],
        self_trade_prevention=SelfTradeMode(row["self_trade_mode"]),
        amendments=row["amendments"],
        grant_id=row["grant_id"],
        bundle_id=row["bundle_id"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        trades=trades,
    )
