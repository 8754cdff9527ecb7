"""API shapes of auctions, bids and proofs."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from market.auctions.models import BIDS_MAX, AuctionStatus, BidStatus, Rule
from market.kernel.ids import AgreementId, AuctionId, BidId, ListingId, PartyId, PlanId
from market.kernel.money import MAX_MINOR, AmountMinor, Currency
from market.kernel.schemas import Moment, Schema, ShortText

PROOF_FORMAT = "auction-proof-1"
_Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Ref = Annotated[StrictInt, Field(ge=1, lt=2**63)]


class AuctionInput(Schema):
    """An auction of licenses of one of your plans. Amounts are per license, in the plan's money."""

    plan_id: PlanId
    rule: Rule = Field(
        description="`first_price` and `second_price` sell `licenses` exclusive licenses; "
        "`random_sampling` sells to everybody who bids enough."
    )
    licenses: Annotated[StrictInt, Field(ge=1, le=BIDS_MAX)] | None = Field(
        default=None, description="How many, 1 by default; none for random_sampling."
    )
    reserve_minor: AmountMinor = Field(
        default=1, description="No license is sold for less, in minor units."
    )
    reserve_hidden: StrictBool = Field(
        default=False, description="Keep the reserve price to yourself until the end."
    )
    opens_at: Moment | None = Field(default=None, description="Now by default.")
    closes_at: Moment = Field(description="A minute to 90 days after it opens.")

    @model_validator(mode="after")
    def _supply(self) -> Self:
        if self.rule is Rule.RANDOM_SAMPLING and self.licenses is not None:
            raise ValueError("a random_sampling auction does not count licenses")
        return self


class AuctionCancelInput(Schema):
    """Why an auction ends without a sale; published with it."""

    reason: ShortText


class BidInput(Schema):
    """What one license is worth to you; the amount is held on your balance."""

    amount_minor: AmountMinor


class AuctionView(Schema):
    """An auction. What is still secret is null."""

    id: AuctionId
    seller_id: PartyId
    listing_id: ListingId
    plan_id: PlanId
    rule: Rule
    exclusive: bool
    licenses: int | None
    reserve_minor: int | None = Field(description="Null while the seller keeps it hidden.")
    reserve_hidden: bool
    currency: Currency
    opens_at: datetime
    closes_at: datetime
    status: AuctionStatus
    commitment: str | None = Field(description="SHA-256 of the seed that random_sampling uses.")
    bid_count: int | None = Field(description="Until the end told to the seller and overseers.")
    winner_count: int | None
    price_low_minor: int | None = Field(description="The least that a winner pays.")
    price_high_minor: int | None = Field(description="The most that a winner pays.")
    reason: str | None
    created_at: datetime
    closed_at: datetime | None


class BidView(Schema):
    """A bid, seen by its bidder; after the auction has ended by overseers too."""

    id: BidId
    auction_id: AuctionId
    bidder_id: PartyId
    amount_minor: int
    currency: Currency
    status: BidStatus
    price_minor: int | None = Field(description="What the winner pays.")
    agreement_id: AgreementId | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class ProofBid(Schema):
    """A counted bid without its bidder, who knows its id. ``ref`` orders equal amounts in time."""

    bid_id: BidId
    ref: _Ref
    amount_minor: Annotated[StrictInt, Field(ge=1, le=MAX_MINOR)]
    price_minor: Annotated[StrictInt, Field(ge=1, le=MAX_MINOR)] | None = Field(
        description="What it pays; null when it did not win."
    )


class AuctionProof(Schema):
    """All that is needed to repeat the decision of a random_sampling auction."""

    format: Literal["auction-proof-1"] = "auction-proof-1"
    auction_id: AuctionId
    rule: Literal["random_sampling"] = "random_sampling"
    currency: Currency
    reserve_minor: AmountMinor
    commitment: _Hex64
    seed: Annotated[str, Field(pattern="^[0-9a-f]{32,128}$", description="Hexadecimal.")]
    prices: Annotated[
        list[Annotated[StrictInt, Field(ge=1, le=MAX_MINOR)] | None],
        Field(min_length=2, max_length=2, description="Offered to half 0 and to half 1."),
    ]
    bids: Annotated[list[ProofBid], Field(max_length=BIDS_MAX)]
