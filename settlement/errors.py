"""Refusals of settlement that reach a client. The tree:

PaymentRequired 402   InsufficientFunds · CardDeclined
BadRequest 400        WebhookSignatureInvalid · WebhookMalformed
Conflict 409          PayoutAccountNotReady · NotRefundable · NotChallenged
                      · HoldRefused · ReversalRefused · LedgerKeyReused · LedgerKeyRace
                      · BalanceLimit
NotFound 404          AccountNotFound · TopUpNotFound · PayoutNotFound · WebhookEventNotFound
                      · SavedCardNotFound · InvoiceNotFound
Conflict 409          CreditExceeded · NotCreditable
Invalid 422           AmountTooSmall · AmountNotPayable · CardNotAccepted
                      · DestinationNotAccepted · FeeBackdated · MonthUnknown
Unavailable 503       LedgerBusy · RailUnavailable
"""

from market.kernel.errors import (
    BadRequest,
    Conflict,
    Invalid,
    MarketError,
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


_BY_CODE: dict[str, type[MarketError]] = {
    "insufficient_funds": InsufficientFunds,
    "idempotency_key_reused": LedgerKeyReused,
    "balance_limit": BalanceLimit,
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
