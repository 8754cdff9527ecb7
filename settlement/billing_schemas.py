"""API shapes of fees, billing profiles, invoices and monthly statements."""

from datetime import date, datetime
from typing import Annotated, Self

from pydantic import Field, StrictInt, StringConstraints, model_validator

from listings.vocabulary import Category
from market.kernel.ids import (
    AccountId,
    AgreementId,
    FeeScheduleId,
    InvoiceId,
    PartyId,
    TransferId,
)
from market.kernel.money import MAX_MINOR, PPM, AmountMinor, BalanceMinor, Currency
from market.kernel.schemas import LocalizedText, LongText, Moment, Schema, ShortText
from settlement.accounts import AccountKind
from settlement.billing_models import InvoiceKind, Supply

RatePpm = Annotated[StrictInt, Field(ge=0, lt=PPM, description="Parts per million.")]
LimitMinor = Annotated[StrictInt, Field(ge=0, le=MAX_MINOR)]
Month = Annotated[
    str,
    StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$"),
    Field(description="A month in UTC.", examples=["2026-10"]),
]


class FeeScheduleInput(Schema):
    """A fee for agreements formed from ``effective_from`` on."""

    category: Category | None = Field(default=None, description="null: every other category.")
    currency: Currency
    fee_ppm: RatePpm
    minimum_minor: LimitMinor = 0
    cap_minor: LimitMinor | None = Field(default=None, description="null: no cap.")
    vat_ppm: RatePpm = Field(description="Value-added tax that the fee contains.")
    effective_from: Moment | None = Field(default=None, description="null: now.")
    reason: LongText

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.cap_minor is not None and self.cap_minor < self.minimum_minor:
            raise ValueError("the cap is not below the minimum")
        return self


class FeeScheduleView(Schema):
    """A decided fee. ``reason`` and ``set_by`` are null except for operators and regulators."""

    id: FeeScheduleId
    category: Category | None
    currency: Currency
    fee_ppm: int
    minimum_minor: int
    cap_minor: int | None
    vat_ppm: int
    effective_from: datetime
    created_at: datetime
    reason: str | None
    set_by: PartyId | None


class FeePreview(Schema):
    """What the platform takes of an amount, and the tax inside its fee."""

    schedule_id: FeeScheduleId | None = Field(description="null: the exchange's standard rate.")
    category: Category
    currency: Currency
    amount_minor: int
    fee_ppm: int
    minimum_minor: int
    cap_minor: int | None
    fee_minor: int
    fee_without_tax_minor: int
    fee_tax_minor: int
    vat_ppm: int
    net_minor: int = Field(description="For seller, contributors and intermediary.")


class BillingProfileInput(Schema):
    """What to print on your invoices (发票抬头)."""

    title: ShortText
    tax_number: ShortText | None = None
    address: ShortText | None = None
    phone: ShortText | None = None
    bank_name: ShortText | None = None
    bank_account: ShortText | None = None


class BillingProfileView(BillingProfileInput):
    """A billing profile; ``updated_at`` null: taken from the registration."""

    party_id: PartyId
    updated_at: datetime | None


class InvoiceSide(Schema):
    """Issuer or recipient as it was on the day of issue; ``id`` null: the exchange."""

    id: PartyId | None
    title: str
    tax_number: str | None
    address: str | None
    phone: str | None
    bank_name: str | None
    bank_account: str | None


class InvoiceLineView(Schema):
    """One item. Minor units; the first two amounts add up to the third."""

    position: int
    agreement_id: AgreementId
    item: LocalizedText
    tax_ppm: int
    without_tax_minor: int
    tax_minor: int
    total_minor: int


class InvoiceSummary(Schema):
    """An invoice or credit note without its lines. A credit note's amounts are positive."""

    id: InvoiceId
    number: str = Field(description="Year and number in the issuer's gapless series.")
    kind: InvoiceKind
    supply: Supply
    issuer: InvoiceSide
    recipient: InvoiceSide
    currency: Currency
    period_start: date
    period_end: date = Field(description="The day after the last.")
    without_tax_minor: int
    tax_minor: int
    total_minor: int
    corrects: InvoiceId | None
    reason: str | None
    transfer_id: TransferId | None = Field(description="What a credit note paid back.")
    issued_at: datetime


class InvoiceView(InvoiceSummary):
    """The whole document."""

    lines: list[InvoiceLineView]


class CreditNoteInput(Schema):
    """Take back part of one line; the money goes back in the same step."""

    position: Annotated[StrictInt, Field(ge=1, le=10_000)]
    amount_minor: AmountMinor = Field(description="With tax.")
    reason: LongText


class MovementView(Schema):
    """All postings of one kind in the month. ``net_minor`` = credits − debits."""

    kind: str
    postings: int
    credit_minor: BalanceMinor
    debit_minor: BalanceMinor
    net_minor: BalanceMinor


class AccountStatement(Schema):
    """One account's month: opening + Σ ``net_minor`` = closing."""

    account_id: AccountId
    kind: AccountKind
    currency: Currency
    opening_minor: BalanceMinor
    movements: list[MovementView]
    closing_minor: BalanceMinor
    first_seq: int | None = Field(description="First posting of the month on this account.")
    last_seq: int | None


class MonthlyStatement(Schema):
    """A party's month: every posting of its accounts, by kind. ``final``: the month is over."""

    party_id: PartyId
    month: Month
    starts_at: datetime
    ends_at: datetime
    final: bool
    accounts: list[AccountStatement]
