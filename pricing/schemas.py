"""API shapes of plans and shares (valuations have their own file)."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, computed_field

from market.kernel.ids import ListingId, PartyId, PlanId
from market.kernel.money import PPM, AmountMinor, Currency
from market.kernel.schemas import Schema
from pricing.models import SHARES_MAX, PlanKind, PlanStatus, Unit
from pricing.units import WAYS_OUT, CountedUnit, Way, counted, counted_units

LOT_UNITS_MAX = 10**9
TERM_DAYS_MAX = 3_650
ACCEPTANCE_DAYS_MAX = 90

LotUnits = Annotated[
    StrictInt, Field(ge=1, le=LOT_UNITS_MAX, description="Units in one lot.", examples=[1000])
]
TermDays = Annotated[
    StrictInt, Field(ge=1, le=TERM_DAYS_MAX, description="Days of access from the agreement.")
]
AcceptanceDays = Annotated[
    StrictInt,
    Field(
        ge=0,
        le=ACCEPTANCE_DAYS_MAX,
        description="Days to accept or dispute before escrow is released.",
    ),
]


class _PlanTerms(Schema):
    currency: Currency
    price_minor: AmountMinor = Field(description="Price per lot, in minor units.")
    term_days: TermDays
    acceptance_window_days: AcceptanceDays = 7


class MeteredPlanInput(_PlanTerms):
    """Pay for units as they are used; an order buys lots of ``lot_units`` of ``unit``.

    ``mib`` is 2^20 bytes and is metered in bytes, ``compute_second`` in milliseconds;
    docs/metering.md says what each unit counts on each way out.
    """

    kind: Literal[PlanKind.METERED]
    unit: Literal[Unit.ROW, Unit.CALL, Unit.MIB, Unit.QUERY, Unit.COMPUTE_SECOND]
    lot_units: LotUnits


class LicensePlanInput(_PlanTerms):
    """Pay once for a term of use; a lot is one license."""

    kind: Literal[PlanKind.LICENSE]
    unit: Literal[Unit.LICENSE] = Unit.LICENSE
    lot_units: Literal[1] = 1


PlanInput = Annotated[MeteredPlanInput | LicensePlanInput, Field(discriminator="kind")]


class PlanView(Schema):
    """A price plan, which is also the instrument that orders name."""

    id: PlanId
    listing_id: ListingId
    seller_id: PartyId
    kind: PlanKind
    currency: Currency
    price_minor: AmountMinor = Field(description="Price per lot, in minor units.")
    unit: Unit
    lot_units: int
    term_days: int
    acceptance_window_days: int
    status: PlanStatus
    created_at: datetime
    retired_at: datetime | None

    @computed_field(description="What agreements under it count.")
    def counted_unit(self) -> CountedUnit:
        return counted(self.unit).unit

    @computed_field(description="One lot in `counted_unit`.")
    def counted_lot_units(self) -> int:
        return counted_units(self.unit, self.lot_units)

    @computed_field(description="How it can be delivered; others refuse its unit.")
    def ways_out(self) -> list[Way]:
        return list(WAYS_OUT[counted(self.unit).unit])


class ShareInput(Schema):
    """A contributor and its part of the seller's net revenue."""

    party_id: PartyId
    ppm: Annotated[StrictInt, Field(ge=1, lt=PPM, description="Parts per million.")]


def _fits(shares: list[ShareInput]) -> list[ShareInput]:
    if len({share.party_id for share in shares}) != len(shares):
        raise ValueError("a party has one share")
    if sum(share.ppm for share in shares) >= PPM:
        raise ValueError("the shares must leave something to the seller: below 1,000,000 ppm")
    return shares


class SharesInput(Schema):
    """All shares of a listing; an empty list gives everything to the seller."""

    shares: Annotated[list[ShareInput], Field(max_length=SHARES_MAX), AfterValidator(_fits)]


class SharesView(Schema):
    """The shares that new agreements freeze; ``version`` is the ETag, 0 before the first PUT."""

    listing_id: ListingId
    version: int
    shares: list[ShareInput]
    seller_ppm: int = Field(description="What the shares leave to the seller.")
    set_by: PartyId | None
    created_at: datetime | None
