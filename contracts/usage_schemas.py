"""API shapes of usage: aggregates and monthly statements. Money is minor units."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from contracts.models import PlanKind, Unit
from market.kernel.ids import AgreementId, GrantId, InvoiceId, PartyId, TokenId
from market.kernel.money import Currency
from market.kernel.schemas import Schema
from settlement.billing_schemas import AccountStatement, Month

Count = Annotated[int, Field(ge=0)]


class UsageGrouping(StrEnum):
    """What usage is summed by. Hours and days are those of UTC."""

    HOUR = "hour"
    DAY = "day"
    TOKEN = "token"  # noqa: S105 - a word of the API
    FIELDS = "fields"


class UsageSums(Schema):
    """What some deliveries came to. ``units`` were charged."""

    deliveries: Count
    units: Count
    rows: Count
    bytes: Count
    assumed_units: Count = Field(description="Of `units`: billed without proof after a fault.")


class UsageGroup(UsageSums):
    """The sums of one hour, day, token or field set; the others of these three are null.

    ``fields`` [] holds deliveries that are not a matter of columns, or from before they were noted.
    """

    starts_at: datetime | None
    token_id: TokenId | None
    unit: Unit | None = Field(description="What `units` counts; null: a sum over several units.")
    fields: list[str] | None
    first_at: datetime
    last_at: datetime


class UsageDay(UsageSums):
    """The sums of one day (UTC) of a statement."""

    day: date


class UsageInvoice(Schema):
    """An invoice line for the month's releases."""

    invoice_id: InvoiceId
    number: str
    total_minor: int


class UsageStatement(UsageSums):
    """An agreement's month (UTC): use, what it was worth, what the ledger paid, what was invoiced.

    ``value_minor`` is the worth of the month's units under a metered agreement, null for a license.
    Money follows use by seconds, and waits during a dispute, so it may differ from
    ``released_minor`` at the month's edges. ``ruled_minor`` was released by rulings, out of frozen
    money. ``ties``: the releases on record are those that the ledger booked from the escrow
    account, and the invoice, if there is one, is for exactly what was released.
    """

    agreement_id: AgreementId
    grant_id: GrantId
    buyer_id: PartyId
    seller_id: PartyId
    kind: PlanKind
    unit: Unit
    currency: Currency
    month: Month
    starts_at: datetime
    ends_at: datetime
    final: bool = Field(description="The month is over.")
    opening_units: Count
    closing_units: Count
    days: list[UsageDay]
    value_minor: int | None
    released_minor: int
    ruled_minor: int
    fee_minor: int = Field(description="Of what was released: the platform's.")
    ledger_released_minor: int = Field(description="Releases that the ledger took from escrow.")
    escrow: AccountStatement
    invoice: UsageInvoice | None
    ties: bool
