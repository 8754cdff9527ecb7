"""API shapes of currency exchange and of corrections."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator

from market.kernel.ids import (
    AccountId,
    CorrectionId,
    ExchangeQuoteId,
    ExchangeRateId,
    PartyId,
    TransferId,
)
from market.kernel.money import MAX_MINOR, Currency, Money
from market.kernel.schemas import Moment, Schema, ShortText
from settlement.commands import LEGS_MAX
from settlement.exchange_models import RATIO_MAX, SPREAD_MAX_BPS

RatioPart = Annotated[StrictInt, Field(ge=1, le=RATIO_MAX)]


class RateRequest(Schema):
    """A new rate: one major unit of ``source`` buys numerator/denominator units of ``target``."""

    source: Currency
    target: Currency
    numerator: RatioPart
    denominator: RatioPart
    spread_bps: Annotated[StrictInt, Field(ge=0, le=SPREAD_MAX_BPS)] = Field(
        default=0, description="Fee in hundredths of a percent of what the rate gives."
    )
    valid_from: Moment | None = Field(default=None, description="Default: now.")
    valid_until: Moment


class RateView(Schema):
    """A rate. Of several valid ones for a pair the newest counts."""

    id: ExchangeRateId
    source: Currency
    target: Currency
    numerator: int
    denominator: int
    spread_bps: int
    valid_from: datetime
    valid_until: datetime
    set_by: PartyId
    created_at: datetime


class QuoteRequest(Schema):
    """Ask what an amount of the own available balance would become in another currency."""

    money: Money
    target: Currency


class QuoteView(Schema):
    """An offer, until ``expires_at``: ``money`` for ``net`` = ``gross`` − ``fee``.

    ``gross`` is money × numerator ÷ denominator, rounded down to the minor unit; ``fee`` is gross
    × spread_bps ÷ 10,000, rounded down. Nothing else is charged.
    """

    id: ExchangeQuoteId
    party_id: PartyId
    rate_id: ExchangeRateId
    money: Money
    gross: Money
    fee_minor: int = Field(ge=0, description="In minor units of the target currency.")
    net: Money
    expires_at: datetime
    created_at: datetime
    transfer_id: TransferId | None = Field(description="The conversion, once it was made.")
    converted_at: datetime | None


class CorrectionLeg(Schema):
    """One leg: positive credits the account."""

    account_id: AccountId
    amount_minor: Annotated[StrictInt, Field(ge=-MAX_MINOR, le=MAX_MINOR)]


class CorrectionRequest(Schema):
    """A correcting transfer: either legs, or a transfer to take back completely."""

    reason: ShortText
    legs: list[CorrectionLeg] | None = Field(default=None, min_length=2, max_length=LEGS_MAX)
    reverses: TransferId | None = None
    event_at: Moment | None = Field(
        default=None, description="When it should have happened; default: when it is booked."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.legs is None) == (self.reverses is None):
            raise ValueError("give either legs or reverses")
        return self


class CorrectionView(Schema):
    """A proposed correction; booked as ``transfer_id`` once a second operator approved it."""

    id: CorrectionId
    reason: str
    legs: list[CorrectionLeg]
    reverses: TransferId | None
    event_at: datetime | None
    proposed_by: PartyId
    created_at: datetime
    approved_by: PartyId | None
    approved_at: datetime | None
    transfer_id: TransferId | None
