"""What a batch leaves behind: order rows, trades with their agreements, observations, events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from contracts.formation import Deal, form
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.matching import sql
from market.matching.matcher import Match, Touched
from market.matching.models import OrderSide, OrderStatus
from market.matching.terms import Side
from pricing.observations import Observation, record

if TYPE_CHECKING:
    from market.matching.sql import Connection

_SIDE_NAMES = {Side.BUY: OrderSide.BUY.value, Side.SELL: OrderSide.SELL.value}


async def write_orders(
    connection: Connection, touched: Iterable[Touched], *, now: datetime
) -> None:
    """Insert new orders, update older ones. Raises AssertionError when one was closed already:

    another writer has been at work in spite of the fence, so nothing may be committed.
    """
    new: list[sql.OrderRow] = []
    changed: list[sql.OrderChange] = []
    for order in touched:
        if order.admitted is None:
            changed.append(_change(order, now))
        else:
            new.append(_row(order, now))
    await sql.insert_orders(connection, new)
    updated = await sql.update_orders(connection, changed)
    assert updated == len(changed), f"{len(changed) - updated} open orders were closed elsewhere"


def _change(touched: Touched, now: datetime) -> sql.OrderChange:
    is_open = touched.status.is_open
    return sql.OrderChange(
        id=touched.order.id,
        filled_lots=touched.filled,
        filled_amount_minor=Decimal(touched.amount),
        status=touched.status.value,
        reason=None if touched.reason is None else touched.reason.value,
        hold_id=touched.hold_id if is_open else None,
        updated_at=now,
        closed_at=None if is_open else now,
        closed_seq=touched.closed_seq,
    )


def _row(touched: Touched, now: datetime) -> sql.OrderRow:
    admitted, order, change = touched.admitted, touched.order, _change(touched, now)
    assert admitted is not None
    body = admitted.place.body
    return sql.OrderRow(
        id=order.id,
        seq=order.seq,
        plan_id=order.plan_id,
        listing_id=admitted.listing.id,
        party_id=order.party_id,
        side=body.side.value,
        type=body.type.value,
        time_in_force=body.effective_tif.value,
        post_only=body.post_only,
        price_minor=order.price,
        currency=admitted.plan.currency,
        lots=order.lots,
        filled_lots=change.filled_lots,
        filled_amount_minor=change.filled_amount_minor,
        status=change.status,
        reason=change.reason,
        hold_id=change.hold_id,
        client_order_id=body.client_order_id,
        conflict_group=order.group,
        expires_at=order.expires_at,
        created_at=now,
        updated_at=now,
        closed_at=change.closed_at,
        closed_seq=change.closed_seq,
    )


async def write_trades(uow: UnitOfWork, kernel: Kernel, matches: Sequence[Match]) -> None:
    """Trades, their agreements and grants, price observations, ``trade.executed`` events."""
    await sql.insert_trades(await uow.raw(), [_trade(match, uow.now) for match in matches])
    await form(uow, kernel, [_deal(match, uow.now) for match in matches])
    await record(
        uow,
        [
            Observation(
                plan_id=match.terms.plan.id,
                listing_id=match.terms.listing.id,
                category=match.terms.listing.category,
                price_minor=match.price,
                lots=match.lots,
                currency=match.currency,
                traded_at=uow.now,
            )
            for match in matches
        ],
    )
    for match in matches:
        buyer, seller = match.buy.order.party_id, match.sell.order.party_id
        uow.emit(
            "trade.executed",
            match.trade_id,
            {
                "trade_id": show("trd", match.trade_id),
                "plan_id": show("pln", match.terms.plan.id),
                "agreement_id": show("agr", match.agreement_id),
                "buy_order_id": show("ord", match.buy.order.id),
                "sell_order_id": show("ord", match.sell.order.id),
                "lots": match.lots,
                "price_minor": match.price,
                "currency": match.currency,
            },
            parties=[buyer, seller],
        )


def _trade(match: Match, now: datetime) -> sql.TradeRow:
    return sql.TradeRow(
        id=match.trade_id,
        plan_id=match.terms.plan.id,
        buy_order_id=match.buy.order.id,
        sell_order_id=match.sell.order.id,
        buyer_id=match.buy.order.party_id,
        seller_id=match.sell.order.party_id,
        taker_side=_SIDE_NAMES[match.taker.order.side],
        lots=match.lots,
        price_minor=match.price,
        currency=match.currency,
        agreement_id=match.agreement_id,
        traded_at=now,
    )


def _deal(match: Match, now: datetime) -> Deal:
    return Deal(
        agreement_id=match.agreement_id,
        trade_id=match.trade_id,
        plan=match.terms.plan,
        listing=match.terms.listing,
        version_id=match.terms.listing.version_id,
        buyer_id=match.buy.order.party_id,
        seller_id=match.sell.order.party_id,
        lots=match.lots,
        price_minor=match.price,
        currency=match.currency,
        traded_at=now,
        buy_order_id=match.buy.order.id,
        sell_order_id=match.sell.order.id,
    )


def emit_orders(uow: UnitOfWork, touched: Iterable[Touched]) -> None:
    """Events of each order: accepted when new, then filled, partially filled or cancelled.

    A trade that forms two parties' agreement must not tell either the other's order, so these go
    to the order's own party only.
    """
    for item in touched:
        data = {
            "order_id": show("ord", item.order.id),
            "plan_id": show("pln", item.order.plan_id),
            "side": _SIDE_NAMES[item.order.side],
            "price_minor": item.order.price,
            "lots": item.order.lots,
            "filled_lots": item.filled,
            "status": item.status.value,
            "reason": None if item.reason is None else item.reason.value,
        }
        parties = [item.order.party_id]
        if item.admitted is not None:
            uow.emit("order.accepted", item.order.id, data, parties=parties)
        if item.matches:
            kind = "filled" if item.status is OrderStatus.FILLED else "partially_filled"
            uow.emit(f"order.{kind}", item.order.id, data, parties=parties)
        if item.reason is not None:
            uow.emit(f"order.{item.status.value}", item.order.id, data, parties=parties)
