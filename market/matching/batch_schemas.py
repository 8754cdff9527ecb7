"""API shapes of requests that concern many orders."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from market.kernel.ids import OrderId, PartyId, PlanId
from market.kernel.schemas import Problem, Schema, ShortText
from market.matching.models import OrderSide
from market.matching.schemas import AmendRequest, OrderRequest, OrderView

BATCH_ITEMS_MAX = 1_000


class PlaceItem(Schema):
    """A new order."""

    op: Literal["place"]
    order: OrderRequest


class CancelItem(Schema):
    """Cancel what is left of an own order."""

    op: Literal["cancel"]
    order_id: OrderId


class AmendItem(Schema):
    """Other terms for an own order."""

    op: Literal["amend"]
    order_id: OrderId
    terms: AmendRequest


BatchItem = Annotated[PlaceItem | CancelItem | AmendItem, Field(discriminator="op")]


class OrderBatch(Schema):
    """Commands to carry out in this order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"op": "cancel", "order_id": "ord_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"}]}
            ]
        }
    )

    items: list[BatchItem] = Field(min_length=1, max_length=BATCH_ITEMS_MAX)


class BatchItemResult(Schema):
    """What became of an item: the order as after it, or why it was refused."""

    index: int
    status: int = Field(description="The HTTP status that the item alone would have had.")
    order: OrderView | None = None
    problem: Problem | None = None


class OrderBatchResult(Schema):
    """The results, in the order of the items."""

    items: list[BatchItemResult]


class CancelAllInput(Schema):
    """Which orders to cancel; everything not stated is not a condition.

    ``party_id`` and ``reason`` are for operators, who state both.
    """

    plan_id: PlanId | None = None
    side: OrderSide | None = None
    party_id: PartyId | None = None
    reason: ShortText | None = None


class MassCancelView(Schema):
    """``order_ids`` names the first 1,000; ``remaining`` orders need another request."""

    cancelled: int
    remaining: int
    order_ids: list[OrderId]
