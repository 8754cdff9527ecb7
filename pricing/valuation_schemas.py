"""API shapes of valuations. Amounts are minor units, ratios whole parts per million."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, StrictInt, model_validator

from listings.schemas import Quality
from market.kernel.ids import CertificateId, ListingId, PartyId, ProductId, ValuationId, VersionId
from market.kernel.money import MAX_MINOR, PPM, AmountMinor, Currency
from market.kernel.schemas import LongText, Schema, ShortText
from pricing.models import Unit
from pricing.schemas import LotUnits
from pricing.valuation import Approach, Estimate, IncomeMethod, TraceUnit

COST_LINES_MAX = 50
TERMS_MAX = 50
FACTOR_MAX_PPM = 10 * PPM
LOTS_EXPECTED_MAX = 10**9
WEIGHT_MAX = 1_000
WINDOW_DAYS_MAX = 1_825

_Amount = Annotated[StrictInt, Field(ge=0, le=MAX_MINOR)]
_Factor = Annotated[StrictInt, Field(ge=0, le=FACTOR_MAX_PPM)]
_Ratio = Annotated[StrictInt, Field(ge=0, le=PPM)]
Weight = Annotated[
    StrictInt, Field(ge=1, le=WEIGHT_MAX, description="Of this approach in the combined value.")
]


def _estimate(central: int, low: int | None, high: int | None) -> Estimate:
    return Estimate(
        central, low if low is not None else central, high if high is not None else central
    )


class AmountRange(Schema):
    """An amount in minor units; low and high default to it."""

    amount_minor: _Amount
    low_minor: _Amount | None = None
    high_minor: _Amount | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self.estimate()
        return self

    def estimate(self) -> Estimate:
        """The pure form. Raises ValueError unless low ≤ amount ≤ high."""
        return _estimate(self.amount_minor, self.low_minor, self.high_minor)


class FactorRange(Schema):
    """A factor in ppm, 0 to 10; low and high default to it."""

    ppm: _Factor
    low_ppm: _Factor | None = None
    high_ppm: _Factor | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        self.estimate()
        return self

    def estimate(self) -> Estimate:
        """The pure form. Raises ValueError unless low ≤ ppm ≤ high."""
        return _estimate(self.ppm, self.low_ppm, self.high_ppm)


class RatioRange(FactorRange):
    """A ratio in ppm, 0 to 1; low and high default to it."""

    ppm: _Ratio
    low_ppm: _Ratio | None = None
    high_ppm: _Ratio | None = None


class CostKind(StrEnum):
    """Cost components of 数据资产评估指导意见."""

    UPFRONT = "upfront"
    DIRECT = "direct"
    INDIRECT = "indirect"
    OPPORTUNITY = "opportunity"
    TAX = "tax"


class CostLine(Schema):
    """One item of what the data cost."""

    kind: CostKind
    label: ShortText
    cost: AmountRange


class CostApproachInput(Schema):
    """P = TC·(1+R)·α·β·(1+l)·(1−r)."""

    weight: Weight = 1
    lines: Annotated[list[CostLine], Field(min_length=1, max_length=COST_LINES_MAX)]
    return_rate: FactorRange = Field(description="R, for example 150000 for 15 %.")
    quality: FactorRange = Field(description="α")
    circulation: FactorRange = Field(description="β")
    monopoly: FactorRange = Field(description="l")
    risk: RatioRange = Field(description="r, the risk that the value is not realized.")


class _IncomeBase(Schema):
    weight: Weight = 1
    discount_rate: RatioRange = Field(description="i per period, for example 100000 for 10 %.")


class DirectTerm(Schema):
    """F_t = R_t: what the data itself earns in one period."""

    revenue: AmountRange


class ExcessTerm(Schema):
    """F_t = R_t − C_t: revenue less the charges of the other assets that contribute."""

    revenue: AmountRange
    contributory_charges: AmountRange


class IncrementalTerm(Schema):
    """F_t = RY_t − RN_t: revenue with the data less revenue without it."""

    revenue_with: AmountRange
    revenue_without: AmountRange


class ShareTerm(Schema):
    """F_t = R_t·K_t: the data's part of the revenue."""

    revenue: AmountRange
    share: RatioRange


class DirectIncome(_IncomeBase):
    """Direct method; one term per period, in order."""

    method: Literal[IncomeMethod.DIRECT]
    terms: Annotated[list[DirectTerm], Field(min_length=1, max_length=TERMS_MAX)]


class ExcessIncome(_IncomeBase):
    """Multi-period excess earnings method; one term per period, in order."""

    method: Literal[IncomeMethod.EXCESS]
    terms: Annotated[list[ExcessTerm], Field(min_length=1, max_length=TERMS_MAX)]


