"""Accepting a quote: money into escrow, agreement, grant and events in one transaction.

It forms the deal as the matching engine does (`market.matching.postings`, ``.record``): a hold
on the buyer's balance is captured into the agreement's escrow, `contracts.formation` writes the
agreement and its grant, the price becomes an observation. No order stands behind it, so the
trade is a row of ``demand.award`` and not of the public tape: the price was agreed in private.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from contracts.formation import Deal, form
from listings import offers
from listings.models import Listing
from market.demand.errors import BuyerUnfunded, ProposalMoved, SelfDeal
from market.demand.models import Award, Quote, QuoteStatus, RequestStatus, Side
from market.demand.quotes import check_turn, lock_quote, quote_view
from market.demand.requests import check_open, end_request
from market.demand.schemas import AcceptInput, RequestQuoteView
from market.demand.steps import quote_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.security import Actor, Role
from market.parties.directory import related, require_verified
from market.parties.trading import require_trading
from pricing.models import Plan
from pricing.observations import Observation, record
from pricing.plans import get_active_plan
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Capture, Hold
from settlement.errors import InsufficientFunds

# The hold is captured in the same transaction; it only has to outlive it.
_HOLD_TTL = timedelta(days=1)


async def accept_quote(
    kernel: Kernel, actor: Actor, quote_id: UUID, body: AcceptInput
) -> RequestQuoteView:
    """Accept the other side's latest proposal; the request is matched, other quotes lapse.

    Effects, all or none: the buyer's money goes to the agreement's escrow; agreement, grant,
    award and price observation; events ``quote.accepted``, ``request.matched``,
    ``quote.lapsed``, ``agreement.formed``. Raises RoleRequired, PartyNotVerified, TradingBlocked
    (of either side) or SelfDeal (403), QuoteNotFound (404), QuoteEnded, QuoteExpired, NotYourTurn,
    ProposalMoved, RequestNotOpen, PlanRetired or ListingNotLive (409), InsufficientFunds (402) to
    the buyer and BuyerUnfunded (409) to the seller.
    """
    actor.require(Role.BUYER, Role.SELLER)
    async with kernel.unit_of_work() as uow:
        request, quote, side = await lock_quote(uow, actor, quote_id)
        check_turn(quote, side, now=uow.now)
        if body.round != quote.round:
            raise ProposalMoved(f"The latest round is {quote.round}.", param="round")
        check_open(request, uow.now)
        buyer = await require_verified(uow, quote.buyer_id)
        seller = await require_verified(uow, quote.seller_id)
        await require_trading(uow, buyer.id, seller.id)
        if related(buyer, seller):
            raise SelfDeal
        plan = await get_active_plan(uow, quote.plan_id)
        listing = await offers.get_live_listing(uow, quote.listing_id)
        award = _award(quote, side, uow)
        await _pay(uow, award, side)
        await form(uow, kernel, [_deal(award, plan, listing)])
        await record(uow, [_observation(award, listing)])
        quote.status = QuoteStatus.ACCEPTED
        quote.agreement_id = award.agreement_id
        quote.closed_at = quote.updated_at = uow.now
        uow.session.add(award)
        quote_step(uow, quote, "accepted", actor=actor)
        await uow.session.flush()
        await end_request(uow, request, RequestStatus.MATCHED, actor=actor)
        view = await quote_view(uow, quote)
        await uow.answer(view, status=200)
    return view


def _award(quote: Quote, side: Side, uow: UnitOfWork) -> Award:
    return Award(
        id=new_id(),
        request_id=quote.request_id,
        quote_id=quote.id,
        plan_id=quote.plan_id,
        listing_id=quote.listing_id,
        buyer_id=quote.buyer_id,
        seller_id=quote.seller_id,
        lots=quote.lots,
        price_minor=quote.price_minor,
        amount_minor=quote.price_minor * quote.lots,
        currency=quote.currency,
        agreement_id=new_id(),
        accepted_by=side,
        at=uow.now,
    )


async def _pay(uow: UnitOfWork, award: Award, side: Side) -> None:
    """Hold and capture in one posting. Raises InsufficientFunds or BuyerUnfunded."""
    hold_id: UUID = new_id()
    account = AccountRef(AccountKind.AVAILABLE, award.buyer_id, award.currency)
    escrow = AccountRef(AccountKind.ESCROW, award.agreement_id, award.currency)
    hold = Hold(
        key=f"quote-hold:{award.quote_id.hex}",
        hold_id=hold_id,
        account=account,
        amount=award.amount_minor,
        expires_at=uow.now + _HOLD_TTL,
        memo_id=award.quote_id,
    )
    capture = Capture(
        key=f"quote-capture:{award.quote_id.hex}",
        hold_id=hold_id,
        kind="escrow",
        credits=((escrow, award.amount_minor),),
        memo_id=award.quote_id,
    )
    try:
        await ledger.post_strict(uow, [hold, capture])
    except InsufficientFunds:
        if side is Side.SELLER:
            raise BuyerUnfunded from None
        raise


def _deal(award: Award, plan: Plan, listing: Listing) -> Deal:
    return Deal(
        agreement_id=award.agreement_id,
        trade_id=award.id,
        plan=plan,
        listing=listing,
        version_id=listing.version_id,
        buyer_id=award.buyer_id,
        seller_id=award.seller_id,
        lots=award.lots,
        price_minor=award.price_minor,
        currency=award.currency,
        traded_at=award.at,
    )


def _observation(award: Award, listing: Listing) -> Observation:
    return Observation(
        plan_id=award.plan_id,
        listing_id=award.listing_id,
        category=listing.category,
        price_minor=award.price_minor,
        lots=award.lots,
        currency=award.currency,
        traded_at=award.at,
    )
