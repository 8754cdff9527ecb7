"""API shapes of agreements, grants, delivery tokens, usage and receipts."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from contracts.agreement_states import AgreementStatus
from contracts.models import Ending, GrantStatus, PlanKind, Unit
from contracts.policy import Policy, Purpose
from contracts.token_limits import TokenLimits
from market.kernel.ids import (
    AgreementId,
    CertificateId,
    FeeScheduleId,
    GrantId,
    ListingId,
    OrderId,
    PartyId,
    PlanId,
    ProductId,
    ReceiptId,
    TokenId,
    TradeId,
    UsageId,
    VersionId,
)
from market.kernel.money import Currency
from market.kernel.schemas import LongText, Schema, ShortText

TOKEN_TTL_MAX_S = 30 * 86_400
OVERLAP_MAX_S = 7 * 86_400
QUOTA_MAX = 10**15

TokenForm = Literal["jwt", "key"]

Count = Annotated[int, Field(ge=0)]


class ShareTerm(Schema):
    """A contributor's part of the seller's net, in parts per million."""

    party_id: PartyId
    ppm: int


class FeeTerm(Schema):
    """Bounds of the platform fee over the agreement's life, and the tax that the fee contains."""

    schedule_id: FeeScheduleId | None = Field(description="null: the exchange's standard rate.")
    category: str
    minimum_minor: int
    cap_minor: int | None
    vat_ppm: int


class TaxTerm(Schema):
    """The declared tax inside the price; the two amounts add up to the agreement's total."""

    rate_ppm: int
    price_includes_tax: Literal[True] = True
    without_tax_minor: int
    tax_minor: int


class ResaleTerm(Schema):
    """Where resold units come from, and the royalty that is inside ``shares``.

    ``original_agreement_id`` is the first sale; ``resold_from`` the one just before this. The
    seller of a resale is the reseller.
    """

    resold_from: AgreementId
    original_agreement_id: AgreementId
    original_seller_id: PartyId
    royalty_ppm: int


class Terms(Schema):
    """What was agreed: frozen, hashed and signed when the agreement was formed.

    Amounts are minor units of ``currency``; ``price_minor`` is per lot of ``lot_units`` units.
    ``fee``, ``intermediary`` and ``tax`` are null in agreements of before migration 0014.
    """

    agreement_id: AgreementId
    trade_id: TradeId
    listing_id: ListingId
    product_id: ProductId
    version_id: VersionId
    data_sha256: str
    certificate_id: CertificateId | None
    plan_id: PlanId
    kind: PlanKind
    buyer_id: PartyId
    seller_id: PartyId
    lots: int
    price_minor: int
    total_minor: int
    currency: Currency
    unit: Unit
    lot_units: int
    granted_units: int | None
    fee_ppm: int
    shares: list[ShareTerm]
    fee: FeeTerm | None = None
    intermediary: ShareTerm | None = Field(
        default=None, description="Commission (数商), in ppm of the net after the platform fee."
    )
    tax: TaxTerm | None = None
    resale: ResaleTerm | None = Field(default=None, description="null: a first sale.")
    policy: Policy
    formed_at: datetime
    acceptance_due_at: datetime
    expires_at: datetime


class AgreementView(Schema):
    """An agreement and how far it has come. Amounts are minor units of ``currency``."""

    id: AgreementId
    status: AgreementStatus
    kind: PlanKind
    trade_id: TradeId
    buy_order_id: OrderId | None
    sell_order_id: OrderId | None
    listing_id: ListingId
    product_id: ProductId
    version_id: VersionId
    plan_id: PlanId
    certificate_id: CertificateId | None
    buyer_id: PartyId
    seller_id: PartyId
    grant_id: GrantId
    lots: int
    price_minor: int
    total_minor: int
    currency: Currency
    unit: Unit
    lot_units: int
    granted_units: int | None
    settled_units: int
    released_minor: int = Field(description="Paid from escrow to seller, fees and shares.")
    refunded_minor: int = Field(description="Returned from escrow to the buyer.")
    disputed_minor: int = Field(description="Taken from escrow by disputes.")
    escrow_minor: int = Field(description="Still in escrow.")
    formed_at: datetime
    acceptance_due_at: datetime
    expires_at: datetime
    delivered_at: datetime | None
    accepted_at: datetime | None
    closed_at: datetime | None
    ending: Ending | None
    ending_reason: str | None
    terms: dict[str, Any]
    terms_sha256: str
    jws: str = Field(description="The signed terms, typ agreement+jws.")


