"""Tables of market.matching: orders, trades, the checksum of each book, the writer's lease.

Only the engine that holds the lease writes them, in the transaction of its batch. A closed order
never changes again (trigger); trades are append-only.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlmodel import Field, SQLModel

# One writer owns all instruments for now; more shards are more lease rows.
SHARD = 0

_OPEN = "status IN ('open', 'partially_filled')"


class OrderSide(StrEnum):
    BUY = "buy"
    SELL = "sell"


class OrderType(StrEnum):
    """``market`` trades at once, at no worse than its protection price."""

    LIMIT = "limit"
    MARKET = "market"


class TimeInForceName(StrEnum):
    """Good till cancelled or till date, immediate or cancel, fill or kill, call auction only."""

    GTC = "gtc"
    GTD = "gtd"
    IOC = "ioc"
    FOK = "fok"
    AUCTION = "auction"


class SelfTradeMode(StrEnum):
    """What happens instead of a trade between two orders of one party or its affiliates.

    The incoming order's mode decides; ``decrement`` takes the smaller quantity off both.
    """

    CANCEL_NEWEST = "cancel_newest"
    CANCEL_OLDEST = "cancel_oldest"
    CANCEL_BOTH = "cancel_both"
    DECREMENT = "decrement"


class OrderStatus(StrEnum):
    """``open`` and ``partially_filled`` rest in the book; the others are final."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def is_open(self) -> bool:
        return self in _RESTING


# Looking a member up on its class is slow in Python 3.11; the engine asks for every order.
_RESTING = (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)


class CloseReason(StrEnum):
    """Why an order ended other than by being filled."""

    REQUESTED = "requested"
    EXPIRED = "expired"
    IOC_REMAINDER = "ioc_remainder"
    FOK_UNFILLABLE = "fok_unfillable"
    BELOW_MINIMUM = "below_minimum"
    POST_ONLY_WOULD_CROSS = "post_only_would_cross"
    SELF_TRADE = "self_trade"
    PARTY_NOT_VERIFIED = "party_not_verified"
    HOLD_LOST = "hold_lost"
    TRADING_BLOCKED = "trading_blocked"
    OPERATOR = "operator"
    PLAN_RETIRED = "plan_retired"
    LISTING_NOT_LIVE = "listing_not_live"
    AUCTION_ENDED = "auction_ended"
    GRANT_ENDED = "grant_ended"


