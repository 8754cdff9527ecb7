"""API shapes of bundles. Prices are minor units per lot, quantities are lots."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import ConfigDict, Field, StrictInt, model_validator

from market.kernel.ids import BundleId, GrantId, OrderId, PartyId, PlanId
from market.kernel.money import MAX_MINOR, AmountMinor
from market.kernel.schemas import Schema
from market.matching.models import OrderSide, SelfTradeMode, TimeInForceName
from market.matching.schemas import ClientOrderId, Lots, OrderRequest, OrderView

LEGS_MIN = 2
LEGS_MAX = 20

CostMinor = Annotated[
    StrictInt,
    Field(
        ge=-MAX_MINOR,
        le=MAX_MINOR,
        description="Minor units: what is bought less what is sold; negative: it earns.",
    ),
]


class BundleLeg(Schema):
    """Lots of one plan to buy or to sell, each at ``price_minor`` or better.

    ``grant_id`` sells unused units of an own grant on.
    """

    plan_id: PlanId
    side: OrderSide
    lots: Lots
    price_minor: AmountMinor
    grant_id: GrantId | None = Field(
        default=None, description="Sell bought units on, where the agreement's policy allows it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.grant_id is not None and self.side is OrderSide.BUY:
            raise ValueError("grant_id is for legs that sell")
        if self.price_minor * self.lots > MAX_MINOR:
            raise ValueError(f"price times lots must not exceed {MAX_MINOR} minor units")
        return self


class BundleRequest(Schema):
    """Legs that fill whole and together, at once, or not at all; one leg per plan.

    ``cost_max_minor`` limits what all legs cost together, beyond the limit of each:
    what is bought less what is sold.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "legs": [
                        {
                            "plan_id": "pln_0190f3a1b2c37d4e8f90a1b2c3d4e5f6",
                            "side": "buy",
                            "lots": 3,
                            "price_minor": 1_000,
                        },
                        {
                            "plan_id": "pln_0190f3a1b2c37d4e8f90a1b2c3d4e5f7",
                            "side": "buy",
                            "lots": 1,
                            "price_minor": 2_500,
                        },
                    ],
                    "cost_max_minor": 5_200,
                }
            ]
        }
    )

    legs: list[BundleLeg] = Field(min_length=LEGS_MIN, max_length=LEGS_MAX)
    cost_max_minor: CostMinor | None = None
    self_trade_prevention: SelfTradeMode = SelfTradeMode.CANCEL_NEWEST
    client_order_id: ClientOrderId | None = None

    @property
    def orders(self) -> list[OrderRequest]:
        """The legs as fill-or-kill orders, in their order."""
        return [
            OrderRequest(
                plan_id=leg.plan_id,
                side=leg.side,
                lots=leg.lots,
                price_minor=leg.price_minor,
                time_in_force=TimeInForceName.FOK,
                self_trade_prevention=self.self_trade_prevention,
                grant_id=leg.grant_id,
            )
            for leg in self.legs
        ]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({leg.plan_id for leg in self.legs}) != len(self.legs):
            raise ValueError("a bundle has one leg per plan")
        if sum(leg.price_minor * leg.lots for leg in self.legs) > MAX_MINOR:
            raise ValueError(f"all legs together must not exceed {MAX_MINOR} minor units")
        return self


class BundleSummary(Schema):
    """A bundle that was filled. ``order_ids`` are its legs, in their order.

    ``cost_minor``: what was bought less what was sold, in minor units.
    """

    id: BundleId
    party_id: PartyId
    currency: str
    cost_minor: int
    cost_max_minor: int | None
    self_trade_prevention: SelfTradeMode
    client_order_id: str | None
    created_at: datetime
    order_ids: list[OrderId]


class BundleView(BundleSummary):
    """The same with its legs as orders, each with its latest trades."""

    legs: list[OrderView]
