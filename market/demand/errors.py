"""Refusals of market.demand. The tree:

NotFound 404   RequestNotFound · QuoteNotFound · AlertNotFound
Conflict 409   RequestNotOpen · RequestEnded · TooManyRequests · QuoteEnded · QuoteExpired
               · NotYourTurn · ProposalMoved · RoundsUsedUp · TooManyQuotes · PlanQuoted
               · BuyerUnfunded
Forbidden 403  NotTheSeller · SelfDeal
Invalid 422    InviteeUnknown · ExpiryOutOfRange · QuoteTooLarge
"""

from market.kernel.errors import Conflict, Forbidden, Invalid, NotFound


class RequestNotFound(NotFound):
    code = "request_not_found"
    title = "No such request for data"


class QuoteNotFound(NotFound):
    code = "quote_not_found"
    title = "No such quote"


class AlertNotFound(NotFound):
    code = "alert_not_found"
    title = "No such alert"


class RequestNotOpen(Conflict):
    code = "request_not_open"
    title = "The request takes no quotes"


class RequestEnded(Conflict):
    code = "request_ended"
    title = "The request no longer changes"


class TooManyRequests(Conflict):
    code = "too_many_open_requests"
    title = "The organization has as many drafts and open requests as it may have"
    default_hint = "Close a request first."


class QuoteEnded(Conflict):
    code = "quote_ended"
    title = "The quote is no longer open"


class QuoteExpired(Conflict):
    code = "quote_expired"
    title = "The proposal was valid until an earlier time"
    default_hint = "Ask the seller for a new quote."


class NotYourTurn(Conflict):
    code = "not_your_turn"
    title = "The other side has to answer first"


class ProposalMoved(Conflict):
    code = "proposal_moved"
    title = "The round you answer is not the latest one"
    default_hint = "Fetch the quote again and decide on its latest proposal."


class RoundsUsedUp(Conflict):
    code = "rounds_used_up"
    title = "The negotiation has no rounds left"
    default_hint = "Accept or end it; the seller may make a new quote."


class TooManyQuotes(Conflict):
    code = "too_many_quotes"
    title = "The request has as many open quotes as it may have"


class PlanQuoted(Conflict):
    code = "plan_quoted"
    title = "The plan is quoted on this request already"
    default_hint = "Withdraw that quote first."


class BuyerUnfunded(Conflict):
    """What the seller hears; how much the buyer has is not its business."""

    code = "buyer_unfunded"
    title = "The buyer's balance does not cover its own proposal"
    default_hint = "The quote stays open: accept again once the buyer has topped up."


class NotTheSeller(Forbidden):
    code = "not_the_seller"
    title = "Only the owner of the listing may quote its plans"


class SelfDeal(Forbidden):
    code = "self_trade"
    title = "A party cannot deal with itself or an affiliate"


class InviteeUnknown(Invalid):
    code = "invitee_unknown"
    title = "An invited party does not exist or does not sell"


class ExpiryOutOfRange(Invalid):
    code = "expiry_out_of_range"
    title = "The time must lie in the future, and not too far"


class QuoteTooLarge(Invalid):
    code = "quote_too_large"
    title = "Price times lots, or the units of all lots, exceed what can be counted"
