"""API shapes of orders, trades and books. Prices are minor units per lot, quantities are lots."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)

from market.kernel.ids import (
    AgreementId,
    BundleId,
    GrantId,
    ListingId,
    OrderId,
    PartyId,
    PlanId,
    TradeId,
)
from market.kernel.money import MAX_MINOR, AmountMinor
from market.kernel.schemas import Moment, Schema
from market.matching.models import (
    CloseReason,
    OrderSide,
    OrderStatus,
    OrderType,
    SelfTradeMode,
    TimeInForceName,
)

# An instrument trades in whole lots; a plan sets how many units a lot has.
LOTS_MAX = 1_000_000_000
BOOK_LEVELS_DEFAULT = 20
BOOK_LEVELS_MAX = 100
# Trades shown inside an order; the others are listed by GET /v1/trades?order_id=.
ORDER_TRADES_MAX = 50

Lots = Annotated[StrictInt, Field(ge=1, le=LOTS_MAX, description="Whole lots of the plan.")]
ClientOrderId = Annotated[
    str,
    StringConstraints(pattern=r"^[!-~]{1,64}$"),
    Field(description="The client's own name for the order, unique per party."),
]


class OrderRequest(Schema):
    """An instruction to buy or sell lots of a plan.

    A limit order states ``price_minor``; a market order states ``protection_price_minor``, the
    worst price it accepts, and never rests. ``lots: null`` is a posted price without an end, for
    the owner of the listing only. ``gtd`` needs ``expires_at``; ``auction`` trades in a call
    auction only. Unless ``min_lots`` can trade at once, the order is cancelled. ``grant_id`` sells
    unused units of an own grant on.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "plan_id": "pln_0190f3a1b2c37d4e8f90a1b2c3d4e5f6",
                    "side": "buy",
                    "type": "limit",
                    "lots": 3,
                    "price_minor": 1_000,
                }
            ]
        }
    )

    plan_id: PlanId
    side: OrderSide
    type: OrderType = OrderType.LIMIT
    lots: Lots | None
    price_minor: AmountMinor | None = None
    protection_price_minor: AmountMinor | None = None
    time_in_force: TimeInForceName | None = Field(
        default=None, description="Default: gtc for limit orders, ioc for market orders."
    )
    post_only: StrictBool = False
    min_lots: Lots | None = None
    self_trade_prevention: SelfTradeMode = SelfTradeMode.CANCEL_NEWEST
    expires_at: Moment | None = None
    client_order_id: ClientOrderId | None = None
    grant_id: GrantId | None = Field(
        default=None, description="Sell bought units on, where the agreement's policy allows it."
    )

    @property
    def rests(self) -> bool:
        """Whether what does not trade at once stays in the book."""
        return self.effective_tif not in (TimeInForceName.IOC, TimeInForceName.FOK)

    @property
    def limit_minor(self) -> int:
        """The worst price per lot, whichever field states it."""
        price = self.price_minor or self.protection_price_minor
        assert price is not None
        return price

    @property
    def effective_tif(self) -> TimeInForceName:
        """Time in force with its default filled in."""
        if self.time_in_force is not None:
            return self.time_in_force
        return TimeInForceName.GTC if self.type is OrderType.LIMIT else TimeInForceName.IOC

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_price()
        tif = self.effective_tif
        if self.grant_id is not None and (self.side is OrderSide.BUY or self.lots is None):
            raise ValueError("grant_id is for sell orders with a number of lots")
        if self.lots is None:
            if self.side is not OrderSide.SELL or self.type is not OrderType.LIMIT:
                raise ValueError("lots may be null for limit sell orders only")
            if tif not in _UNTIL_ENDED:
                raise ValueError("an order with lots null is gtc or gtd")
        elif self.limit_minor * self.lots > MAX_MINOR:
            raise ValueError(f"price times lots must not exceed {MAX_MINOR} minor units")
        if self.post_only and tif not in _UNTIL_ENDED:
            raise ValueError("post_only needs time_in_force gtc or gtd")
        if self.expires_at is not None and tif in _IMMEDIATE:
            raise ValueError("expires_at needs an order that can rest")
        if self.expires_at is None and tif is TimeInForceName.GTD:
            raise ValueError("time_in_force gtd needs expires_at")
        self._check_minimum(tif)
        return self

    def _check_minimum(self, tif: TimeInForceName) -> None:
        if self.min_lots is None:
            return
        if self.post_only or tif is TimeInForceName.AUCTION:
            raise ValueError("min_lots is for orders that may trade at once")
        if self.lots is not None and self.min_lots > self.lots:
            raise ValueError("min_lots must not exceed lots")

    def _check_price(self) -> None:
        if self.type is OrderType.LIMIT:
            if self.price_minor is None or self.protection_price_minor is not None:
                raise ValueError("a limit order states price_minor and no protection price")
            return
        if self.protection_price_minor is None or self.price_minor is not None:
            raise ValueError("a market order states protection_price_minor and no price_minor")
        if self.effective_tif not in _IMMEDIATE:
            raise ValueError("a market order is ioc or fok")


