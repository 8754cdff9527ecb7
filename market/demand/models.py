"""Tables of market.demand: requests, invitations, quotes and their rounds, awards, alerts.

A closed request or quote never changes again (trigger). Proposals, awards and steps are
append-only: they are the record of who offered what, and of who decided what, when.
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
    Integer,
    SmallInteger,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column

SCHEMA = {"schema": "demand"}
# Proposals of one quote, the first included: a negotiation that needs more is a new quote.
ROUNDS_MAX = 10
_PRICE = "price_minor BETWEEN 1 AND 1000000000000000"
_LOTS = "lots BETWEEN 1 AND 1000000000"


class RequestStatus(StrEnum):
    """``draft`` is seen by its buyer only; ``matched`` means that a quote was accepted."""

    DRAFT = "draft"
    OPEN = "open"
    MATCHED = "matched"
    CLOSED = "closed"
    EXPIRED = "expired"


class Visibility(StrEnum):
    """Who may see and answer an open request: everybody, or the invited sellers."""

    ALL = "all"
    INVITED = "invited"


class QuoteStatus(StrEnum):
    """``lapsed``: the request ended otherwise, by another quote, its buyer or its time."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    LAPSED = "lapsed"


class Side(StrEnum):
    """The two sides of a negotiation."""

    BUYER = "buyer"
    SELLER = "seller"

    @property
    def other(self) -> "Side":
        return Side.SELLER if self is Side.BUYER else Side.BUYER


class AlertReason(StrEnum):
    """Why a standing request was matched: the listing appeared, or a cheaper plan did."""

    PUBLISHED = "published"
    PRICE_FELL = "price_fell"


def _request(name: str, *, primary: bool = False) -> Any:
    return Column(
        Uuid, ForeignKey("demand.request.id", name=name), primary_key=primary, nullable=False
    )


