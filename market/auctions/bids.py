"""Bids by their buyers: placing, raising, withdrawing, until the close.

The whole amount is held on the bidder's balance. Nobody but the bidder is shown an amount before
the auction has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlmodel import col, select

from listings import offers
from market.auctions import sql
from market.auctions.auctions import get_auction, lock_auction
from market.auctions.ending import close_bid, resolve_holds, void_hold
from market.auctions.errors import (
    AlreadyBid,
    AuctionNotOpen,
    BidBelowReserve,
    BidEnded,
    BidNotFound,
    BidNotRaised,
    SelfDeal,
    TooManyBids,
)
from market.auctions.halts import require_no_halt
from market.auctions.models import BIDS_MAX, Auction, AuctionBid, AuctionStatus, BidStatus
from market.auctions.schemas import BidInput, BidView
from market.auctions.steps import bid_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id, get_party, related, require_verified
from market.parties.trading import require_trading
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Hold

# An auction that could not be decided for so long is cancelled; its holds end by themselves.
UNDECIDED_MAX = timedelta(days=30)


async def place_bid(kernel: Kernel, actor: Actor, auction_id: UUID, body: BidInput) -> BidView:
    """Bid for one license. Effects: a hold on the bidder's balance; event ``bid.placed``.

    Raises RoleRequired, PartyNotVerified, TradingBlocked or SelfDeal (403), AuctionNotFound (404),
    AuctionNotOpen, MarketHalted, InstrumentHalted, AlreadyBid, TooManyBids or ListingNotLive
    (409), InsufficientFunds (402), BidBelowReserve (422).
    """
    actor.require(Role.BUYER)
    async with kernel.unit_of_work() as uow:
        auction = await lock_auction(uow, auction_id)
        check_takes_bids(auction, uow.now)
        await _check_bidder(uow, auction, actor.party_id)
        _check_amount(auction, body.amount_minor)
        if auction.bid_count >= BIDS_MAX:
            raise TooManyBids(f"At most {BIDS_MAX}.")
        bid = AuctionBid(
            id=new_id(),
            auction_id=auction.id,
            bidder_id=actor.party_id,
            ref=_next_ref(auction),
            amount_minor=body.amount_minor,
            hold_id=new_id(),
            status=BidStatus.LIVING,
            created_at=uow.now,
            updated_at=uow.now,
            closed_at=None,
        )
        auction.bid_count += 1
        uow.session.add(bid)
        await ledger.post_strict(uow, [_hold(auction, bid)])
        bid_step(uow, bid, "placed", actor=actor)
        view = view_of(bid, auction)
        await uow.answer(view, headers={"Location": f"/v1/bids/{show('bid', bid.id)}"})
    return view


async def raise_bid(kernel: Kernel, actor: Actor, bid_id: UUID, body: BidInput) -> BidView:
    """Raise a living bid; among equal amounts it stands where a new one would. Event
    ``bid.raised``.

    Effects: the old hold is freed, the new amount held. Raises RoleRequired,
    PartyNotVerified or TradingBlocked (403), BidNotFound (404), BidEnded, AuctionNotOpen,
    MarketHalted, InstrumentHalted or ListingNotLive (409), InsufficientFunds (402),
    BidNotRaised (422).
    """
    actor.require(Role.BUYER)
    async with kernel.unit_of_work() as uow:
        auction, bid = await _lock_own(uow, actor, bid_id)
        await _check_standing(uow, auction, actor.party_id)
        if body.amount_minor <= bid.amount_minor:
            raise BidNotRaised(f"The bid is {bid.amount_minor}.", param="amount_minor")
        before = void_hold(bid.hold_id)
        bid.hold_id = new_id()
        bid.amount_minor = body.amount_minor
        bid.ref = _next_ref(auction)
        bid.updated_at = uow.now
        # One list: what the old hold frees may pay for the new one.
        await ledger.post_strict(uow, [before, _hold(auction, bid)])
        bid_step(uow, bid, "raised", actor=actor)
        view = view_of(bid, auction)
        await uow.answer(view, status=200)
    return view


async def withdraw_bid(kernel: Kernel, actor: Actor, bid_id: UUID) -> BidView:
    """Take a living bid back before the close. Event ``bid.withdrawn``.

    Effect: its hold is freed. Raises RoleRequired (403), BidNotFound (404), BidEnded or
    AuctionNotOpen (409).
    """
    actor.require(Role.BUYER)
    async with kernel.unit_of_work() as uow:
        auction, bid = await _lock_own(uow, actor, bid_id)
        await withdraw_locked(uow, auction, bid, actor=actor)
        view = view_of(bid, auction)
        await uow.answer(view, status=200)
    return view


async def withdraw_locked(
    uow: UnitOfWork,
    auction: Auction,
    bid: AuctionBid,
    *,
    actor: Actor | None,
    reason: str | None = None,
) -> None:
    """Withdraw a living bid of a locked auction and free its hold."""
    auction.bid_count -= 1
    await resolve_holds(uow, [void_hold(bid.hold_id)])
    close_bid(uow, bid, BidStatus.WITHDRAWN, actor=actor, reason=reason)


async def show_bid(kernel: Kernel, actor: Actor, bid_id: UUID) -> BidView:
    """An own bid; once its auction has ended also to overseers. Raises BidNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        bid = await uow.session.get(AuctionBid, bid_id)
        if bid is None:
            raise BidNotFound(param="bid_id")
        auction = await get_auction(uow, bid.auction_id)
        ended = auction.status != AuctionStatus.OPEN
        oversees = ended and actor.has(Role.OPERATOR, Role.REGULATOR)
        if bid.bidder_id != actor.party_id and not oversees:
            raise BidNotFound(param="bid_id")
        return view_of(bid, auction)