_IMMEDIATE = (TimeInForceName.IOC, TimeInForceName.FOK)
_UNTIL_ENDED = (TimeInForceName.GTC, TimeInForceName.GTD)


class AmendRequest(Schema):
    """New terms of an open order; what is not stated stays.

    ``lots`` is the new total, filled ones included: no more than those cancels the rest. Fewer
    lots at the same price keep the order's priority; anything else of price and lots loses it,
    and may trade at once.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"price_minor": 1_050}], "minProperties": 1}
    )

    price_minor: AmountMinor | None = None
    lots: Lots | None = None
    expires_at: Moment | None = None
    post_only: StrictBool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        stated = (self.price_minor, self.lots, self.expires_at, self.post_only)
        if all(value is None for value in stated):
            raise ValueError("an amendment changes at least one term")
        return self


class OrderTrade(Schema):
    """A fill of the order that shows it."""

    trade_id: TradeId
    agreement_id: AgreementId
    lots: int
    price_minor: int


class OrderView(Schema):
    """An order as its party sees it.

    ``remaining_lots`` can still trade: null without an end, 0 once closed. ``lots`` follows
    amendments, and what self-trade prevention by ``decrement`` takes off.
    ``average_price_minor`` is ``filled_amount_minor / filled_lots`` rounded half up; the exact
    figure is the amount. ``trades`` holds the latest 50.
    """

    id: OrderId
    plan_id: PlanId
    listing_id: ListingId
    party_id: PartyId
    side: OrderSide
    type: OrderType
    time_in_force: TimeInForceName
    post_only: bool
    price_minor: int
    currency: str
    lots: int | None
    filled_lots: int
    remaining_lots: int | None
    filled_amount_minor: int
    average_price_minor: int | None
    status: OrderStatus
    reason: CloseReason | None
    client_order_id: str | None
    min_lots: int | None
    self_trade_prevention: SelfTradeMode
    amendments: int
    grant_id: GrantId | None
    bundle_id: BundleId | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    trades: list[OrderTrade]


class TradeView(Schema):
    """A print on the tape. The last four fields are for the trade's own parties only.

    ``bundle_id``: the own bundle that made it.
    """

    id: TradeId
    plan_id: PlanId
    lots: int
    price_minor: int
    currency: str
    taker_side: OrderSide
    traded_at: datetime
    side: OrderSide | None = None
    order_id: OrderId | None = None
    agreement_id: AgreementId | None = None
    bundle_id: BundleId | None = None


class BookLevel(Schema):
    """All resting orders at one price; ``unlimited`` says that one of them never runs out."""

    price_minor: int
    lots: int
    orders: int
    unlimited: bool


class BookView(Schema):
    """The aggregated book of a plan, best prices first. ``sequence`` grows with every change."""

    plan_id: PlanId
    currency: str
    sequence: int
    bids: list[BookLevel]
    asks: list[BookLevel]
