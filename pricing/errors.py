"""Refusals of pricing. The tree:

NotFound ── PlanNotFound, ValuationNotFound
Conflict ── ListingClosed, PlanRetired, PlanCurrencyMismatch, TooManyPlans,
             SharesExceedNet, IntermediaryHasShare
Invalid  ── ShareForSeller, SharePartyUnknown, ValuationImpossible
"""

from market.kernel.errors import Conflict, Invalid, NotFound


class PlanNotFound(NotFound):
    code = "plan_not_found"
    title = "No such plan"


class ValuationNotFound(NotFound):
    code = "valuation_not_found"
    title = "No such valuation"


class ListingClosed(Conflict):
    code = "listing_closed"
    title = "The listing no longer takes changes"


class PlanRetired(Conflict):
    code = "plan_retired"
    title = "The plan is retired"
    default_hint = "Choose another plan from GET /v1/listings/{id}/plans."


class PlanCurrencyMismatch(Conflict):
    code = "plan_currency_mismatch"
    title = "The active plans of a listing share one currency"
    default_hint = "Retire the plans in the other currency first."


class TooManyPlans(Conflict):
    code = "too_many_plans"
    title = "The listing has as many active plans as it may have"
    default_hint = "Retire a plan first."


class SharesExceedNet(Conflict):
    code = "shares_exceed_net"
    title = "Shares and commission together leave nothing to the seller"
    default_hint = "They are below 1,000,000 ppm together: lower one first."


class IntermediaryHasShare(Conflict):
    code = "intermediary_has_share"
    title = "A party is contributor or intermediary of a listing, not both"


class ShareForSeller(Invalid):
    code = "share_for_seller"
    title = "The seller needs no share"
    default_hint = "What the shares leave goes to the seller."


class SharePartyUnknown(Invalid):
    code = "share_party_unknown"
    title = "A share names a party that does not exist"


class ValuationImpossible(Invalid):
    code = "valuation_impossible"
    title = "The inputs give no price"
