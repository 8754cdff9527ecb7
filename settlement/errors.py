"""Refusals of settlement that reach a client. The tree:

PaymentRequired 402   InsufficientFunds · CardDeclined
BadRequest 400        WebhookSignatureInvalid · WebhookMalformed
Conflict 409          PayoutAccountNotReady · NotRefundable · NotChallenged
                      · HoldRefused · ReversalRefused · LedgerKeyReused · LedgerKeyRace
                      · BalanceLimit · LinkedRefused · ProofNotOffered · QuoteExpired · QuoteUsed
                      · SecondOperatorRequired · CorrectionBooked · CaseClosed · CaseNotBookable
                      · PayoutRunOpen · CreditExceeded · NotCreditable
NotFound 404          AccountNotFound · TopUpNotFound · PayoutNotFound · WebhookEventNotFound
                      · SavedCardNotFound · TransferNotFound · RateNotFound · QuoteNotFound
                      · CorrectionNotFound · CaseNotFound · PayoutRunNotFound · ScheduleNotFound
                      · InvoiceNotFound
NotAcceptable 406     StatementFormatNotOffered
Invalid 422           AmountTooSmall · AmountNotPayable · CardNotAccepted · DayNotOver
                      · DestinationNotAccepted · RateInvalid · AmountNotConvertible
                      · CorrectionInvalid · StatementTooLong · PeriodInvalid · DebtTooSmall
                      · SameParty · FeeBackdated · MonthUnknown
Unavailable 503       LedgerBusy · RailUnavailable · ProofNotReady
"""

from market.kernel.errors import (
    BadRequest,
    Conflict,
    Invalid,
    MarketError,
    NotAcceptable,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from settlement.commands import Refused


class InsufficientFunds(PaymentRequired):
    code = "insufficient_funds"
    title = "The balance is too small"
    default_hint = "Top up with POST /v1/top-ups, then repeat with a new Idempotency-Key."


class CardDeclined(PaymentRequired):
    """``failure_code`` in the problem is the rail's own reason."""

    code = "card_declined"
    title = "The card was declined"
    default_hint = "Use another card and a new Idempotency-Key."


class HoldRefused(Conflict):
    code = "hold_refused"
    title = "The hold cannot be used like this"


class HoldExpired(HoldRefused):
    code = "hold_expired"
    title = "The hold has expired"


class HoldResolved(HoldRefused):
    code = "hold_resolved"
    title = "The hold is no longer open"


class ReversalRefused(Conflict):
    code = "reversal_refused"
    title = "The transfer cannot be reversed like this"


class AlreadyReversed(ReversalRefused):
    code = "already_reversed"
    title = "The transfer has been reversed already"


class LinkedRefused(Conflict):
    """Another command of the same group was refused; ``detail`` names its key and its reason."""

    code = "linked_refused"
    title = "A command that this one is linked with was refused"


class BalanceLimit(Conflict):
    code = "balance_limit"
    title = "The account would hold more than the ledger can count"


class LedgerKeyReused(Conflict):
    code = "idempotency_key_reused"
    title = "The ledger key was used for another command"


class LedgerKeyRace(Unavailable):
    """Two transactions used one key, hold id or reversal on unrelated accounts at once."""

    code = "ledger_key_race"
    title = "The same command is being booked by another process"


class LedgerBusy(Unavailable):
    code = "ledger_busy"
    title = "The ledger's queue is full"


class RailUnavailable(Unavailable):
    """The rail's answer is unknown: ask again with the same key, never with a new one."""

    code = "rail_unavailable"
    title = "The payment provider did not answer"


class AccountNotFound(NotFound):
    code = "account_not_found"
    title = "No such account"


class TopUpNotFound(NotFound):
    code = "top_up_not_found"
    title = "No such top-up"


class PayoutNotFound(NotFound):
    code = "payout_not_found"
    title = "No such payout"


class AmountTooSmall(Invalid):
    code = "amount_too_small"
    title = "The amount is below the minimum"


class TransferNotFound(NotFound):
    code = "transfer_not_found"
    title = "No such transfer"


class ProofNotOffered(Conflict):
    code = "proof_not_offered"
    title = "This transfer cannot be proved"


class ProofNotReady(Unavailable):
    code = "proof_not_ready"
    title = "The transfer is not covered by a signed checkpoint yet"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, retry_after_s=10)


class RateInvalid(Invalid):
    code = "exchange_rate_invalid"
    title = "The exchange rate is not usable"


class RateNotFound(NotFound):
    code = "exchange_rate_not_found"
    title = "No exchange rate is valid for this pair"
    default_hint = "See GET /v1/exchange/rates for the pairs that are exchanged."


class AmountNotConvertible(Invalid):
    code = "amount_not_convertible"
    title = "The amount cannot be converted"


class QuoteNotFound(NotFound):
    code = "exchange_quote_not_found"
    title = "No such exchange quote"