class IncrementalIncome(_IncomeBase):
    """Incremental method; one term per period, in order."""

    method: Literal[IncomeMethod.INCREMENTAL]
    terms: Annotated[list[IncrementalTerm], Field(min_length=1, max_length=TERMS_MAX)]


class ShareIncome(_IncomeBase):
    """Profit share method; one term per period, in order."""

    method: Literal[IncomeMethod.SHARE]
    terms: Annotated[list[ShareTerm], Field(min_length=1, max_length=TERMS_MAX)]


IncomeApproachInput = Annotated[
    DirectIncome | ExcessIncome | IncrementalIncome | ShareIncome, Field(discriminator="method")
]

_NEUTRAL = FactorRange(ppm=PPM)


class ReferencePrice(Schema):
    """What a comparable data asset of the same quantity was sold for, and where that is from."""

    price: AmountRange
    source: LongText


class MarketFactors(Schema):
    """Adjustments from the reference to this asset; 1000000 ppm leaves it as it is."""

    quality: FactorRange = _NEUTRAL
    supply_demand: FactorRange = _NEUTRAL
    date: FactorRange = _NEUTRAL
    capacity: FactorRange = _NEUTRAL
    other: FactorRange = _NEUTRAL


class MarketApproachInput(Schema):
    """V = V_ref·X_quality·X_supply_demand·X_date·X_capacity·X_other.

    V_ref is the median of the stated reference, if any, and of the trades on this exchange in the
    listing's category, unit and currency within the window.
    """

    weight: Weight = 1
    reference: ReferencePrice | None = None
    window_days: Annotated[StrictInt, Field(ge=1, le=WINDOW_DAYS_MAX)] = 365
    factors: MarketFactors = MarketFactors()


class Basis(Schema):
    """What is to be sold over the asset's life: the value is spread over these lots."""

    unit: Unit
    lot_units: LotUnits
    lots_expected: Annotated[StrictInt, Field(ge=1, le=LOTS_EXPECTED_MAX)]


_EXAMPLE: dict[str, JsonValue] = {
    "listing_id": "lst_0190f3a1b2c37d4e8f90a1b2c3d4e5f6",
    "currency": "CNY",
    "basis": {"unit": "row", "lot_units": 1_000, "lots_expected": 100},
    "income": {
        "method": "direct",
        "discount_rate": {"ppm": 100_000, "low_ppm": 80_000, "high_ppm": 120_000},
        "terms": [{"revenue": {"amount_minor": 12_000}}, {"revenue": {"amount_minor": 13_000}}],
    },
}


class ValuationInput(Schema):
    """A valuation by one, two or three approaches; their weights are equal unless stated."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    listing_id: ListingId
    currency: Currency
    basis: Basis
    cost: CostApproachInput | None = None
    income: IncomeApproachInput | None = None
    market: MarketApproachInput | None = None

    @model_validator(mode="after")
    def _some_approach(self) -> Self:
        if self.cost is None and self.income is None and self.market is None:
            raise ValueError("state at least one of cost, income and market")
        return self


class StepView(Schema):
    """One line of the calculation, numbers as decimal text of at most ten places."""

    name: str
    formula: str
    inputs: dict[str, str]
    result: str
    unit: TraceUnit


class SwingView(Schema):
    """The value when this input alone moves to its low and high end."""

    input: str
    at_low_minor: int
    at_high_minor: int


class AppraisalView(Schema):
    """Result of one approach."""

    approach: Approach
    weight: int
    value_minor: AmountMinor
    low_minor: int
    high_minor: int
    trace: list[StepView]
    sensitivity: list[SwingView]


class Suggestion(Schema):
    """The combined value per lot, at least one minor unit."""

    unit: Unit
    lot_units: int
    price_minor: AmountMinor
    low_minor: AmountMinor
    high_minor: AmountMinor


class ComparableView(Schema):
    """Another listing's trades in the window: the median price of one unit, in minor units."""

    listing_id: ListingId
    unit_price: str
    trades: int
    last_traded_at: datetime


class Evidence(Schema):
    """What the valuation rests on beside the stated inputs, as it was at the time."""

    product_id: ProductId
    version_id: VersionId
    version_number: int
    version_sha256: str
    row_count: int
    grade: str
    quality: Quality
    certificate_id: CertificateId
    category: str
    comparables: list[ComparableView]


class ValuationSummary(Schema):
    """A valuation without its calculation."""

    id: ValuationId
    listing_id: ListingId
    seller_id: PartyId
    created_by: PartyId
    created_at: datetime
    method_version: str
    currency: Currency
    value_minor: AmountMinor
    low_minor: int
    high_minor: int
    suggestion: Suggestion


class ValuationView(ValuationSummary):
    """A valuation with inputs, evidence and every step, so that anybody can repeat it."""

    approaches: list[AppraisalView]
    combination: StepView
    inputs: ValuationInput
    evidence: Evidence
