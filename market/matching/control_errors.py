"""Refusals that operators' controls cause, and those of the controls themselves. The tree:

MarketError
├── Invalid 422: PriceOffTick, LotsOffStep, TooFewLots, TooManyLots, PriceOutsideBand,
│   OrderInconsistent, CallTimesInvalid
├── NotFound 404: CallAuctionNotFound
├── TooMany 429: TooManyMessages
└── Conflict 409: InstrumentHalted, MarketHalted, TooManyOpenOrders, TradeOutsideBand,
    AlreadyHalted, NotHalted, AlreadyBlocked, NotBlocked, BookCrossed, CallAuctionPending,
    CallAuctionStarted
"""

from market.kernel.errors import Conflict, Invalid, NotFound, TooMany
from market.matching.rules import Violation


class PriceOffTick(Invalid):
    code = "price_off_tick"
    title = "The price is not a multiple of the instrument's tick"


class LotsOffStep(Invalid):
    code = "lots_off_step"
    title = "The lots are not a multiple of the instrument's lot step"


class TooFewLots(Invalid):
    code = "too_few_lots"
    title = "The order has fewer lots than the instrument takes"


class TooManyLots(Invalid):
    code = "too_many_lots"
    title = "The order has more lots than the instrument takes"


class PriceOutsideBand(Invalid):
    code = "price_outside_band"
    title = "The price lies outside of the instrument's price band"
    default_hint = "GET /v1/instruments/{plan_id} shows the band."


class OrderInconsistent(Invalid):
    code = "order_inconsistent"
    title = "The order's fields contradict each other"


class InstrumentHalted(Conflict):
    code = "instrument_halted"
    title = "The instrument is halted: it takes cancels and reductions only"
    default_hint = "GET /v1/instruments/{plan_id} shows the reason. Then use a new key."


class MarketHalted(Conflict):
    code = "market_halted"
    title = "The market is halted: it takes cancels and reductions only"
    default_hint = "GET /v1/market shows the reason. Then use a new key."


class TooManyOpenOrders(Conflict):
    code = "too_many_open_orders"
    title = "The party has as many open orders on this instrument as it may have"
    default_hint = "Cancel some, then use a new Idempotency-Key."


class TradeOutsideBand(Conflict):
    code = "trade_outside_band"
    title = "The order would trade at a price outside of the instrument's price band"
    default_hint = "An older order rests there. An operator may set a reference or hold an auction."


class TooManyMessages(TooMany):
    code = "too_many_messages"
    title = "The party sends more orders and cancels per second than it may"
    default_hint = "Repeat with the same Idempotency-Key after Retry-After seconds."


class AlreadyHalted(Conflict):
    code = "already_halted"
    title = "It is halted already"


class NotHalted(Conflict):
    code = "not_halted"
    title = "It is not halted"


class AlreadyBlocked(Conflict):
    code = "already_blocked"
    title = "The party's trading is stopped already"


class NotBlocked(Conflict):
    code = "not_blocked"
    title = "The party's trading is not stopped"


class BookCrossed(Conflict):
    code = "book_crossed"
    title = "Bids and offers cross: the instrument can only reopen through a call auction"
    default_hint = "Resume with auction_s."


class CallAuctionPending(Conflict):
    code = "call_auction_pending"
    title = "The instrument has a call auction that is not over"


class CallAuctionStarted(Conflict):
    code = "call_auction_started"
    title = "The call auction has begun or is over"


class CallAuctionNotFound(NotFound):
    code = "call_auction_not_found"
    title = "No such call auction"


class CallTimesInvalid(Invalid):
    code = "call_times_invalid"
    title = "A call auction opens within a year and closes after it opens, within a day"


BROKEN: dict[Violation, type[Invalid]] = {
    Violation.TICK: PriceOffTick,
    Violation.LOT_STEP: LotsOffStep,
    Violation.LOTS_MIN: TooFewLots,
    Violation.LOTS_MAX: TooManyLots,
    Violation.BAND: PriceOutsideBand,
}
