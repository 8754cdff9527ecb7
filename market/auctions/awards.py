"""Deciding an auction: money into escrow, agreements, grants and results in one transaction.

Winners are formed as by an accepted quote (`market.demand.awards`). Everything is decided again
from the same rows if the process dies before COMMIT: bids do not change after the close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from contracts.formation import Deal, form
from contracts.in_force import product_in_use
from listings import offers, reservations
from listings.models import Listing
from market.auctions.auctions import lock_auction
from market.auctions.bids import UNDECIDED_MAX
from market.auctions.ending import (
    close_bid,
    end_auction,
    living_bids,
    resolve_holds,
    void_hold,
)
from market.auctions.halts import require_no_halt
from market.auctions.models import (
    Auction,
    AuctionAward,
    AuctionBid,
    AuctionStatus,
    BidStatus,
    Rule,
)
from market.auctions.outcome import Sealed, exclusive_prices, sampled
from market.auctions.steps import auction_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import Conflict, MarketError
from market.kernel.ids import new_id
from market.parties.directory import Standing, get_standings, related
from market.parties.models import PartyStatus
from market.parties.trading import blocked_of
from pricing.models import Plan
from pricing.observations import Observation, record
from pricing.plans import get_plan
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Capture, Command


class _Sale(NamedTuple):
    """What is sold: the plan's terms hold even if it was retired meanwhile."""

    auction: Auction
    plan: Plan
    listing: Listing


async def decide(kernel: Kernel, auction_id: UUID) -> bool:
    """Decide an auction whose close has passed; False when it was decided already, or while
    its market or instrument is halted.

    Effects, all or none: winners' holds captured into escrow at the price to pay, all other
    holds freed; agreements, grants, awards, price observations; events ``auction.awarded`` or
    ``auction.unsold``, ``bid.won``, ``bid.lost``, ``bid.void``, ``agreement.formed``. An auction
    of what can no longer be sold is cancelled. Raises AuctionNotFound (404).
    """
    async with kernel.unit_of_work() as uow:
        auction = await lock_auction(uow, auction_id)
        if auction.status != AuctionStatus.OPEN or uow.now < auction.closes_at:
            return False
        if await _halted(uow, auction):
            return False
        listing = await _sellable(uow, auction)
        if isinstance(listing, str):
            await end_auction(uow, auction, reason=listing, actor=None)
            return True
        sale = _Sale(auction, await get_plan(uow, auction.plan_id), listing)
        bids = await living_bids(uow, auction.id)
        unfit = await _unfit(uow, auction, bids)
        prices = _prices(auction, [bid for bid in bids if bid.id not in unfit])
        agreements = await _settle(uow, kernel, sale, bids, prices)
        for bid in bids:
            bid.price_minor, bid.agreement_id = prices.get(bid.id), agreements.get(bid.id)
        _publish(uow, auction, bids, unfit)
        await uow.session.flush()
        if not prices:
            await reservations.release(uow, auction.id)
    return True


async def _halted(uow: UnitOfWork, auction: Auction) -> bool:
    try:
        await require_no_halt(uow, auction.plan_id)
    except Conflict:
        return uow.now < auction.closes_at + UNDECIDED_MAX
    return False


async def _sellable(uow: UnitOfWork, auction: Auction) -> Listing | str:
    """The listing, or why its licenses cannot be sold."""
    if uow.now >= auction.closes_at + UNDECIDED_MAX:
        return "the auction was not decided in time"
    try:
        listing = await offers.get_live_listing(uow, auction.listing_id, holder_id=auction.id)
    except MarketError as error:
        return error.detail
    if await blocked_of(uow, [auction.seller_id]):
        return "the seller may not trade"
    # The order book may have matched an order while the auction was being created.
    if Rule(auction.rule).exclusive and await product_in_use(uow, auction.product_id):
        return "the data was sold otherwise when the auction began"
    return listing


async def _unfit(uow: UnitOfWork, auction: Auction, bids: Sequence[AuctionBid]) -> dict[UUID, str]:
    """Bids that do not count, and why: standing may have changed since they were made."""
    parties = await get_standings(uow, [auction.seller_id, *(bid.bidder_id for bid in bids)])
    blocked = await blocked_of(uow, parties)
    seller = parties[auction.seller_id]
    unfit: dict[UUID, str] = {}
    groups: set[UUID] = set()
    # Affiliates count as one bidder, by its highest bid.
    for bid in sorted(bids, key=lambda bid: (-bid.amount_minor, bid.ref)):
        party = parties[bid.bidder_id]
        may_trade = party.status is PartyStatus.VERIFIED and party.id not in blocked
        why = _why_unfit(party, seller, groups) if may_trade else "the bidder may not trade"
        if why is not None:
            unfit[bid.id] = why
        elif party.affiliate_group is not None:
            groups.add(party.affiliate_group)
    return unfit