class Order(SQLModel, table=True):
    """An instruction to buy or sell lots of a plan. ``seq`` is its place in the input sequence.

    ``price_minor`` is the limit, or the protection price of a market order, per lot. ``lots``
    null is a posted price that never runs out. ``hold_id`` is the ledger hold behind an open buy.
    ``conflict_group`` is the party's affiliate group when it ordered (or the party itself):
    orders of one group never trade with each other. ``rank`` is the time priority: null means
    ``seq``, until an amendment loses it. ``lots`` is the quantity with all amendments, and
    without what self-trade prevention took off. ``bundle_id``: it was filled as a leg of that.
    """

    __tablename__ = "order"
    __table_args__ = (
        CheckConstraint("side IN ('buy', 'sell')", name="order_side_known"),
        CheckConstraint("type IN ('limit', 'market')", name="order_type_known"),
        CheckConstraint(
            "time_in_force IN ('gtc', 'gtd', 'ioc', 'fok', 'auction')", name="order_tif_known"
        ),
        CheckConstraint(
            "time_in_force <> 'gtd' OR expires_at IS NOT NULL", name="order_gtd_expires"
        ),
        CheckConstraint("min_lots BETWEEN 1 AND 1000000000", name="order_min_lots_range"),
        CheckConstraint(
            "self_trade_mode IN ('cancel_newest', 'cancel_oldest', 'cancel_both', 'decrement')",
            name="order_self_trade_mode_known",
        ),
        CheckConstraint("rank > seq", name="order_rank_later"),
        CheckConstraint("amendments >= 0", name="order_amendments_positive"),
        CheckConstraint(
            "status IN ('open', 'partially_filled', 'filled', 'cancelled', 'rejected')",
            name="order_status_known",
        ),
        CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="order_price_range"),
        CheckConstraint("lots BETWEEN 1 AND 1000000000", name="order_lots_range"),
        CheckConstraint(
            "lots IS NOT NULL OR"
            " (side = 'sell' AND type = 'limit' AND time_in_force IN ('gtc', 'gtd'))",
            name="order_unlimited_sell",
        ),
        CheckConstraint("filled_lots BETWEEN 0 AND lots", name="order_not_overfilled"),
        CheckConstraint(
            "filled_lots >= 0 AND filled_amount_minor >= 0", name="order_filled_positive"
        ),
        CheckConstraint(
            "(status = 'filled') = (lots IS NOT NULL AND filled_lots = lots)",
            name="order_filled_when_full",
        ),
        CheckConstraint("status <> 'open' OR filled_lots = 0", name="order_open_unfilled"),
        CheckConstraint(
            "status <> 'partially_filled' OR filled_lots > 0", name="order_partial_some"
        ),
        CheckConstraint(f"({_OPEN}) = (closed_at IS NULL)", name="order_closed_when"),
        CheckConstraint("(closed_at IS NULL) = (closed_seq IS NULL)", name="order_closed_seq"),
        CheckConstraint(
            "(status IN ('cancelled', 'rejected')) = (reason IS NOT NULL)",
            name="order_closed_reason",
        ),
        CheckConstraint(
            f"(hold_id IS NOT NULL) = (side = 'buy' AND {_OPEN})", name="order_open_buy_held"
        ),
        CheckConstraint(
            f"NOT ({_OPEN}) OR time_in_force IN ('gtc', 'gtd', 'auction')", name="order_tif_rests"
        ),
        CheckConstraint(
            "grant_id IS NULL OR (side = 'sell' AND lots IS NOT NULL)", name="order_resale_counted"
        ),
        CheckConstraint("client_order_id ~ '^[!-~]{1,64}$'", name="order_client_order_id_form"),
        CheckConstraint("bundle_id IS NULL OR status = 'filled'", name="order_bundle_leg_filled"),
        Index("order_seq", "seq", unique=True),
        Index(
            "order_client_order_id",
            "party_id",
            "client_order_id",
            unique=True,
            postgresql_where=text("client_order_id IS NOT NULL"),
        ),
        Index(
            "order_book",
            "plan_id",
            "side",
            "price_minor",
            "seq",
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(
            "order_priority",
            "plan_id",
            text("(COALESCE(rank, seq))"),
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index("order_party", "party_id", "id"),
        Index("order_bundle", "bundle_id", "seq", postgresql_where=text("bundle_id IS NOT NULL")),
        {"schema": "matching"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    plan_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    listing_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    party_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    side: str = Field(sa_column=Column(Text, nullable=False))
    type: str = Field(sa_column=Column(Text, nullable=False))
    time_in_force: str = Field(sa_column=Column(Text, nullable=False))
    post_only: bool = Field(sa_column=Column(Boolean, nullable=False))
    price_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    lots: int | None = Field(default=None, sa_column=Column(BigInteger))
    filled_lots: int = Field(sa_column=Column(BigInteger, nullable=False))
    filled_amount_minor: int = Field(sa_column=Column(Numeric(30, 0), nullable=False))
    status: str = Field(sa_column=Column(Text, nullable=False))
    reason: str | None = Field(default=None, sa_column=Column(Text))
    hold_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    client_order_id: str | None = Field(default=None, sa_column=Column(Text))
    grant_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    conflict_group: UUID = Field(sa_column=Column(Uuid, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    closed_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
    closed_seq: int | None = Field(default=None, sa_column=Column(BigInteger))
    rank: int | None = Field(default=None, sa_column=Column(BigInteger))
    min_lots: int | None = Field(default=None, sa_column=Column(BigInteger))
    self_trade_mode: str = Field(
        sa_column=Column(Text, nullable=False, server_default=text("'cancel_newest'"))
    )
    amendments: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    bundle_id: UUID | None = Field(default=None, sa_column=Column(Uuid))


class Trade(SQLModel, table=True):
    """A matched pair at the resting order's price (append-only); it formed ``agreement_id``.

    ``bundle_id``: the bundle that the incoming order is a leg of.
    """

    __tablename__ = "trade"
    __table_args__ = (
        CheckConstraint("taker_side IN ('buy', 'sell')", name="trade_taker_side_known"),
        CheckConstraint("lots BETWEEN 1 AND 1000000000", name="trade_lots_range"),
        CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="trade_price_range"),
        CheckConstraint("amount_minor = price_minor * lots", name="trade_amount_exact"),
        CheckConstraint("buyer_id <> seller_id", name="trade_two_parties"),
        Index("trade_seq", "seq", unique=True),
        Index("trade_agreement", "agreement_id", unique=True),
        Index("trade_plan", "plan_id", "seq"),
        Index("trade_time", "plan_id", "traded_at", "seq"),
        Index("trade_buyer", "buyer_id", "seq"),
        Index("trade_seller", "seller_id", "seq"),
        Index("trade_buy_order", "buy_order_id", "seq"),
        Index("trade_sell_order", "sell_order_id", "seq"),
        {"schema": "matching"},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), nullable=False)
    )
    plan_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    buy_order_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    sell_order_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    buyer_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    seller_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    taker_side: str = Field(sa_column=Column(Text, nullable=False))
    lots: int = Field(sa_column=Column(BigInteger, nullable=False))
    price_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    amount_minor: int = Field(sa_column=Column(BigInteger, nullable=False))
    currency: str = Field(sa_column=Column(Text, nullable=False))
    agreement_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    traded_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    bundle_id: UUID | None = Field(default=None, sa_column=Column(Uuid))


class BookState(SQLModel, table=True):
    """What the book of a plan must add up to, updated in every batch that touches it.

    ``sequence`` counts those batches, ``checksum`` is ``Book.checksum`` and ``orders`` the number
    of resting orders; a rebuild from the open orders must reach the same.
    """

    __tablename__ = "book"
    __table_args__ = (
        CheckConstraint("sequence >= 1", name="book_sequence_positive"),
        CheckConstraint("checksum >= 0", name="book_checksum_positive"),
        CheckConstraint("orders >= 0", name="book_orders_positive"),
        {"schema": "matching"},
    )

    plan_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    checksum: int = Field(sa_column=Column(BigInteger, nullable=False))
    orders: int = Field(sa_column=Column(Integer, nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class Lease(SQLModel, table=True):
    """Who may write a shard. ``term`` grows with every change of holder: the fencing token.

    ``expires_at`` is real database time: a moved sandbox clock must not unseat a writer.
    ``last_seq`` is the last input sequence number given out.
    """

    __tablename__ = "lease"
    __table_args__ = (
        CheckConstraint("term >= 0", name="lease_term_positive"),
        CheckConstraint("last_seq >= 0", name="lease_last_seq_positive"),
        {"schema": "matching"},
    )

    shard: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    holder: str = Field(sa_column=Column(Text, nullable=False))
    term: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
