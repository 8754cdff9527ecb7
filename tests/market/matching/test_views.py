"""The engine writes an order's JSON by hand: it must be OrderView's, byte for byte."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from listings.models import Listing
from market.kernel.ids import new_id
from market.matching.admission import Admitted
from market.matching.commands import Place
from market.matching.models import CloseReason, OrderStatus
from market.matching.schemas import ORDER_TRADES_MAX, OrderRequest, OrderView
from market.matching.shard import LiveOrder
from market.matching.terms import Side
from market.matching.touched import Match, Touched
from market.matching.views import new_order_json
from pricing.models import Plan

NOW = datetime(2026, 3, 1, 12, 0, 0, 120, tzinfo=UTC)
LIMIT: dict[str, Any] = {"side": "sell", "type": "limit", "lots": None, "price_minor": 7}


def touched(
    status: OrderStatus, filled: int, amount: int, reason: CloseReason | None = None, **body: Any
) -> Touched:
    plan = Plan.model_construct(id=new_id(), currency="CNY", lot_units=10)
    listing = Listing.model_construct(id=new_id())
    request = OrderRequest.model_validate({"plan_id": plan.id, **LIMIT, **body})
    place = Place(new_id(), "key", bytes(32), request, "request")
    admitted = Admitted(place, plan, listing, place.party_id, request.expires_at)
    order = LiveOrder(
        seq=1,
        id=place.order_id,
        plan_id=plan.id,
        party_id=place.party_id,
        group=place.party_id,
        side=Side.SELL,
        price=request.limit_minor,
        lots=request.lots,
        filled=0,
        amount=0,
        hold_id=None,
        expires_at=request.expires_at,
        rank=1,
    )
    return Touched(order, admitted, filled, amount, status, None, reason)


@pytest.mark.parametrize(
    "order",
    [
        touched(OrderStatus.OPEN, 0, 0),
        touched(
            OrderStatus.OPEN, 0, 0, expires_at=NOW + timedelta(days=3), client_order_id='a"\\b'
        ),
        touched(
            OrderStatus.OPEN,
            0,
            0,
            expires_at=(NOW + timedelta(days=3)).astimezone(timezone(timedelta(hours=8))),
        ),
        touched(OrderStatus.PARTIALLY_FILLED, 3, 22),
        touched(OrderStatus.OPEN, 0, 0, lots=5, min_lots=2, self_trade_prevention="decrement"),
        touched(OrderStatus.PARTIALLY_FILLED, 10**13, 2**64 + 1),
        touched(
            OrderStatus.CANCELLED, 2, 14, CloseReason.IOC_REMAINDER, lots=5, time_in_force="ioc"
        ),
        touched(
            OrderStatus.REJECTED, 0, 0, CloseReason.POST_ONLY_WOULD_CROSS, lots=5, post_only=True
        ),
    ],
)
@pytest.mark.parametrize("now", [NOW, NOW.replace(microsecond=0)])
def test_the_answer_is_what_the_model_writes(order: Touched, now: datetime) -> None:
    maker = touched(OrderStatus.OPEN, 0, 0)
    assert order.admitted is not None
    for _ in range(ORDER_TRADES_MAX + 1 if order.filled else 0):
        order.matches.append(Match(new_id(), new_id(), order, maker, 1, 7, order.admitted))
    written = new_order_json(order, now)
    view = OrderView.model_validate_json(written)
    assert view.model_dump_json().encode() == written
    assert (view.id, view.status, view.reason) == (order.order.id, order.status, order.reason)
    assert (view.created_at, view.expires_at) == (now, order.order.expires_at)
    assert (view.filled_lots, view.filled_amount_minor) == (order.filled, order.amount)
    assert [trade.trade_id for trade in view.trades] == [
        match.trade_id for match in order.matches[-ORDER_TRADES_MAX:]
    ]
