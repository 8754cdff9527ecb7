"""API shapes of split previews, releases and adjustments. Amounts are minor units."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator

from contracts.billing_models import AdjustmentStatus
from market.kernel.ids import AgreementId, FeeScheduleId, PartyId, PlanId, TransferId
from market.kernel.money import MAX_MINOR, Currency
from market.kernel.schemas import LongText, Schema

PartMinor = Annotated[StrictInt, Field(ge=0, le=MAX_MINOR)]


class PartView(Schema):
    """One party's part of a split."""

    party_id: PartyId
    ppm: int
    amount_minor: int


class SplitPreview(Schema):
    """Who would get what if the whole price were released under today's terms."""

    plan_id: PlanId
    lots: int
    price_minor: int
    total_minor: int
    currency: Currency
    schedule_id: FeeScheduleId | None
    fee_ppm: int
    fee_minimum_minor: int
    fee_cap_minor: int | None
    fee_minor: int
    fee_vat_ppm: int
    fee_tax_minor: int
    intermediary: PartView | None
    shares: list[PartView]
    seller_minor: int
    tax_ppm: int
    without_tax_minor: int
    tax_minor: int


class ReleaseView(Schema):
    """One release of an agreement's money: by use, acceptance, adjustment or ruling."""

    agreement_id: AgreementId
    transfer_id: TransferId
    currency: Currency
    amount_minor: int
    fee_minor: int
    released_before_minor: int
    released_at: datetime


class AdjustmentInput(Schema):
    """Release and refund these parts of what is in escrow, if the other party agrees."""

    release_minor: PartMinor = 0
    refund_minor: PartMinor = 0
    reason: LongText

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.release_minor + self.refund_minor == 0:
            raise ValueError("an adjustment moves something")
        return self


class AdjustmentView(Schema):
    """A proposal and its answer."""

    agreement_id: AgreementId
    number: int
    proposed_by: PartyId
    release_minor: int
    refund_minor: int
    reason: str
    status: AdjustmentStatus
    created_at: datetime
    answered_at: datetime | None
