"""API shapes of requests for data, their matches, quotes and alerts."""

import re
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from listings.classification import Grade
from listings.policy_schemas import Region
from listings.schemas import Score
from listings.vocabulary import Category, Purpose
from market.demand.models import (
    ROUNDS_MAX,
    AlertReason,
    QuoteStatus,
    RequestStatus,
    Side,
    Visibility,
)
from market.kernel.ids import (
    AgreementId,
    AlertId,
    ListingId,
    PartyId,
    PlanId,
    QuoteId,
    RequestId,
    VersionId,
)
from market.kernel.money import AmountMinor, Currency, Money
from market.kernel.schemas import LocalizedText, LongText, Moment, Schema, ShortText
from pricing.models import Unit

FIELDS_MAX = 100
REGIONS_MAX = 64
INVITED_MAX = 50
ROWS_MAX = 10**12
UNITS_MAX = 10**15
LOTS_MAX = 1_000_000_000
FRESHNESS_DAYS_MAX = 3_650

_UNIQUE = {"uniqueItems": True}
_DAY = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("values must not repeat")
    return values


def _one_at_most(score: str) -> str:
    if score > "1.0000":
        raise ValueError("a score is at most 1.0000")
    return score


def _written_out(value: object) -> object:
    # Pydantic alone would also read numbers, as seconds since 1970, and times at midnight.
    if not isinstance(value, date) and not (isinstance(value, str) and _DAY.match(value)):
        raise ValueError("expected a date, YYYY-MM-DD")
    return value


Day = Annotated[date, BeforeValidator(_written_out)]


class Period(Schema):
    """The days that the data must cover, both included."""

    start: Day
    end: Day

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end < self.start:
            raise ValueError("the period ends before it starts")
        return self


class Quantity(Schema):
    """How much is wanted, so that plans with lots of different sizes can be compared."""

    unit: Unit
    units: Annotated[StrictInt, Field(ge=1, le=UNITS_MAX)]


