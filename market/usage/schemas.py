"""API shapes of automatic top-ups. Prices are minor units per lot."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from market.kernel.ids import AgreementId, OrderId, PlanId
from market.kernel.money import MAX_MINOR, AmountMinor
from market.kernel.schemas import Schema
from market.matching.schemas import Lots
from market.usage.models import ORDERS_PER_MONTH_MAX, AutoTopUpStatus


class AutoTopUpInput(Schema):
    """Order more of the plan when at most ``at_percent`` of the quota is left.

    The order is an ordinary limit order of ``lots`` at ``limit_price_minor``; it rests until it is
    filled, cancelled or 90 days old. At most ``max_per_month`` orders a month (UTC).
    """

    enabled: StrictBool = True
    at_percent: Annotated[StrictInt, Field(ge=0, le=99)] = 20
    lots: Lots
    limit_price_minor: AmountMinor
    max_per_month: Annotated[StrictInt, Field(ge=1, le=ORDERS_PER_MONTH_MAX)] = 1

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        if self.lots * self.limit_price_minor > MAX_MINOR:
            raise ValueError(f"price times lots must not exceed {MAX_MINOR} minor units")
        return self


class AutoTopUpView(Schema):
    """The rule of an agreement. ``revision`` numbers the occasion that it waits for or has had."""

    agreement_id: AgreementId
    plan_id: PlanId
    enabled: bool
    at_percent: int
    lots: int
    limit_price_minor: int
    max_per_month: int
    revision: int
    updated_at: datetime


class TopUpOrderView(Schema):
    """One occasion: ``code`` is the problem that refused the order."""

    agreement_id: AgreementId
    revision: int
    lots: int
    limit_price_minor: int
    status: AutoTopUpStatus
    order_id: OrderId | None
    code: str | None
    created_at: datetime
