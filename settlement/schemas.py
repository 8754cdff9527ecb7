"""API shapes of settlement."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field, StringConstraints

from market.kernel.ids import AccountId, PartyId, PayoutId, TopUpId, TransferId
from market.kernel.money import BalanceMinor, Currency, Money
from market.kernel.schemas import Schema
from settlement.accounts import AccountKind
from settlement.models import PayoutStatus, TopUpStatus

CardToken = Annotated[
    str,
    StringConstraints(pattern=r"^(checkout_save|(tok|pm)_[A-Za-z0-9_]{1,60})$"),
    Field(
        description="A card token of the payment provider; card numbers never come here. Stripe: "
        "null to pay at `redirect_url`, `checkout_save` to save the card there, `pm_…` for a "
        "saved one.",
        examples=["tok_success"],
    ),
]
DestinationToken = Annotated[
    str,
    StringConstraints(pattern=r"^dst_[a-z0-9_]{1,60}$"),
    Field(description="A bank account token of the payment provider.", examples=["dst_success"]),
]
JWKS_PATH = "/.well-known/jwks.json"
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TopUpRequest(Schema):
    """Pay money in by card."""

    money: Money
    card: CardToken | None = None


class TopUpView(Schema):
    """A top-up. ``pending`` until the provider has decided."""

    id: TopUpId
    party_id: PartyId
    money: Money
    rail: str
    status: TopUpStatus
    failure_code: str | None
    redirect_url: str | None = Field(
        description="Where the payer has to go while it is pending (checkout, 3-D Secure)."
    )
    created_at: datetime
    updated_at: datetime


class PayoutRequest(Schema):
    """Take money out to a bank account."""

    money: Money
    destination: DestinationToken | None = Field(
        default=None, description="Stripe: null, for your payout account."
    )


class PayoutView(Schema):
    """A payout. The money left the balance at once; a failed payout brings it back."""

    id: PayoutId
    party_id: PartyId
    money: Money
    destination: str
    rail: str
    status: PayoutStatus
    failure_code: str | None
    created_at: datetime
    updated_at: datetime


class AccountView(Schema):
    """One ledger account. ``available_minor`` = ``posted_minor`` − ``held_minor``."""

    id: AccountId
    kind: AccountKind
    owner: str | None = Field(
        description="The party, agreement or dispute it belongs to; null for the platform's own."
    )
    currency: Currency
    posted_minor: BalanceMinor
    held_minor: BalanceMinor
    available_minor: BalanceMinor
    posting_count: int = Field(ge=0)


class Basis(StrEnum):
    """Which time counts: ``booking`` (when it was booked) or ``event`` (when it happened)."""

    BOOKING = "booking"
    EVENT = "event"


class BalanceView(Schema):
    """The posted balance at a moment, by booking time or by event time."""

    account_id: AccountId
    currency: Currency
    as_of: datetime
    by: Basis
    posted_minor: BalanceMinor
    posting_count: int = Field(ge=0)


class PostingView(Schema):
    """One line of a statement. ``amount_minor`` is signed: positive is a credit."""

    seq: int = Field(ge=1)
    transfer_id: TransferId
    kind: str
    memo_id: UUID | None
    reverses: TransferId | None
    currency: Currency
    amount_minor: BalanceMinor
    balance_minor: BalanceMinor
    event_at: datetime
    booked_at: datetime


class StatementView(Schema):
    """A period of an account, from ``from`` to before ``until``."""

    model_config = ConfigDict(populate_by_name=True)

    account_id: AccountId
    kind: AccountKind
    currency: Currency
    by: Basis
    from_: datetime = Field(alias="from")
    until: datetime
    opening_minor: BalanceMinor
    closing_minor: BalanceMinor
    credit_minor: BalanceMinor
    debit_minor: BalanceMinor
    line_count: int = Field(ge=0)
    lines: list[PostingView] = Field(
        description="Oldest first; `balance_minor` is the one after the line."
    )


class TrialBalanceLine(Schema):
    """All accounts of one kind and currency together."""

    kind: AccountKind
    account_count: int = Field(ge=0)
    debit_minor: BalanceMinor = Field(description="Sum of the negative balances, as positive.")
    credit_minor: BalanceMinor = Field(description="Sum of the positive balances.")
    held_minor: BalanceMinor


class TrialBalanceCurrency(Schema):
    """Debits and credits of a currency; they are equal in a sound ledger."""

    currency: Currency
    lines: list[TrialBalanceLine]
    debit_minor: BalanceMinor
    credit_minor: BalanceMinor
    balanced: bool


class TrialBalance(Schema):
    """The whole ledger on one page."""

    as_of: datetime
    balanced: bool
    currencies: list[TrialBalanceCurrency]


class CheckpointView(Schema):
    """A signed statement that the hash chain stood at ``hash`` after link ``number``."""

    number: int = Field(ge=1)
    hash: Sha256Hex
    jws: str = Field(description='Compact JWS, typ "ledger-checkpoint+jws".')
    created_at: datetime
    jwks_uri: str = Field(
        default=JWKS_PATH, description="Where the keys are that the JWS is to be checked with."
    )