class TerminationBody(Schema):
    """Why an operator ends an agreement early."""

    reason: LongText


class GrantView(Schema):
    """Access under an agreement and its meter. ``remaining_units`` null: no bound.

    ``offered_units`` stand in resale orders and cannot be used meanwhile.
    """

    id: GrantId
    agreement_id: AgreementId
    product_id: ProductId
    product_version_id: VersionId
    buyer_id: PartyId
    seller_id: PartyId
    unit: Unit
    status: GrantStatus
    granted_units: int | None
    settled_units: int
    remaining_units: int | None
    offered_units: int
    resold_units: int
    resold_from: AgreementId | None = Field(description="The agreement that units came from.")
    delivery_count: int
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class TokenBody(TokenLimits):
    """A delivery token to mint. It never outlives its grant."""

    ttl_s: Annotated[int, Field(strict=True, ge=1, le=TOKEN_TTL_MAX_S)] = 3_600
    label: ShortText
    purpose: Purpose | None = Field(default=None, description="Declared use; must be agreed.")
    form: TokenForm = Field(default="jwt", description="A signed JWT, or an opaque key `dem_…`.")
    quota: Annotated[int, Field(strict=True, ge=1, le=QUOTA_MAX)] | None = Field(
        default=None,
        description="Units of the grant that the token may take, in all; null: what is left.",
    )


class RotationBody(Schema):
    """How long the replaced token still works, in seconds; 0 revokes it at once."""

    overlap_s: Annotated[int, Field(strict=True, ge=0, le=OVERLAP_MAX_S)] = 300


class TokenView(TokenLimits):
    """A delivery token without its secret."""

    id: TokenId
    grant_id: GrantId
    label: str
    purpose: str | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    ends_at: datetime | None = Field(description="When its rotation ends it; null: not rotated.")
    form: TokenForm
    quota: Count | None = Field(
        description="Units that it and the tokens of its rotation may take; null: no own quota."
    )
    quota_remaining: Count | None = Field(
        description="What is left of `quota`; deliveries under way are not counted."
    )


class TokenDetail(TokenView):
    """A delivery token, and what it and its grant have left."""

    grant_status: GrantStatus
    unit: Unit
    remaining_units: Count | None = Field(
        description="Of the grant, which all its tokens share; null: no bound."
    )


class MintedToken(TokenView):
    """A new delivery token; the only time that it is shown."""

    token: str = Field(description="Send as Authorization: Bearer to /v1/delivery/rows.")


class UsageView(Schema):
    """The usage record of one delivery."""

    id: UsageId
    delivery_id: str
    token_id: TokenId
    receipt_id: ReceiptId
    format: str
    unit: Unit = Field(description="What `units` counts.")
    units: Count
    rows: Count
    bytes: Count
    body_sha256: str
    complete: bool
    assumed: bool = Field(
        description="Billed on a seller-safe agreement after a fault, when nobody could tell "
        "whether it was delivered; free to fetch again under its delivery_id for 24 hours."
    )
    fields: list[str] | None = Field(
        default=None, description="Delivered columns by name; null: not a matter of columns."
    )
    delivered_at: datetime


class ReceiptView(Schema):
    """Signed proof of one delivery; ``sha256`` is of ``jws`` and is the next one's ``prev``."""

    id: ReceiptId
    agreement_id: AgreementId
    usage_id: UsageId
    seq: int
    prev_sha256: str
    sha256: str
    jws: str
    issued_at: datetime


class RowsPage(Schema):
    """A page of rows as JSON: objects with the selected columns, in order."""

    items: list[dict[str, Any]]
    has_more: bool
    next_after: str | None


class RowCount(Schema):
    """How many rows a filter selects; free of charge."""

    count: Count


class TraceLink(Schema):
    """One link: ``sha256`` covers ``data`` and the previous link's ``sha256``."""

    section: str
    data: Any
    sha256: str


class TraceView(Schema):
    """The whole trade as a chain; ``jws`` (typ trace+jws) signs its head."""

    agreement_id: AgreementId
    links: list[TraceLink]
    head_sha256: str
    jws: str
