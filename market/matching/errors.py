"""Refusals of market.matching. The tree:

MarketError
├── Invalid 422: OrderTooLarge, ExpiryOutOfRange, ReasonMissing, BundleCurrencies
├── PaymentRequired 402: OrderUnfunded
├── NotFound 404: OrderNotFound, BundleNotFound
├── Forbidden 403: NotTheSeller, SelfTrade
├── Conflict 409: OrderClosed, ClientOrderIdTaken, InstrumentClosed, PostOnlyWouldCross,
│   BundleUnfillable, BundleTooExpensive
├── Unavailable 503: EngineStandby, EngineBusy, EngineStalled, BookHalted
└── EngineFailed 500
"""

from market.kernel.errors import (
    Conflict,
    Forbidden,
    Invalid,
    MarketError,
    NotFound,
    PaymentRequired,
    Unavailable,
)


class OrderTooLarge(Invalid):
    code = "order_too_large"
    title = "Price times lots exceeds the largest amount"


class ExpiryOutOfRange(Invalid):
    code = "expiry_out_of_range"
    title = "expires_at must lie in the future, at most a year ahead"


class ReasonMissing(Invalid):
    code = "reason_missing"
    title = "An operator states why orders of somebody else are cancelled"


class OrderUnfunded(PaymentRequired):
    code = "insufficient_funds"
    title = "The available balance does not cover the order"
    default_hint = "Top up, or lower the price or the lots, and use a new Idempotency-Key."


class OrderNotFound(NotFound):
    code = "order_not_found"
    title = "No such order"


class BundleNotFound(NotFound):
    code = "bundle_not_found"
    title = "No such bundle"


class BundleCurrencies(Invalid):
    code = "bundle_currencies"
    title = "The plans of a bundle are priced in one currency"


class BundleUnfillable(Conflict):
    code = "bundle_unfillable"
    title = "A leg cannot trade whole at its limit, so nothing was traded"
    default_hint = "GET /v1/instruments/{plan_id}/book shows what is there. Then use a new key."


class BundleTooExpensive(Conflict):
    code = "bundle_too_expensive"
    title = "The legs together cost more than cost_max_minor, so nothing was traded"
    default_hint = "Raise cost_max_minor or wait for better prices, and use a new key."


class NotTheSeller(Forbidden):
    code = "not_the_seller"
    title = "Only the owner of the listing may sell its plans"


class SelfTrade(Forbidden):
    code = "self_trade"
    title = "A party cannot buy from itself or an affiliate"


class OrderClosed(Conflict):
    code = "order_closed"
    title = "The order is filled or cancelled already"


class ClientOrderIdTaken(Conflict):
    code = "client_order_id_taken"
    title = "The client_order_id belongs to another order of this party"


class InstrumentClosed(Conflict):
    code = "instrument_closed"
    title = "The instrument takes no such order at the moment"
    default_hint = "Send it again, under a new Idempotency-Key, when the instrument is open for it."


class PostOnlyWouldCross(Conflict):
    code = "post_only_would_cross"
    title = "With these terms the post-only order would trade at once"
    default_hint = "The order is as it was; choose another price."


class EngineStandby(Unavailable):
    code = "engine_standby"
    title = "Another process owns the matching engine"


class EngineBusy(Unavailable):
    code = "engine_busy"
    title = "The order queue is full"


class EngineStalled(Unavailable):
    code = "engine_stalled"
    title = "The outcome of the order is not known yet"


class BookHalted(Unavailable):
    code = "book_halted"
    title = "The book did not rebuild to its checksum and is halted"
    default_hint = "An operator has to compare the open orders with the book's state."


class EngineFailed(MarketError):
    code = "engine_failed"
    title = "The order could not be processed"
