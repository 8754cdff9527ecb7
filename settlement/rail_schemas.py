"""API shapes of rails: refunds, payout accounts, saved cards, received webhooks."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from market.kernel.ids import PartyId, TopUpId
from market.kernel.money import AmountMinor, Money
from market.kernel.schemas import Schema
from settlement.rail_models import RefundStatus, WebhookState


class RefundBody(Schema):
    """Send part of a top-up back to its card, in the top-up's currency."""

    amount_minor: AmountMinor


class RefundView(Schema):
    """A refund. The money left the balance at once; a failed refund brings it back."""

    id: UUID
    top_up_id: TopUpId
    party_id: PartyId
    money: Money
    status: RefundStatus
    failure_code: str | None
    created_at: datetime
    updated_at: datetime


class PayoutAccountView(Schema):
    """A seller's account at the payment provider. ``due`` names what it still asks for."""

    party_id: PartyId
    rail: str
    account: str
    details_submitted: bool
    payouts_enabled: bool
    due: list[str]
    disabled_reason: str | None
    onboarding_url: str | None = Field(
        description="Opens once, for minutes; POST again for a new one. Null when nothing is left."
    )
    updated_at: datetime


class PayoutAccounts(Schema):
    """The party's accounts, one per payment provider that it ever used."""

    items: list[PayoutAccountView]


class SavedCard(Schema):
    """A card that the payer allowed to be charged again; ``id`` goes into a top-up's ``card``."""

    id: str
    brand: str
    last4: str
    expires: str = Field(examples=["2030-04"])


class SavedCards(Schema):
    """All saved cards of the party (at most 100)."""

    items: list[SavedCard]


class Authentication(Schema):
    """The payer's answer to the sandbox's 3-D Secure challenge."""

    outcome: Literal["approved", "refused"]


class WebhookReceipt(Schema):
    """Stored. Work on it follows."""

    received: Literal[True] = True


class WebhookEventView(Schema):
    """A received event and what became of it."""

    id: UUID
    source: str
    event_id: str
    type: str
    object_id: str
    account: str | None
    livemode: bool
    state: WebhookState
    detail: str | None
    attempts: int = Field(ge=0)
    created_at: datetime
    processed_at: datetime | None
