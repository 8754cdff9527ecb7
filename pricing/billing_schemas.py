"""API shapes of intermediaries and tax declarations."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from listings.vocabulary import Category
from market.kernel.ids import ListingId, PartyId, PlanId, TaxDeclarationId
from market.kernel.money import PPM, Currency
from market.kernel.schemas import Schema

RatePpm = Annotated[StrictInt, Field(ge=0, lt=PPM, description="Parts per million.")]


class IntermediaryInput(Schema):
    """Who brokers the listing's deals (数商), and its part of the net; both null: nobody."""

    party_id: PartyId | None
    ppm: Annotated[StrictInt, Field(ge=1, lt=PPM)] | None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.party_id is None) != (self.ppm is None):
            raise ValueError("party_id and ppm are given together, or both are null")
        return self


class IntermediaryView(IntermediaryInput):
    """What new agreements freeze; ``version`` is the ETag, 0 before the first PUT."""

    listing_id: ListingId
    version: int
    set_by: PartyId | None
    created_at: datetime | None


class TaxDeclarationInput(Schema):
    """A rate for one plan, or one category, or (both null) everything that you sell."""

    plan_id: PlanId | None = None
    category: Category | None = None
    rate_ppm: RatePpm

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.plan_id is not None and self.category is not None:
            raise ValueError("a declaration names a plan or a category, not both")
        return self


class TaxDeclarationView(TaxDeclarationInput):
    """A declared rate; the newest of its scope holds."""

    id: TaxDeclarationId
    seller_id: PartyId
    created_at: datetime


class PlanTax(Schema):
    """The tax inside the price of a number of lots. Prices contain their tax (价税合计)."""

    plan_id: PlanId
    currency: Currency
    lots: int
    rate_ppm: int
    price_includes_tax: Literal[True] = True
    without_tax_minor: int
    tax_minor: int
    total_minor: int
