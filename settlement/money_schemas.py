"""API shapes of reconciliation, payout schedules and runs, debts, and operators' decisions."""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StrictInt, StringConstraints, WithJsonSchema

from market.kernel.ids import PartyId, PayoutId
from market.kernel.money import MAX_MINOR, AmountMinor, BalanceMinor, Currency, Money
from market.kernel.schemas import LongText, Schema
from settlement.payout_run_models import Interval, RunTrigger
from settlement.reconciliation_models import CaseKind, CaseState, Resolution
from settlement.schemas import DestinationToken

KeptMinor = Annotated[StrictInt, Field(ge=0, le=MAX_MINOR)]
NonNegativeMinor = Annotated[StrictInt, Field(ge=0, le=2**62, description="Minor units.")]


def _real_day(text: str) -> str:
    date.fromisoformat(text)
    return text


# Written out, as the published form says: pydantic alone would read numbers and times, too.
PastDay = Annotated[
    str,
    StringConstraints(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}$"),
    AfterValidator(_real_day),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date",
            "pattern": "^20[0-9]{2}-[0-9]{2}-[0-9]{2}$",
            "examples": ["2026-01-31"],
        }
    ),
]


class CaseView(Schema):
    """Something that an operator has to look at.

    `ledger_minor` and `rail_minor` are what the two sides say of the subject: positive is money
    that came in at the provider.
    """

    id: UUID
    rail: str
    kind: CaseKind
    subject_id: UUID = Field(description="The top-up, refund, payout, movement or transfer.")
    party_id: PartyId | None
    currency: str = Field(description="ISO 4217; XXX where the case concerns none.")
    ledger_minor: BalanceMinor
    rail_minor: BalanceMinor
    detail: str
    state: CaseState
    opened_at: datetime
    seen_at: datetime
    closed_at: datetime | None
    closed_by: PartyId | None
    resolution: Resolution | None
    reason: str | None


class CaseClosing(Schema):
    """How the case ends. `booked_to_losses` posts a difference, so that the two sides agree."""

    resolution: Literal[Resolution.EXPLAINED, Resolution.BOOKED_TO_LOSSES]
    reason: LongText


class CurrencyTotal(Schema):
    """Both sides of one currency, all days: `difference_minor` = `rail_minor` − `ledger_minor`.

    What is in flight is at one side only and no difference yet.
    """

    currency: Currency
    rail_minor: BalanceMinor
    ledger_minor: BalanceMinor
    in_flight_minor: BalanceMinor
    difference_minor: BalanceMinor


class ReconciliationView(Schema):
    """One comparison of the provider's movements with the clearing accounts."""

    id: UUID
    rail: str
    since: datetime
    until: datetime
    movement_count: int = Field(ge=0)
    subject_count: int = Field(ge=0)
    in_flight_count: int = Field(ge=0)
    difference_count: int = Field(ge=0)
    totals: list[CurrencyTotal]
    created_at: datetime


class ReconciliationOrder(Schema):
    """Compare one past day (UTC) again."""

    day: PastDay


class PayoutScheduleBody(Schema):
    """When and how much of a balance is paid out by itself."""

    interval: Interval
    minimum_minor: AmountMinor = Field(
        default=1, description="Nothing is paid below this; the exchange's own minimum also counts."
    )
    keep_minor: KeptMinor = Field(default=0, description="Stays on the balance.")
    destination: DestinationToken | None = Field(
        default=None, description="Sandbox only; Stripe pays to your payout account."
    )


class PayoutScheduleView(Schema):
    """A schedule. `next_on` is the day (UTC) of the next payout; null when paid by hand."""

    party_id: PartyId
    currency: Currency
    interval: Interval
    minimum_minor: AmountMinor
    keep_minor: NonNegativeMinor
    destination: str | None
    next_on: date | None
    updated_at: datetime


class PayoutSchedules(Schema):
    """The party's schedules, one per currency (at most one for each ISO 4217 code)."""

    items: list[PayoutScheduleView]


class PayoutRunOrder(Schema):
    """Pay out now every balance that has a schedule, whatever its day."""

    reason: LongText


class PayoutRunView(Schema):
    """One pass over the schedules. `finished_at` is null while it runs."""

    id: UUID
    rail: str
    trigger: RunTrigger
    day: date
    started_at: datetime
    finished_at: datetime | None
    paid_count: int = Field(ge=0)
    skipped_count: int = Field(ge=0)


class PayoutRunLineView(Schema):
    """What a run did for one balance: a payout, or why there is none (`skipped`)."""

    party_id: PartyId
    currency: Currency
    payout_id: PayoutId | None
    skipped: str | None = Field(
        description="party_not_verified, payout_account_not_ready, destination_not_accepted, "
        "in_debt, held_back, below_minimum."
    )
    balance_minor: BalanceMinor
    netted_minor: NonNegativeMinor = Field(description="Taken for debts before.")
    held_back_minor: NonNegativeMinor = Field(description="Too fresh to be paid out.")
    amount_minor: NonNegativeMinor
    at: datetime


class DebtView(Schema):
    """What a party owes the exchange after a chargeback or a claim."""

    party_id: PartyId
    currency: Currency
    owed_minor: AmountMinor


class WriteOffBody(Schema):
    """Give a debt up: losses take it."""

    money: Money
    reason: LongText


class WriteOffView(Schema):
    """A debt that was given up. `recovered_minor` came back later from the bank."""

    id: UUID
    party_id: PartyId
    currency: Currency
    amount_minor: AmountMinor
    recovered_minor: NonNegativeMinor
    reason: str
    created_at: datetime


class ClaimBody(Schema):
    """Take money from a party for another, also when it was paid out already."""

    from_party_id: PartyId
    to_party_id: PartyId
    money: Money
    reason: LongText


class ClaimView(Schema):
    """A claim: `paid_minor` came from the balance, `owed_minor` is a new debt."""

    id: UUID
    from_party_id: PartyId
    to_party_id: PartyId
    money: Money
    paid_minor: NonNegativeMinor
    owed_minor: NonNegativeMinor
    reason: str


class OperatorActionView(Schema):
    """An entry of the audit log. `actor_id` is null for the exchange's own command line."""

    id: UUID
    via: Literal["api", "cli"]
    actor_id: PartyId | None
    action: str
    subject_id: UUID
    reason: str | None
    data: dict[str, Any]
    at: datetime
