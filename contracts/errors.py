"""Refusals of agreements, grants, tokens, the meter and delivery. The tree:

NotFound ─ AgreementNotFound, GrantNotFound, TokenNotFound, ReceiptNotFound, AdjustmentNotFound,
           UsageHoldNotFound
Conflict ─ IllegalTransition, NotAcceptableYet, DeliveryInProgress, DeliveryIncomplete,
           DeliveryIdExpired, TokenEnded, AdjustmentOpen, AdjustmentExceedsEscrow,
           AdjustmentRefused, ResaleGrantInactive, ResaleUnitsShort, UnitRefused
Forbidden ─ PolicyRefused, TokenForOtherGrant, GrantSuspended, ResaleNotAllowed,
            TokenAddressRefused, TokenOperationRefused, TokenFieldRefused, TokenTooNarrow
PaymentRequired ─ QuotaExhausted ─ TokenQuotaExhausted
Gone ─ GrantRevoked, GrantExpired, TokenRevoked
Invalid ─ ColumnUnknown, OrderInvalid, DeliveryIdReused, DeliveryIdInvalid,
          ResalePlanMismatch, UsageTooMuch, TokenQuotaTooLarge
NotAcceptable ─ FormatNotOffered, CodingNotOffered
TooLarge ─ PageTooLarge             Unavailable ─ MeterUnavailable, MeterRecovering, QueryTimeout
"""

from market.kernel.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotAcceptable,
    NotFound,
    PaymentRequired,
    TooLarge,
    Unavailable,
)


class AgreementNotFound(NotFound):
    code, title = "agreement_not_found", "No such agreement"


class GrantNotFound(NotFound):
    code, title = "grant_not_found", "No such grant"


class TokenNotFound(NotFound):
    code, title = "token_not_found", "No such delivery token"


class ReceiptNotFound(NotFound):
    code, title = "receipt_not_found", "No such receipt"
    default_hint = "A receipt becomes readable as soon as its delivery is durable; try again."


class IllegalTransition(Conflict):
    code, title = "agreement_state", "The agreement's state does not allow this"


class NotAcceptableYet(Conflict):
    code, title = "agreement_not_delivered", "There is nothing to accept yet"
    default_hint = "A metered agreement is paid by use; it is accepted when all units are used."


class GrantClosed(Conflict):
    code, title = "grant_closed", "The grant no longer issues tokens"


class PolicyRefused(Forbidden):
    """Extra member ``clause``: the policy clause that refused."""

    code, title = "policy_refused", "The agreement's policy does not allow this"


class TokenForOtherGrant(Forbidden):
    code, title = "token_other_grant", "The token belongs to another grant"
    default_hint = "Use a token minted for this grant."


class TokenAddressRefused(Forbidden):
    code, title = "token_address_refused", "The token may not be used from this address"
    default_hint = "Its `networks` name the addresses that it is for."


class TokenOperationRefused(Forbidden):
    code, title = "token_operation_refused", "The token may not be used for this"
    default_hint = "Its `operations` name what it is for."


class TokenFieldRefused(Forbidden):
    """Extra member ``field``: the column that the token may not use."""

    code, title = "token_field_refused", "The token may not use this field"
    default_hint = "Its `fields` name those that it may select, filter and order by."


class TokenTooNarrow(Forbidden):
    code, title = "token_too_narrow", "This way out cannot keep to the token's limits"
    default_hint = "Tokens with `fields` or a `row_filter` are for the rows API and Delta Sharing."


class GrantSuspended(Forbidden):
    code, title = "grant_suspended", "Access is suspended"
    default_hint = (
        "A dispute is open, or access is held because of unusual use: "
        "GET /v1/agreements/{id}/usage-holds."
    )


class QuotaExhausted(PaymentRequired):
    """Extra members ``remaining``: units that can still be delivered, and ``unit``."""

    code, title = "quota_exhausted", "The grant has too few units left"
    default_hint = (
        "Ask for at most `remaining` units, or top up: POST /v1/orders for more of the plan. "
        "PUT /v1/agreements/{id}/auto-top-up orders it by itself."
    )


class TokenQuotaExhausted(QuotaExhausted):
    """Extra member ``remaining``: units that the token can still take."""

    code, title = "token_quota_exhausted", "The token's own quota has too few units left"
    default_hint = "Ask for at most `remaining` units, or use another token of the grant."


class GrantRevoked(Gone):
    code, title = "grant_revoked", "Access has been revoked"


class GrantExpired(Gone):
    code, title = "grant_expired", "The grant's term has ended"