class Constraints(Schema):
    """What a listing must meet; null or an empty list asks for nothing."""

    category: Category | None = None
    fields: Annotated[
        list[ShortText],
        Field(max_length=FIELDS_MAX, json_schema_extra=_UNIQUE),
        AfterValidator(_distinct),
    ] = Field(default=[], description="Columns it must have; width and case do not matter.")
    regions: Annotated[
        list[Region],
        Field(max_length=REGIONS_MAX, json_schema_extra=_UNIQUE),
        AfterValidator(_distinct),
    ] = Field(default=[], description="It must cover all; a country covers its subdivisions.")
    period: Period | None = Field(
        default=None, description="Some date column must reach over all of it."
    )
    rows_min: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] | None = None
    rows_max: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] | None = None
    grade_max: Literal[Grade.GENERAL, Grade.IMPORTANT] | None = Field(
        default=None, description="The strictest grade that is wanted (general < important)."
    )
    purposes: Annotated[
        list[Purpose],
        Field(max_length=len(Purpose), json_schema_extra=_UNIQUE),
        AfterValidator(_distinct),
    ] = Field(default=[], description="Its policy must allow all of these uses.")
    quantity: Quantity | None = Field(
        default=None, description="Null: one lot of its cheapest plan."
    )
    budget: Money | None = Field(default=None, description="At most this for the quantity.")
    quality_min: Annotated[Score, AfterValidator(_one_at_most)] | None = Field(
        default=None, description="The least overall score of its quality report."
    )
    freshness_days: Annotated[StrictInt, Field(ge=1, le=FRESHNESS_DAYS_MAX)] | None = Field(
        default=None, description="Its newest date is at most so many days old."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rows_min and self.rows_max and self.rows_max < self.rows_min:
            raise ValueError("rows_max is below rows_min")
        return self


Invited = Annotated[
    list[PartyId],
    Field(min_length=1, max_length=INVITED_MAX, json_schema_extra=_UNIQUE),
    AfterValidator(_distinct),
]


class RequestInput(Schema):
    """A demand for data. With ``invited`` only those sellers see it, else everybody does."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "求购：上海道路交通流量数据",
                    "text": "Hourly traffic counts of main roads, for a routing model.",
                    "constraints": {
                        "category": "transport",
                        "regions": ["CN-SH"],
                        "purposes": ["model_training"],
                        "budget": {"amount_minor": 500_000, "currency": "CNY"},
                    },
                    "standing": True,
                }
            ]
        }
    )

    title: ShortText
    text: LongText
    constraints: Constraints = Constraints()
    standing: StrictBool = Field(
        default=False, description="Alert the buyer when a listing appears or its price falls."
    )
    draft: StrictBool = Field(default=False, description="Open it later.")
    invited: Invited | None = None
    expires_at: Moment | None = Field(
        default=None, description="Default: 30 days from now; at most 366 days."
    )


class RequestPatch(Schema):
    """Changes; what is left out stays. ``invited: []`` shows the request to everybody."""

    title: ShortText | None = None
    text: LongText | None = None
    constraints: Constraints | None = None
    standing: StrictBool | None = None
    invited: (
        Annotated[
            list[PartyId],
            Field(max_length=INVITED_MAX, json_schema_extra=_UNIQUE),
            AfterValidator(_distinct),
        ]
        | None
    ) = None
    expires_at: Moment | None = None


class RequestView(Schema):
    """A request for data. ``invited`` is shown to its buyer and to overseers only."""

    id: RequestId
    buyer_id: PartyId
    status: RequestStatus
    title: str
    text: str
    constraints: Constraints
    visibility: Visibility
    invited: list[PartyId]
    standing: bool
    revision: int
    expires_at: datetime
    created_at: datetime
    updated_at: datetime
    opened_at: datetime | None
    closed_at: datetime | None


class Constraint(StrEnum):
    """What a check is about. ``territory``: the policy allows use where the buyer is."""

    CATEGORY = "category"
    FIELDS = "fields"
    REGIONS = "regions"
    PERIOD = "period"
    VOLUME = "volume"
    GRADE = "grade"
    PURPOSES = "purposes"
    TERRITORY = "territory"
    QUANTITY = "quantity"
    BUDGET = "budget"
    QUALITY = "quality"
    FRESHNESS = "freshness"


class CheckView(Schema):
    """One constraint and how the listing meets it, or why it does not."""

    constraint: Constraint
    met: bool
    wanted: str
    found: str


class Cost(Schema):
    """What the wanted quantity costs under the cheapest plan that sells it."""

    plan_id: PlanId
    lots: int
    amount_minor: AmountMinor
    currency: Currency


class Places(Schema):
    """The listing's place in each ranking, 1 is best; null: it has none there."""

    closeness: int
    text: int | None
    price: int | None


class MatchView(Schema):
    """A listing beside the request, with reasons."""

    listing_id: ListingId
    version_id: VersionId
    seller_id: PartyId
    title: LocalizedText
    category: Category
    score: int = Field(description="Sum over the rankings of 10^9 // (60 + place).")
    places: Places
    cost: Cost | None
    failed: Constraint | None = Field(description="The one unmet constraint of a near miss.")
    checks: list[CheckView]


class MatchPage(Schema):
    """One page of matches, best first."""

    items: list[MatchView]
    has_more: bool
    next_after: str | None = None
    total: int
    exact: bool = Field(description="False: the market is larger than one search looks at.")


_Price = Annotated[AmountMinor, Field(description="Price per lot, in minor units.")]
_Lots = Annotated[StrictInt, Field(ge=1, le=LOTS_MAX, description="Whole lots of the plan.")]
_Until = Annotated[Moment, Field(description="At most 90 days ahead.")]


class ProposalInput(Schema):
    """A counter-offer: binding until ``valid_until``."""

    price_minor: _Price
    lots: _Lots
    valid_until: _Until
    note: LongText | None = None


class QuoteInput(ProposalInput):
    """A private offer: an active plan of a live listing, at a price for this buyer alone.

    Units, term, acceptance window and currency are the plan's, the policy is the listing's.
    """

    plan_id: PlanId


class AcceptInput(Schema):
    """Which round is accepted, so that nobody accepts what they have not seen."""

    round: Annotated[StrictInt, Field(ge=1, le=ROUNDS_MAX)]


class ProposalView(Schema):
    """One round."""

    round: int
    side: Side
    price_minor: int
    lots: int
    valid_until: datetime
    note: str | None
    at: datetime


class RequestQuoteView(Schema):
    """A quote, seen by the request's buyer, its seller and overseers. Prices are per lot."""

    id: QuoteId
    request_id: RequestId
    request_revision: int = Field(description="The revision that the quote answered.")
    buyer_id: PartyId
    seller_id: PartyId
    listing_id: ListingId
    plan_id: PlanId
    status: QuoteStatus
    turn: Side = Field(description="Whose answer is awaited while the quote is open.")
    round: int
    rounds_left: int
    price_minor: int
    lots: int
    total_minor: int
    currency: Currency
    valid_until: datetime
    agreement_id: AgreementId | None
    proposals: list[ProposalView]
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class AlertView(Schema):
    """A listing that met a standing request when it appeared or became cheaper."""

    id: AlertId
    request_id: RequestId
    listing_id: ListingId
    version_id: VersionId
    reason: AlertReason
    cost: Money | None = Field(description="Of the wanted quantity, at that time.")
    created_at: datetime
    read_at: datetime | None