async def list_bids(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    auction_id: UUID | None = None,
    status: BidStatus | None = None,
) -> Page[BidView]:
    """The actor's own bids, newest first. Raises BadCursor (422)."""
    after = after_id(page)
    statement = (
        select(AuctionBid)
        .where(AuctionBid.bidder_id == actor.party_id)
        .order_by(col(AuctionBid.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        statement = statement.where(col(AuctionBid.id) < after)
    if auction_id is not None:
        statement = statement.where(AuctionBid.auction_id == auction_id)
    if status is not None:
        statement = statement.where(AuctionBid.status == status.value)
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
        auctions = await _auctions_of(uow, rows)
    views = [view_of(row, auctions[row.auction_id]) for row in rows]
    return Page.of(views, page.limit, [(row.id,) for row in rows])


def check_takes_bids(auction: Auction, now: datetime) -> None:
    """Raises AuctionNotOpen (409) unless bids may change at ``now``."""
    if auction.status != AuctionStatus.OPEN:
        raise AuctionNotOpen(f"The auction is {auction.status}.", current=auction.status)
    if now < auction.opens_at:
        raise AuctionNotOpen(f"It opens at {auction.opens_at.isoformat()}.")
    if now >= auction.closes_at:
        raise AuctionNotOpen(f"It closed at {auction.closes_at.isoformat()}.")


def view_of(bid: AuctionBid, auction: Auction) -> BidView:
    """As the API shows it to those who may see it."""
    return BidView(
        id=bid.id,
        auction_id=bid.auction_id,
        bidder_id=bid.bidder_id,
        amount_minor=bid.amount_minor,
        currency=auction.currency,
        status=BidStatus(bid.status),
        price_minor=bid.price_minor,
        agreement_id=bid.agreement_id,
        created_at=bid.created_at,
        updated_at=bid.updated_at,
        closed_at=bid.closed_at,
    )


def account_of(bid: AuctionBid, auction: Auction) -> AccountRef:
    """Where the bidder's money is."""
    return AccountRef(AccountKind.AVAILABLE, bid.bidder_id, auction.currency)


async def _check_bidder(uow: UnitOfWork, auction: Auction, party_id: UUID) -> None:
    """Raises as :func:`place_bid` for who may not bid, or has bid already."""
    await _check_standing(uow, auction, party_id)
    buyer = await get_party(uow, party_id)
    if await sql.has_living_bid(
        await uow.raw(), auction.id, party_id=party_id, group_id=buyer.affiliate_group
    ):
        raise AlreadyBid


async def _check_standing(uow: UnitOfWork, auction: Auction, party_id: UUID) -> None:
    buyer = await require_verified(uow, party_id)
    await require_trading(uow, party_id, auction.seller_id)
    await require_no_halt(uow, auction.plan_id)
    if related(buyer, await get_party(uow, auction.seller_id)):
        raise SelfDeal(param="auction_id")
    await offers.get_live_listing(uow, auction.listing_id, holder_id=auction.id)


def _check_amount(auction: Auction, amount_minor: int) -> None:
    # A hidden reserve must not be found by trying: such a bid is taken and does not count.
    if amount_minor < auction.reserve_minor and not auction.reserve_hidden:
        raise BidBelowReserve(f"The reserve is {auction.reserve_minor}.", param="amount_minor")


def _next_ref(auction: Auction) -> int:
    auction.bid_seq += 1
    return auction.bid_seq


def _hold(auction: Auction, bid: AuctionBid) -> Hold:
    return Hold(
        key=f"bid-hold:{bid.hold_id.hex}",
        hold_id=bid.hold_id,
        account=account_of(bid, auction),
        amount=bid.amount_minor,
        expires_at=auction.closes_at + UNDECIDED_MAX,
        memo_id=bid.id,
    )


async def _lock_own(uow: UnitOfWork, actor: Actor, bid_id: UUID) -> tuple[Auction, AuctionBid]:
    """The auction and the bid under its lock. Raises BidNotFound, BidEnded, AuctionNotOpen."""
    # Looked at before it is locked: nobody can make the bidders wait for a stranger.
    seen = await uow.session.get(AuctionBid, bid_id)
    if seen is None or seen.bidder_id != actor.party_id:
        raise BidNotFound(param="bid_id")
    auction = await lock_auction(uow, seen.auction_id)
    await uow.session.refresh(seen)
    if seen.status != BidStatus.LIVING:
        raise BidEnded(f"The bid is {seen.status}.", current=seen.status)
    check_takes_bids(auction, uow.now)
    return auction, seen


async def _auctions_of(uow: UnitOfWork, bids: Sequence[AuctionBid]) -> Mapping[UUID, Auction]:
    ids = sorted({bid.auction_id for bid in bids})
    if not ids:
        return {}
    rows = await uow.session.exec(select(Auction).where(col(Auction.id).in_(ids)))
    return {auction.id: auction for auction in rows}
