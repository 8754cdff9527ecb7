"""Refusals of market.auctions. The tree:

NotFound 404   AuctionNotFound · BidNotFound
Conflict 409   AuctionEnded · AuctionNotOpen · ProofNotReady · ProductInUse · LicensePlanRequired
               · TooManyAuctions · TooManyBids · AlreadyBid · BidEnded
Forbidden 403  NotTheSeller · SelfDeal
Invalid 422    ScheduleOutOfRange · BidBelowReserve · BidNotRaised
"""

from market.kernel.errors import Conflict, Forbidden, Invalid, NotFound


class AuctionNotFound(NotFound):
    code = "auction_not_found"
    title = "No such auction"


class BidNotFound(NotFound):
    code = "bid_not_found"
    title = "No such bid"


class AuctionEnded(Conflict):
    code = "auction_ended"
    title = "The auction has ended"


class AuctionNotOpen(Conflict):
    code = "auction_not_open"
    title = "The auction does not take bids now"
    default_hint = "Bids count from `opens_at` until just before `closes_at`."


class ProofNotReady(Conflict):
    code = "proof_not_ready"
    title = "The auction has no proof"
    default_hint = "Only random_sampling auctions have one, once they are decided."


class ProductInUse(Conflict):
    code = "product_in_use"
    title = "The data has been sold: others may still use it"
    default_hint = "An exclusive license can be auctioned once all agreements on it have ended."


class LicensePlanRequired(Conflict):
    code = "license_plan_required"
    title = "Only licenses are auctioned"
    default_hint = "Make a plan of kind license first."


class TooManyAuctions(Conflict):
    code = "too_many_open_auctions"
    title = "The seller has as many open auctions as it may have"


class TooManyBids(Conflict):
    code = "too_many_bids"
    title = "The auction has as many bids as it can decide"


class AlreadyBid(Conflict):
    code = "already_bid"
    title = "The organization, or an affiliate, has a living bid in this auction"
    default_hint = "Raise that bid, or withdraw it first."


class BidEnded(Conflict):
    code = "bid_ended"
    title = "The bid no longer changes"


class NotTheSeller(Forbidden):
    code = "not_the_seller"
    title = "Only the owner of the listing may auction its plans"


class SelfDeal(Forbidden):
    code = "self_trade"
    title = "A party cannot deal with itself or an affiliate"


class ScheduleOutOfRange(Invalid):
    code = "schedule_out_of_range"
    title = "The auction must open and close in the future, in this order, and not too far"


class BidBelowReserve(Invalid):
    code = "bid_below_reserve"
    title = "The bid is below the published reserve price"


class BidNotRaised(Invalid):
    code = "bid_not_raised"
    title = "A bid can only be raised"