class TokenExpired(Gone):
    code, title = "token_expired", "The delivery token has expired"
    default_hint = "Mint a new one with POST /v1/grants/{id}/tokens."


class TokenEnded(Conflict):
    code, title = "token_ended", "The delivery token has been replaced or has ended"
    default_hint = "Rotate the token that replaced it, or mint a new one."


class TokenRevoked(Gone):
    code, title = "token_revoked", "The delivery token has been revoked"


class TokenQuotaTooLarge(Invalid):
    """Extra member ``remaining``: units that the grant can still give."""

    code, title = "token_quota_too_large", "The quota is more than the grant can still give"


class ColumnUnknown(Invalid):
    code, title = "column_unknown", "The version has no such column"


class OrderInvalid(Invalid):
    code, title = "order_invalid", "The order cannot be used"


class DeliveryIdInvalid(Invalid):
    code, title = "delivery_id_invalid", "The Delivery-Id is not usable"
    default_hint = "8 to 64 characters of A-Z a-z 0-9 . _ : -"


class DeliveryIdReused(Invalid):
    code, title = "delivery_id_reused", "This Delivery-Id was used for a different query"
    default_hint = "Use a new Delivery-Id for a new query."


class DeliveryInProgress(Conflict):
    code, title = "delivery_in_progress", "A delivery with this id is still running"
    default_hint = "Repeat the same request after Retry-After seconds."


class UnitRefused(Conflict):
    code, title = "unit_refused", "The grant counts something that this way out does not have"
    default_hint = "Use another way out: docs/metering.md says which units each of them takes."


class DeliveryIncomplete(Conflict):
    code, title = "delivery_incomplete", "This delivery was cut off and cannot be replayed"
    default_hint = "Only what was sent was charged. Use a new Delivery-Id."


class DeliveryIdExpired(Conflict):
    code, title = "delivery_id_expired", "The time of free replay has passed"
    default_hint = "Use a new Delivery-Id."


class FormatNotOffered(NotAcceptable):
    code, title = "format_not_offered", "None of the accepted formats is offered"


class CodingNotOffered(NotAcceptable):
    code, title = "coding_not_offered", "None of the accepted content codings is offered"
    default_hint = "Offered are zstd, gzip and identity."


class PageTooLarge(TooLarge):
    code, title = "page_too_large", "The page is too large"
    default_hint = "Ask for fewer rows or columns."


class MeterUnavailable(Unavailable):
    code, title = "meter_unavailable", "The meter cannot be reached"
    default_hint = "Nothing was charged. Repeat the request after Retry-After seconds."


class MeterRecovering(Unavailable):
    code, title = "meter_recovering", "Some units are being recovered after a fault"
    default_hint = "Nothing was charged. Repeat the request after Retry-After seconds."


class QueryTimeout(Unavailable):
    code, title = "query_timeout", "The query took too long"
    default_hint = "Nothing was charged. Narrow the filter or ask for fewer rows."


class AdjustmentNotFound(NotFound):
    code, title = "adjustment_not_found", "No such open adjustment that is yours to answer"


class AdjustmentOpen(Conflict):
    code, title = "adjustment_open", "Another adjustment of the agreement waits for its answer"
    default_hint = "Answer or withdraw it first: GET /v1/agreements/{id}/adjustments."


class AdjustmentExceedsEscrow(Conflict):
    """Extra member ``escrow_minor``: what is left in escrow."""

    code, title = "adjustment_exceeds_escrow", "The adjustment is more than is left in escrow"


class AdjustmentRefused(Conflict):
    code, title = "adjustment_refused", "The agreement's money cannot be adjusted like this"


class ResaleNotAllowed(Forbidden):
    code, title = "resale_not_allowed", "The agreement's policy does not allow resale"
    default_hint = "Only metered units whose policy has a `resale` clause can be sold on."


class ResaleGrantInactive(Conflict):
    code, title = "resale_grant_inactive", "The grant's units cannot be sold on now"


class ResaleUnitsShort(Conflict):
    """Extra member ``free_units``: neither used, nor lent to the meter, nor offered."""

    code, title = "resale_units_short", "The grant has too few unused units"
    default_hint = "Units lent to the meter come back some minutes after the last delivery."


class ResalePlanMismatch(Invalid):
    code, title = "resale_plan_mismatch", "The grant was bought under another plan"


class UsageTooMuch(Invalid):
    code, title = "usage_too_much", "The period has too many usage records"
    default_hint = "Export a shorter period, or one grant at a time."


class UsageHoldNotFound(NotFound):
    code, title = "usage_hold_not_found", "Access under the agreement is not held"