class Request(SQLModel, table=True):
    """A buyer's demand. ``revision`` counts its changes and is its ETag.

    ``category`` repeats the constraint of that name, so that a new listing finds the standing
    requests it concerns by an index.
    """

    __tablename__ = "request"
    __table_args__ = (
        CheckConstraint(
            "status IN ('draft', 'open', 'matched', 'closed', 'expired')",
            name="request_status_known",
        ),
        CheckConstraint("visibility IN ('all', 'invited')", name="request_visibility_known"),
        CheckConstraint(
            "(status IN ('draft', 'open')) = (closed_at IS NULL)", name="request_closed_when"
        ),
        CheckConstraint(
            "status NOT IN ('open', 'matched', 'expired') OR opened_at IS NOT NULL",
            name="request_opened_when",
        ),
        CheckConstraint("revision >= 1", name="request_revision_positive"),
        Index("request_buyer", "buyer_id", "id"),
        Index("request_open", "id", postgresql_where=text("status = 'open'")),
        Index(
            "request_standing",
            "id",
            postgresql_where=text("status = 'open' AND standing"),
        ),
        Index("request_due", "expires_at", postgresql_where=text("status = 'open'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    buyer_id: UUID = Field(sa_column=uuid_column())
    status: str = Field(sa_column=text_column())
    title: str = Field(sa_column=text_column())
    text: str = Field(sa_column=text_column())
    category: str | None = Field(default=None, sa_column=text_column(nullable=True))
    constraints: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    visibility: str = Field(sa_column=text_column())
    standing: bool = Field(sa_column=Column(Boolean, nullable=False))
    revision: int = Field(default=1, sa_column=Column(Integer, nullable=False))
    expires_at: datetime = Field(sa_column=moment_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    opened_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Invitation(SQLModel, table=True):
    """A seller that may see and answer a request of restricted visibility."""

    __tablename__ = "invitation"
    __table_args__ = (Index("invitation_party", "party_id", "request_id"), SCHEMA)

    request_id: UUID = Field(sa_column=_request("invitation_request", primary=True))
    party_id: UUID = Field(sa_column=uuid_column(primary_key=True))


class Quote(SQLModel, table=True):
    """A seller's private answer to a request: one of its plans at a price of its own.

    Price, lots and validity are those of the latest proposal; ``turn`` is the side that may
    answer it. ``request_revision`` is what the first proposal answered.
    """

    __tablename__ = "quote"
    __table_args__ = (
        CheckConstraint(
            "status IN ('open', 'accepted', 'declined', 'withdrawn', 'expired', 'lapsed')",
            name="quote_status_known",
        ),
        CheckConstraint("turn IN ('buyer', 'seller')", name="quote_turn_known"),
        CheckConstraint(f"round BETWEEN 1 AND {ROUNDS_MAX}", name="quote_round_range"),
        CheckConstraint(_PRICE, name="quote_price_range"),
        CheckConstraint(_LOTS, name="quote_lots_range"),
        CheckConstraint(
            "price_minor::numeric * lots <= 1000000000000000", name="quote_total_range"
        ),
        CheckConstraint("(status = 'open') = (closed_at IS NULL)", name="quote_closed_when"),
        CheckConstraint(
            "(status = 'accepted') = (agreement_id IS NOT NULL)", name="quote_accepted_agreement"
        ),
        CheckConstraint("buyer_id <> seller_id", name="quote_two_parties"),
        Index(
            "quote_open_plan",
            "request_id",
            "plan_id",
            unique=True,
            postgresql_where=text("status = 'open'"),
        ),
        Index(
            "quote_one_winner",
            "request_id",
            unique=True,
            postgresql_where=text("status = 'accepted'"),
        ),
        Index("quote_request", "request_id", "id"),
        Index("quote_seller", "seller_id", "id"),
        Index("quote_due", "valid_until", postgresql_where=text("status = 'open'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    request_id: UUID = Field(sa_column=_request("quote_request_fk"))
    request_revision: int = Field(sa_column=Column(Integer, nullable=False))
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    listing_id: UUID = Field(sa_column=uuid_column())
    plan_id: UUID = Field(sa_column=uuid_column())
    currency: str = Field(sa_column=text_column())
    status: str = Field(sa_column=text_column())
    turn: str = Field(sa_column=text_column())
    round: int = Field(sa_column=Column(SmallInteger, nullable=False))
    price_minor: int = Field(sa_column=bigint_column())
    lots: int = Field(sa_column=bigint_column())
    valid_until: datetime = Field(sa_column=moment_column())
    agreement_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    closed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Proposal(SQLModel, table=True):
    """One round of a quote: who offered what, until when (append-only)."""

    __tablename__ = "proposal"
    __table_args__ = (
        CheckConstraint("side IN ('buyer', 'seller')", name="proposal_side_known"),
        CheckConstraint(f"round BETWEEN 1 AND {ROUNDS_MAX}", name="proposal_round_range"),
        CheckConstraint(_PRICE, name="proposal_price_range"),
        CheckConstraint(_LOTS, name="proposal_lots_range"),
        SCHEMA,
    )

    quote_id: UUID = Field(
        sa_column=Column(
            Uuid, ForeignKey("demand.quote.id", name="proposal_quote"), primary_key=True
        )
    )
    round: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    side: str = Field(sa_column=text_column())
    price_minor: int = Field(sa_column=bigint_column())
    lots: int = Field(sa_column=bigint_column())
    valid_until: datetime = Field(sa_column=moment_column())
    note: str | None = Field(default=None, sa_column=text_column(nullable=True))
    at: datetime = Field(sa_column=moment_column())


class Award(SQLModel, table=True):
    """The trade that an accepted quote made (append-only); ``id`` is the agreement's trade id.

    Negotiated trades are not rows of ``matching.trade``: no order stands behind them.
    """

    __tablename__ = "award"
    __table_args__ = (
        CheckConstraint(_PRICE, name="award_price_range"),
        CheckConstraint(_LOTS, name="award_lots_range"),
        CheckConstraint("amount_minor = price_minor * lots", name="award_amount_exact"),
        CheckConstraint("buyer_id <> seller_id", name="award_two_parties"),
        CheckConstraint("accepted_by IN ('buyer', 'seller')", name="award_accepted_by_known"),
        UniqueConstraint("request_id", name="award_request"),
        UniqueConstraint("quote_id", name="award_quote"),
        UniqueConstraint("agreement_id", name="award_agreement"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    request_id: UUID = Field(sa_column=_request("award_request_fk"))
    quote_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("demand.quote.id", name="award_quote_fk"), nullable=False)
    )
    plan_id: UUID = Field(sa_column=uuid_column())
    listing_id: UUID = Field(sa_column=uuid_column())
    buyer_id: UUID = Field(sa_column=uuid_column())
    seller_id: UUID = Field(sa_column=uuid_column())
    lots: int = Field(sa_column=bigint_column())
    price_minor: int = Field(sa_column=bigint_column())
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=text_column())
    agreement_id: UUID = Field(sa_column=uuid_column())
    accepted_by: str = Field(sa_column=text_column())
    at: datetime = Field(sa_column=moment_column())


class Step(SQLModel, table=True):
    """One decision about a request or a quote (append-only); no actor: time decided."""

    __tablename__ = "step"
    __table_args__ = (
        CheckConstraint("subject IN ('request', 'quote')", name="step_subject_known"),
        Index("step_subject", "subject_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    subject: str = Field(sa_column=text_column())
    subject_id: UUID = Field(sa_column=uuid_column())
    action: str = Field(sa_column=text_column())
    status: str = Field(sa_column=text_column())
    actor_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    credential_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    at: datetime = Field(sa_column=moment_column())


class Alert(SQLModel, table=True):
    """An entry of a buyer's inbox: a listing that meets a standing request.

    ``cost_minor`` is what the wanted quantity cost then, 0 without a plan that sells it. Each
    (request, listing, version, cost) is told once.
    """

    __tablename__ = "alert"
    __table_args__ = (
        CheckConstraint("reason IN ('published', 'price_fell')", name="alert_reason_known"),
        CheckConstraint("cost_minor >= 0", name="alert_cost_positive"),
        CheckConstraint("(cost_minor = 0) = (currency IS NULL)", name="alert_cost_currency"),
        UniqueConstraint(
            "request_id", "listing_id", "version_id", "cost_minor", name="alert_told_once"
        ),
        Index("alert_buyer", "buyer_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    request_id: UUID = Field(sa_column=_request("alert_request"))
    buyer_id: UUID = Field(sa_column=uuid_column())
    listing_id: UUID = Field(sa_column=uuid_column())
    version_id: UUID = Field(sa_column=uuid_column())
    reason: str = Field(sa_column=text_column())
    cost_minor: int = Field(sa_column=bigint_column())
    currency: str | None = Field(default=None, sa_column=text_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())
    read_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Reading(SQLModel, table=True):
    """How far the matcher of standing requests has read the outbox (one row).

    ``request_id``: the last request seen for the event after ``(txid, seq)``, when that event
    concerns more requests than one run takes.
    """

    __tablename__ = "reading"
    __table_args__ = (CheckConstraint("id = 1", name="reading_single"), SCHEMA)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    txid: int = Field(sa_column=bigint_column())
    seq: int = Field(sa_column=bigint_column())
    request_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
