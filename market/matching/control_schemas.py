"""API shapes of operators' controls. Prices are minor units per lot, quantities are lots."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator

from market.kernel.ids import CallAuctionId, ListingId, PartyId, PlanId
from market.kernel.money import PPM, AmountMinor
from market.kernel.schemas import Moment, Schema, ShortText
from market.matching.call_models import CallStatus
from market.matching.controls import CALL_MAX
from market.matching.rules import BandAction
from market.matching.schemas import LOTS_MAX, Lots

OPEN_ORDERS_MAX = 1_000_000
MESSAGES_MAX = 1_000_000
CALL_MAX_S = int(CALL_MAX.total_seconds())
REOPEN_S = 300
Reason = Annotated[ShortText, Field(description="Why; public where the control is.")]


class InstrumentPhase(StrEnum):
    """What an instrument does with new orders: match, collect or refuse them."""

    CONTINUOUS = "continuous"
    CALL = "call"
    HALTED = "halted"


class InstrumentRules(Schema):
    """What an order on the instrument has to keep to.

    ``band_ppm``: how far a price may lie from the reference, in millionths of it; null: no band.
    ``band_action``: an order that would trade with one resting outside of the band is refused, or
    the instrument collects for a call auction of ``reopen_s`` seconds (``reopen``).
    """

    tick_minor: AmountMinor = 1
    lot_step: Lots = 1
    lots_min: Lots = 1
    lots_max: Lots = LOTS_MAX
    band_ppm: Annotated[StrictInt, Field(ge=1, lt=PPM)] | None = None
    band_action: BandAction = BandAction.REFUSE
    reopen_s: Annotated[StrictInt, Field(ge=1, le=CALL_MAX_S)] = REOPEN_S


class RulesInput(InstrumentRules):
    """All rules of an instrument, in place of those before.

    ``reference_minor`` is what the band is around until the next trade; null leaves it.
    """

    reference_minor: AmountMinor | None = None
    reason: Reason

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.lots_min > self.lots_max:
            raise ValueError("lots_min must not exceed lots_max")
        if self.band_ppm is None and self.band_action is BandAction.REOPEN:
            raise ValueError("band_action reopen needs band_ppm")
        return self


class ReasonInput(Schema):
    """A decision that says all by its reason."""

    reason: Reason


class QuotaInput(Schema):
    """Limits of one party; null is the exchange's setting."""

    open_orders_max: Annotated[StrictInt, Field(ge=1, le=OPEN_ORDERS_MAX)] | None = Field(
        default=None, description="Open orders on one instrument."
    )
    messages_per_s: Annotated[StrictInt, Field(ge=1, le=MESSAGES_MAX)] | None = Field(
        default=None, description="Orders, amendments and cancels per second."
    )
    reason: Reason


class HaltView(Schema):
    """Since when and why new orders are refused."""

    reason: str
    since: datetime


class PriceBand(Schema):
    """Lowest and highest price that is taken, both included."""

    low_minor: int
    high_minor: int


class ResumeInput(ReasonInput):
    """``auction_s``: reopen through a call auction of so many seconds; null: trade at once."""

    auction_s: Annotated[StrictInt, Field(ge=1, le=CALL_MAX_S)] | None = None


class CallAuctionInput(ReasonInput):
    """When to collect; ``opens_at`` null is now."""

    opens_at: Moment | None = None
    closes_at: Moment


class CallAuctionView(Schema):
    """A call auction (public). While it collects, its price is indicative; null: nothing crosses.

    ``volume_lots`` trade at the price; ``surplus_lots`` > 0 are wanted beyond that, < 0 offered;
    null when a posted price without an end takes part.
    """

    id: CallAuctionId
    plan_id: PlanId
    status: CallStatus
    reopening: bool
    opens_at: datetime
    closes_at: datetime
    price_minor: int | None
    volume_lots: int | None
    surplus_lots: int | None
    created_at: datetime
    updated_at: datetime


class InstrumentView(Schema):
    """A plan as an instrument: what it takes at the moment (public).

    ``phase``: continuous, call (``call_auction`` collects) or halted, by ``halt`` or
    ``market_halt``. ``reference_minor`` is the last trade's price or what an operator has set
    after it, else the posted price.
    """

    plan_id: PlanId
    listing_id: ListingId
    currency: str
    phase: InstrumentPhase
    halt: HaltView | None
    market_halt: HaltView | None
    rules: InstrumentRules
    reference_minor: int
    band: PriceBand | None
    last_trade_minor: int | None
    last_traded_at: datetime | None
    call_auction: CallAuctionView | None


class MarketView(Schema):
    """Whether the whole market is halted (public)."""

    halt: HaltView | None


class TradingView(Schema):
    """What a party may do in the market: to itself, operators and regulators."""

    party_id: PartyId
    block: HaltView | None
    open_orders_max: int
    messages_per_s: int