class QuoteExpired(Conflict):
    code = "exchange_quote_expired"
    title = "The exchange quote has expired"
    default_hint = "Ask for a new one with POST /v1/exchange/quotes."


class QuoteUsed(Conflict):
    code = "exchange_quote_used"
    title = "The exchange quote was taken already"


class CorrectionNotFound(NotFound):
    code = "correction_not_found"
    title = "No such correction"


class CorrectionInvalid(Invalid):
    code = "correction_invalid"
    title = "The correction is no transfer"


class SecondOperatorRequired(Conflict):
    code = "second_operator_required"
    title = "A second operator has to approve this"


class CorrectionBooked(Conflict):
    code = "correction_booked"
    title = "The correction is booked already"


class StatementTooLong(Invalid):
    code = "statement_too_long"
    title = "The period has too many lines for one statement"
    default_hint = "Ask for shorter periods, or page through the account's postings."


class PeriodInvalid(Invalid):
    code = "period_invalid"
    title = "The period is empty or not over yet"


class StatementFormatNotOffered(NotAcceptable):
    code = "format_not_offered"
    title = "Statements are not offered in this format"
    default_hint = "Accept application/json, text/csv or application/vnd.apache.parquet."


class NotChallenged(Conflict):
    code = "not_challenged"
    title = "The top-up waits for no authentication"


class AmountNotPayable(Invalid):
    """The provider cannot move this amount in this currency (whole units, tens, no support)."""

    code = "amount_not_payable"
    title = "The payment provider cannot move this amount"


class CardNotAccepted(Invalid):
    code = "card_not_accepted"
    title = "This exchange's payment provider does not take such a card token"


class DestinationNotAccepted(Invalid):
    code = "destination_not_accepted"
    title = "This exchange's payment provider does not pay to such a destination"


class PayoutAccountNotReady(Conflict):
    code = "payout_account_not_ready"
    title = "The payout account is not complete"
    default_hint = "Complete it at the `onboarding_url` of POST /v1/payout-accounts."


class NotRefundable(Conflict):
    code = "not_refundable"
    title = "The top-up cannot be refunded by this amount"


class SavedCardNotFound(NotFound):
    code = "saved_card_not_found"
    title = "No such saved card"


class WebhookEventNotFound(NotFound):
    code = "webhook_event_not_found"
    title = "No such webhook event"


class WebhookSignatureInvalid(BadRequest):
    code = "webhook_signature_invalid"
    title = "The webhook's signature is not valid now"


class WebhookMalformed(BadRequest):
    code = "webhook_malformed"
    title = "The webhook is not an event"


class CaseNotFound(NotFound):
    code = "case_not_found"
    title = "No such case"


class CaseClosed(Conflict):
    code = "case_closed"
    title = "The case is closed already"


class CaseNotBookable(Conflict):
    code = "case_not_bookable"
    title = "The case has no difference that could be booked"
    default_hint = "Close it with the resolution `explained`."


class DayNotOver(Invalid):
    code = "day_not_over"
    title = "Only a past day can be reconciled"


class ScheduleNotFound(NotFound):
    code = "payout_schedule_not_found"
    title = "No such payout schedule"


class PayoutRunNotFound(NotFound):
    code = "payout_run_not_found"
    title = "No such payout run"


class PayoutRunOpen(Conflict):
    code = "payout_run_open"
    title = "A payout run is under way"


class DebtTooSmall(Invalid):
    code = "debt_too_small"
    title = "The party does not owe that much"


class SameParty(Invalid):
    code = "same_party"
    title = "A claim needs two parties"


_BY_CODE: dict[str, type[MarketError]] = {
    "insufficient_funds": InsufficientFunds,
    "idempotency_key_reused": LedgerKeyReused,
    "balance_limit": BalanceLimit,
    "linked_refused": LinkedRefused,
    "hold_expired": HoldExpired,
    "hold_resolved": HoldResolved,
    "already_reversed": AlreadyReversed,
    "transfer_not_found": ReversalRefused,
    "reversal_of_reversal": ReversalRefused,
    "reversal_mismatch": ReversalRefused,
}


def error_of(refused: Refused) -> MarketError:
    """The exception for a ledger refusal; its detail is the refusal's."""
    return _BY_CODE.get(refused.code, HoldRefused)(refused.detail)


class InvoiceNotFound(NotFound):
    code = "invoice_not_found"
    title = "No such invoice"


class CreditExceeded(Conflict):
    """``remaining_minor`` in the problem is what may still be credited of the line."""

    code = "credit_exceeded"
    title = "The credit is more than is left of the invoice's line"


class NotCreditable(Conflict):
    code = "not_creditable"
    title = "Only an invoice can be credited, not a credit note"


class FeeBackdated(Invalid):
    code = "fee_backdated"
    title = "A fee schedule cannot begin in the past"
    default_hint = "Leave effective_from out to begin now."


class MonthUnknown(Invalid):
    code = "month_unknown"
    title = "The month is not one that a statement can be made of"
    default_hint = "Give a past or the present month as YYYY-MM."
