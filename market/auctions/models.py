"""Tables of market.auctions: auctions, bids, awards, steps.

A closed auction or bid never changes again, no bid is made or raised outside the auction's time,
and nothing is decided before its close (triggers of the migration). Awards and steps are
append-only. Amounts are plain columns: whoever may read the database directly can read them.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    integer_column,
    moment_column,
    text_column,
    uuid_column,
)

SCHEMA = {"schema": "auctions"}
# What one transaction decides.
BIDS_MAX = 1_000


class Rule(StrEnum):
    """How winners and prices are found; see `sealed_bids` and `digital_goods`."""

    FIRST_PRICE = "first_price"
    SECOND_PRICE = "second_price"
    RANDOM_SAMPLING = "random_sampling"

    @property
    def exclusive(self) -> bool:
        """Whether the data is sold to the winners only."""
        return self is not Rule.RANDOM_SAMPLING


class AuctionStatus(StrEnum):
    """``open`` until it is decided: ``awarded`` or ``unsold``, or ``cancelled``."""

    OPEN = "open"
    AWARDED = "awarded"
    UNSOLD = "unsold"
    CANCELLED = "cancelled"


class BidStatus(StrEnum):
    """``void``: not counted, because the auction was cancelled or the bidder may not buy."""

    LIVING = "living"
    WITHDRAWN = "withdrawn"
    WON = "won"
    LOST = "lost"
    VOID = "void"


# From → to, as the triggers enforce it.
AUCTION_TRANSITIONS: dict[AuctionStatus, frozenset[AuctionStatus]] = {
    AuctionStatus.OPEN: frozenset(
        {AuctionStatus.AWARDED, AuctionStatus.UNSOLD, AuctionStatus.CANCELLED}
    ),
    AuctionStatus.AWARDED: frozenset(),
    AuctionStatus.UNSOLD: frozenset(),
    AuctionStatus.CANCELLED: frozenset(),
}


def _auction(name: str) -> Any:
    return Column(Uuid, ForeignKey("auctions.auction.id", name=name), nullable=False)


class Auction(SQLModel, table=True):
    """A sale by sealed bids of licenses of one plan. Amounts in minor units of ``currency``.

    ``licenses`` is null where supply is unlimited. ``seed`` is secret until the decision,
    ``commitment`` is its SHA-256. ``bid_count`` counts living bids and keeps, once the auction
    has ended, those that were decided on; ``bid_seq`` numbers placements and raises.
    """

    __tablename__ = "auction"
    __table_args__ = (
        CheckConstraint(
            "rule IN ('first_price', 'second_price', 'random_sampling')", name="auction_rule_known"
        ),
        CheckConstraint(
            "status IN ('open', 'awarded', 'unsold', 'cancelled')", name="auction_status_known"
        ),
        CheckConstraint(
            "(rule = 'random_sampling') = (licenses IS NULL)", name="auction_licenses_counted"
        ),
        CheckConstraint(f"licenses BETWEEN 1 AND {BIDS_MAX}", name="auction_licenses_range"),
        CheckConstraint(
            "(rule = 'random_sampling') = (seed IS NOT NULL) "
            "AND (seed IS NULL) = (commitment IS NULL)",
            name="auction_seed_committed",
        ),
        CheckConstraint("commitment = encode(sha256(seed), 'hex')", name="auction_commitment"),
        CheckConstraint("reserve_minor BETWEEN 1 AND 1000000000000000", name="auction_reserve"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="auction_currency_form"),
        CheckConstraint("opens_at < closes_at", name="auction_schedule"),
        CheckConstraint(f"bid_count BETWEEN 0 AND {BIDS_MAX}", name="auction_bid_count"),
        CheckConstraint("(status = 'open') = (closed_at IS NULL)", name="auction_closed_when"),
        CheckConstraint("(status = 'cancelled') = (reason IS NOT NULL)", name="auction_reason"),
        CheckConstraint(
            "(status IN ('awarded', 'unsold')) = (winner_count IS NOT NULL) "
            "AND (status = 'awarded') = (coalesce(winner_count, 0) > 0) "
            "AND (status = 'awarded') = (price_low_minor IS NOT NULL) "
            "AND (status = 'awarded') = (price_high_minor IS NOT NULL)",
            name="auction_result",
        ),
        CheckConstraint(
            "reserve_minor <= price_low_minor AND price_low_minor <= price_high_minor",
            name="auction_prices",
        ),
        Index("auction_seller", "seller_id", "id"),
        Index("auction_listing", "listing_id", "id"),
        Index("auction_due", "closes_at", postgresql_where=text("status = 'open'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    seller_id: UUID = Field(sa_column=uuid_column())
    listing_id: UUID = Field(sa_column=uuid_column())
    product_id: UUID = Field(sa_column=uuid_column())
    plan_id: UUID = Field(sa_column=uuid_column())
    rule: str = Field(sa_column=text_column())
    licenses: int | None = Field(default=None, sa_column=integer_column(nullable=True))
    reserve_minor: int = Field(sa_column=bigint_column())
    reserve_hidden: bool = Field(sa_column=Column(Boolean, nullable=False))
    currency: str = Field(sa_column=text_column())
    opens_at: datetime = Field(sa_column=moment_column())
    closes_at: datetime = Field(sa_column=moment_column())
    status: str = Field(sa_column=text_column())
    seed: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    commitment: str | None = Field(default=None, sa_column=text_column(nullable=True))
    bid_count: int = Field(default=0, sa_column=integer_column())
    bid_seq: int = Field(default=0, sa_column=bigint_column())
    winner_count: int | None = Field(default=None, sa_column=integer_column(nullable=True))
    price_low_minor: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    price_high_minor: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class AuctionBid(SQLModel, table=True):
    """A buyer's bid for one license. ``ref`` is its place in time: a raise takes a new one.

    ``hold_id`` is the reserve of ``amount_minor`` on the bidder's balance while it is living.
    """

    __tablename__ = "bid"
    __table_args__ = (
        CheckConstraint(
            "status IN ('living', 'withdrawn', 'won', 'lost', 'void')", name="bid_status_known"
        ),
        CheckConstraint("amount_minor BETWEEN 1 AND 1000000000000000", name="bid_amount_range"),
        CheckConstraint("ref >= 1", name="bid_ref_positive"),
        CheckConstraint("(status = 'living') = (closed_at IS NULL)", name="bid_closed_when"),
        CheckConstraint(
            "(status = 'won') = (agreement_id IS NOT NULL) "
            "AND (status = 'won') = (price_minor IS NOT NULL)",
            name="bid_won_agreement",
        ),
        CheckConstraint("price_minor BETWEEN 1 AND amount_minor", name="bid_price_range"),
        UniqueConstraint("auction_id", "ref", name="bid_ref_once"),
        Index(
            "bid_one_living",
            "auction_id",
            "bidder_id",
            unique=True,
            postgresql_where=text("status = 'living'"),
        ),
        Index("bid_bidder", "bidder_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    auction_id: UUID = Field(sa_column=_auction("bid_auction"))
    bidder_id: UUID = Field(sa_column=uuid_column())
    ref: int = Field(sa_column=bigint_column())
    amount_minor: int = Field(sa_column=bigint_column())
    hold_id: UUID = Field(sa_column=uuid_column())
    status: str = Field(sa_column=text_column())
    price_minor: int | None = Field(default=None, sa_column=bigint_column(nullable=True))
    agreement_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class AuctionAward(SQLModel, table=True):
    """The trade that a winning bid made (append-only); ``id`` is the agreement's trade id."""

    __tablename__ = "award"
    __table_args__ = (
        CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="award_price_range"),
        CheckConstraint("buyer_id <> seller_id", name="award_two_parties"),
        UniqueConstraint("bid_id", name="award_bid_once"),
        UniqueConstraint("agreement_id", name="award_agreement_once"),
        Index("award_auction", "auction_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    auction_id: UUID = Field(sa_column=_auction("award_auction_fk"))
    bid_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("auctions.bid.id", name="award_bid_fk"), nullable=False)
    )
    plan_id: UUID = Field(sa_column=uuid_column())
    listing_id: UUID = Field(sa_column=uuid_column())
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    price_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=text_column())
    agreement_id: UUID = Field(sa_column=uuid_column())
    at: datetime = Field(sa_column=moment_column())


class AuctionStep(SQLModel, table=True):
    """One decision about an auction or a bid (append-only), never with an amount; no actor: time.

    ``bid_id`` null: it concerns the auction.
    """

    __tablename__ = "step"
    __table_args__ = (Index("step_auction", "auction_id", "id"), SCHEMA)

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    auction_id: UUID = Field(sa_column=_auction("step_auction_fk"))
    bid_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    action: str = Field(sa_column=text_column())
    status: str = Field(sa_column=text_column())
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    actor_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    credential_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    at: datetime = Field(sa_column=moment_column())