def _why_unfit(party: Standing, seller: Standing, groups: set[UUID]) -> str | None:
    if related(party, seller):
        return "the bidder is an affiliate of the seller"
    if party.affiliate_group in groups:
        return "an affiliate has bid more"
    return None


def _prices(auction: Auction, bids: Sequence[AuctionBid]) -> dict[UUID, int]:
    """What each winner pays, by bid id; minor units."""
    sealed = [Sealed(bid.id, bid.ref, bid.amount_minor) for bid in bids]
    reserve = auction.reserve_minor
    if auction.licenses is not None:
        rule, licenses = Rule(auction.rule), auction.licenses
        return exclusive_prices(sealed, rule, reserve=reserve, licenses=licenses)
    assert auction.seed is not None
    assert auction.commitment is not None
    return sampled(sealed, auction.seed, auction.commitment, reserve=reserve)[1]


async def _settle(
    uow: UnitOfWork,
    kernel: Kernel,
    sale: _Sale,
    bids: Sequence[AuctionBid],
    prices: Mapping[UUID, int],
) -> dict[UUID, UUID]:
    """Money, agreements, awards and observations of the winners; everybody else's money back.

    Returns the agreements by bid id.
    """
    awards = [_award(uow, sale.auction, bid, prices[bid.id]) for bid in bids if bid.id in prices]
    agreements = {award.bid_id: award.agreement_id for award in awards}
    commands: list[Command] = [
        _capture(sale.auction, bid, prices[bid.id], agreements[bid.id])
        if bid.id in prices
        else void_hold(bid.hold_id)
        for bid in bids
    ]
    uow.session.add_all(awards)
    await resolve_holds(uow, commands)
    await form(uow, kernel, [_deal(award, sale) for award in awards])
    await record(uow, [_observation(award, sale.listing) for award in awards])
    return agreements


def _publish(
    uow: UnitOfWork, auction: Auction, bids: Sequence[AuctionBid], unfit: Mapping[UUID, str]
) -> None:
    """Results: to everybody the prices and the number of winners, to each bidder its own."""
    prices = [bid.price_minor for bid in bids if bid.price_minor is not None]
    auction.status = AuctionStatus.AWARDED if prices else AuctionStatus.UNSOLD
    auction.winner_count = len(prices)
    auction.price_low_minor = min(prices, default=None)
    auction.price_high_minor = max(prices, default=None)
    auction.bid_count = len(bids) - len(unfit)
    auction.closed_at = uow.now
    for bid in bids:
        status = BidStatus.LOST if bid.agreement_id is None else BidStatus.WON
        if bid.id in unfit:
            status = BidStatus.VOID
        close_bid(uow, bid, status, actor=None, reason=unfit.get(bid.id))
    bidders = [bid.bidder_id for bid in bids]
    auction_step(uow, auction, auction.status, actor=None, parties=bidders)


def _award(uow: UnitOfWork, auction: Auction, bid: AuctionBid, price_minor: int) -> AuctionAward:
    return AuctionAward(
        id=new_id(),
        auction_id=auction.id,
        bid_id=bid.id,
        plan_id=auction.plan_id,
        listing_id=auction.listing_id,
        buyer_id=bid.bidder_id,
        seller_id=auction.seller_id,
        price_minor=price_minor,
        currency=auction.currency,
        agreement_id=new_id(),
        at=uow.now,
    )


def _capture(auction: Auction, bid: AuctionBid, price_minor: int, agreement_id: UUID) -> Capture:
    escrow = AccountRef(AccountKind.ESCROW, agreement_id, auction.currency)
    return Capture(
        key=f"bid-capture:{bid.hold_id.hex}",
        hold_id=bid.hold_id,
        kind="escrow",
        credits=((escrow, price_minor),),
        memo_id=bid.id,
    )


def _deal(award: AuctionAward, sale: _Sale) -> Deal:
    return Deal(
        agreement_id=award.agreement_id,
        trade_id=award.id,
        plan=sale.plan,
        listing=sale.listing,
        version_id=sale.listing.version_id,
        buyer_id=award.buyer_id,
        seller_id=award.seller_id,
        lots=1,
        price_minor=award.price_minor,
        currency=award.currency,
        traded_at=award.at,
    )


def _observation(award: AuctionAward, listing: Listing) -> Observation:
    return Observation(
        plan_id=award.plan_id,
        listing_id=award.listing_id,
        category=listing.category,
        price_minor=award.price_minor,
        lots=1,
        currency=award.currency,
        traded_at=award.at,
    )
