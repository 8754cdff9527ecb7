"""What a batch leaves behind: order rows, trades with their agreements, observations, events."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts import formation
from contracts.formation import Deal, Formed, Sources
from contracts.resale import Source
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.matching import sql
from market.matching.models import OrderSide, OrderStatus
from market.matching.terms import Side
from market.matching.touched import Match, Touched
from pricing.observations import Observation, record

_SIDE_NAMES = {Side.BUY: OrderSide.BUY.value, Side.SELL: OrderSide.SELL.value}

# Orders or agreements made between two looks at what the database has answered.
_PORTION = 64


@dataclass(slots=True)
class Records:
    """The rows of a batch, ready to be written; nothing of them exists before that."""

    new_orders: list[sql.OrderRow] = field(default_factory=list)
    changed_orders: list[sql.OrderChange] = field(default_factory=list)
    revisions: list[sql.OrderRevision] = field(default_factory=list)
    trades: list[sql.TradeRow] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    formed: list[Formed] = field(default_factory=list)


async def read_sources(
    uow: UnitOfWork, kernel: Kernel, matches: Sequence[Match], sold: Mapping[UUID, Source]
) -> Sources | None:
    """What the agreements of ``matches`` are made from; None without any.

    ``sold``: the grants that their units come from, for those that sell bought units on.
    """
    if not matches:
        return None
    one_each = {(match.terms.plan.id, match.sell.order.grant_id): match for match in matches}
    deals = [_deal(match, uow.now, sold) for match in one_each.values()]
    return await formation.read_sources(uow, kernel.settings, deals)


async def prepare(
    kernel: Kernel,
    touched: Collection[Touched],
    matches: Sequence[Match],
    sources: Sources | None,
    sold: Mapping[UUID, Source],
    *,
    now: datetime,
) -> Records:
    """Make all rows and sign all agreements. No I/O; gives way to other tasks now and then.

    So the ledger's statements run on the server while this process signs.
    """
    records = Records()
    for count, order in enumerate(touched):
        if order.admitted is None:
            records.changed_orders.append(_change(order, now))
            if order.revision is not None:
                records.revisions.append(_revision(order))
        else:
            records.new_orders.append(_row(order, now))
        if not count % _PORTION:
            await asyncio.sleep(0)
    if sources is not None:
        for start in range(0, len(matches), _PORTION):
            portion = matches[start : start + _PORTION]
            records.trades.extend(_trade(match, now) for match in portion)
            records.observations.extend(_observation(match, now) for match in portion)
            deals = [_deal(match, now, sold) for match in portion]
            records.formed.extend(formation.draw_up(kernel, deals, sources))
            await asyncio.sleep(0)
    return records


async def write(uow: UnitOfWork, records: Records) -> None:
    """Write orders, trades, agreements, grants and price observations.

    Raises AssertionError when an open order was closed already: another writer has been at work
    in spite of the fence, so nothing may be committed.
    """
    connection = await uow.raw()
    await sql.insert_orders(connection, records.new_orders)
    await sql.revise_orders(connection, records.revisions)
    updated = await sql.update_orders(connection, records.changed_orders)
    lost = len(records.changed_orders) - updated
    assert not lost, f"{lost} open orders were closed elsewhere"
    if records.trades:
        await sql.insert_trades(connection, records.trades)
        await formation.write(uow, records.formed)
        await record(uow, records.observations)


def _change(touched: Touched, now: datetime) -> sql.OrderChange:
    is_open = touched.status.is_open
    return sql.OrderChange(
        id=touched.order.id,
        filled_lots=touched.filled,
        filled_amount_minor=Decimal(touched.amount),
        status=touched.status,
        reason=touched.reason,
        hold_id=touched.hold_id if is_open else None,
        updated_at=now,
        closed_at=None if is_open else now,
        closed_seq=touched.closed_seq,
    )


def _revision(touched: Touched) -> sql.OrderRevision:
    revision = touched.revision
    assert revision is not None
    return sql.OrderRevision(
        id=touched.order.id,
        price_minor=revision.price,
        lots=revision.lots,
        rank=revision.rank if revision.rank != touched.order.seq else None,
        post_only=revision.post_only,
        expires_at=revision.expires_at,
        amendments=revision.amendments,
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
        side=body.side,
        type=body.type,
        time_in_force=body.effective_tif,
        post_only=body.post_only,
        price_minor=order.price,
        currency=admitted.plan.currency,
        lots=touched.lots,
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
        min_lots=body.min_lots,
        self_trade_mode=body.self_trade_prevention,
        grant_id=order.grant_id,
        bundle_id=_bundle_id(touched),
    )


def emit_trades(uow: UnitOfWork, matches: Iterable[Match]) -> None:
    """``trade.executed`` to both parties of each match."""
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


def _observation(match: Match, now: datetime) -> Observation:
    return Observation(
        plan_id=match.terms.plan.id,
        listing_id=match.terms.listing.id,
        category=match.terms.listing.category,
        price_minor=match.price,
        lots=match.lots,
        currency=match.currency,
        traded_at=now,
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
        amount_minor=match.amount,
        currency=match.currency,
        agreement_id=match.agreement_id,
        traded_at=now,
        bundle_id=_bundle_id(match.taker),
    )


def _bundle_id(touched: Touched) -> UUID | None:
    """The bundle that an order of this batch is a leg of."""
    admitted = touched.admitted
    return None if admitted is None or admitted.leg is None else admitted.leg.bundle_id


def _deal(match: Match, now: datetime, sold: Mapping[UUID, Source]) -> Deal:
    grant_id = match.sell.order.grant_id
    source = None if grant_id is None else sold[grant_id]
    version_id = match.terms.listing.version_id if source is None else source.terms.version_id
    return Deal(
        agreement_id=match.agreement_id,
        trade_id=match.trade_id,
        plan=match.terms.plan,
        listing=match.terms.listing,
        version_id=version_id,
        buyer_id=match.buy.order.party_id,
        seller_id=match.sell.order.party_id,
        lots=match.lots,
        price_minor=match.price,
        currency=match.currency,
        traded_at=now,
        buy_order_id=match.buy.order.id,
        sell_order_id=match.sell.order.id,
        source=source,
    )


def emit_orders(uow: UnitOfWork, touched: Iterable[Touched]) -> None:
    """Events of each order: accepted when new, amended or decremented by self-trade prevention,
    then filled, partially filled or cancelled. Those of a bundle's leg name the bundle.

    A trade that forms two parties' agreement must not tell either the other's order, so these go
    to the order's own party only.
    """
    for item in touched:
        data = {
            "order_id": show("ord", item.order.id),
            "plan_id": show("pln", item.order.plan_id),
            "side": _SIDE_NAMES[item.order.side],
            "price_minor": item.price,
            "lots": item.lots,
            "filled_lots": item.filled,
            "status": item.status,
            "reason": item.reason,
        }
        bundle_id = _bundle_id(item)
        if bundle_id is not None:
            data["bundle_id"] = show("bnd", bundle_id)
        parties = [item.order.party_id]
        if item.admitted is not None:
            uow.emit("order.accepted", item.order.id, data, parties=parties)
        revision = item.revision
        if revision is not None and revision.amendments:
            uow.emit("order.amended", item.order.id, data, parties=parties)
        if revision is not None and revision.cut:
            cut = {**data, "cut_lots": revision.cut}
            uow.emit("order.decremented", item.order.id, cut, parties=parties)
        if item.matches:
            kind = "filled" if item.status is OrderStatus.FILLED else "partially_filled"
            uow.emit(f"order.{kind}", item.order.id, data, parties=parties)
        if item.reason is not None:
            uow.emit(f"order.{item.status.value}", item.order.id, data, parties=parties)
