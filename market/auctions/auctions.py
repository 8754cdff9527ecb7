"""Auctions by their sellers: creating, cancelling, reading.

Locks: party, listing, auction, then the ledger. Every change of an auction or of its bids holds
the lock of the auction, so a bid and the close never overlap.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from contracts.in_force import product_in_use
from listings import offers, reservations
from listings.models import Listing
from market.auctions.digital_goods import commitment
from market.auctions.ending import end_auction
from market.auctions.errors import (
    AuctionEnded,
    AuctionNotFound,
    LicensePlanRequired,
    NotTheSeller,
    ProductInUse,
    ScheduleOutOfRange,
    TooManyAuctions,
)
from market.auctions.models import Auction, AuctionStatus, Rule
from market.auctions.schemas import AuctionCancelInput, AuctionInput, AuctionView
from market.auctions.steps import auction_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, lock_party, require_verified
from market.parties.trading import require_trading
from pricing.models import Plan, PlanKind
from pricing.plans import get_active_plan
from settlement import audit

OPEN_AUCTIONS_MAX = 100
OPENS_MAX = timedelta(days=90)
RUNS_MIN = timedelta(minutes=1)
RUNS_MAX = timedelta(days=90)
SEED_BYTES = 32


async def create_auction(kernel: Kernel, actor: Actor, body: AuctionInput) -> AuctionView:
    """Auction licenses of an own plan. Event ``auction.created``.

    Effects: an exclusive one takes the product off every other sale until it ends, and then
    until the agreements it formed have ended. Raises RoleRequired, PartyNotVerified,
    TradingBlocked or NotTheSeller (403), PlanNotFound or ListingNotFound (404), PlanRetired,
    LicensePlanRequired, ListingNotLive, ListingReserved, ProductInUse or TooManyAuctions (409),
    ScheduleOutOfRange (422).
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        await lock_party(uow, actor.party_id)
        await require_verified(uow, actor.party_id)
        await require_trading(uow, actor.party_id)
        plan = await get_active_plan(uow, body.plan_id)
        if plan.seller_id != actor.party_id:
            raise NotTheSeller(param="plan_id")
        if plan.kind is not PlanKind.LICENSE:
            raise LicensePlanRequired(param="plan_id")
        await offers.lock_listing(uow, plan.listing_id)
        listing = await offers.get_live_listing(uow, plan.listing_id)
        opens_at = _check_schedule(body, uow.now)
        await _check_count(uow, actor.party_id)
        auction = _new_auction(body, plan, listing, opens_at=opens_at, now=uow.now)
        if body.rule.exclusive:
            if await product_in_use(uow, listing.product_id):
                raise ProductInUse(param="plan_id")
            await reservations.reserve(uow, listing.product_id, holder_id=auction.id)
        uow.session.add(auction)
        await uow.session.flush()
        auction_step(uow, auction, "created", actor=actor)
        view = view_of(auction, actor)
        await uow.answer(view, headers={"Location": f"/v1/auctions/{show('auc', auction.id)}"})
    return view


async def cancel_auction(
    kernel: Kernel, actor: Actor, auction_id: UUID, body: AuctionCancelInput
) -> AuctionView:
    """End an auction without a sale (operators); all holds are freed. Event ``auction.cancelled``.

    Raises RoleRequired (403), AuctionNotFound (404), AuctionEnded (409).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        auction = await lock_auction(uow, auction_id)
        if auction.status != AuctionStatus.OPEN:
            raise AuctionEnded(f"The auction is {auction.status}.", current=auction.status)
        await end_auction(uow, auction, reason=body.reason, actor=actor)
        audit.record(uow, actor, "auction.cancel", auction.id, reason=body.reason)
        view = view_of(auction, actor)
        await uow.answer(view, status=200)
    return view


async def show_auction(kernel: Kernel, actor: Actor, auction_id: UUID) -> AuctionView:
    """One auction; everybody may see it. Raises AuctionNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return view_of(await get_auction(uow, auction_id), actor)


async def list_auctions(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    mine: bool = False,
    status: AuctionStatus | None = None,
    listing_id: UUID | None = None,
) -> Page[AuctionView]:
    """Newest first; with ``mine`` the actor's own. Raises BadCursor (422)."""
    after = after_id(page)
    statement = select(Auction).order_by(col(Auction.id).desc()).limit(page.limit + 1)
    if after is not None:
        statement = statement.where(col(Auction.id) < after)
    if mine:
        statement = statement.where(Auction.seller_id == actor.party_id)
    if status is not None:
        statement = statement.where(Auction.status == status.value)
    if listing_id is not None:
        statement = statement.where(Auction.listing_id == listing_id)
    async with kernel.unit_of_work() as uow:
        rows: Sequence[Auction] = (await uow.session.exec(statement)).all()
    return Page.of([view_of(row, actor) for row in rows], page.limit, [(row.id,) for row in rows])


async def get_auction(uow: UnitOfWork, auction_id: UUID) -> Auction:
    """One auction, unlocked. Raises AuctionNotFound (404)."""
    auction = await uow.session.get(Auction, auction_id)
    if auction is None:
        raise AuctionNotFound(param="auction_id")
    return auction


async def lock_auction(uow: UnitOfWork, auction_id: UUID) -> Auction:
    """The row, locked until the unit of work ends. Raises AuctionNotFound (404)."""
    statement = (
        select(Auction)
        .where(Auction.id == auction_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    auction = (await uow.session.exec(statement)).one_or_none()
    if auction is None:
        raise AuctionNotFound(param="auction_id")
    return auction


def view_of(auction: Auction, actor: Actor) -> AuctionView:
    """As ``actor`` may see it: the reserve and the number of bids can be secret until the end."""
    ended = auction.status != AuctionStatus.OPEN
    own = actor.party_id == auction.seller_id
    tell_reserve = ended or own or not auction.reserve_hidden
    tell_count = ended or may_oversee(actor, auction.seller_id)
    rule = Rule(auction.rule)
    return AuctionView(
        id=auction.id,
        seller_id=auction.seller_id,
        listing_id=auction.listing_id,
        plan_id=auction.plan_id,
        rule=rule,
        exclusive=rule.exclusive,
        licenses=auction.licenses,
        reserve_minor=auction.reserve_minor if tell_reserve else None,
        reserve_hidden=auction.reserve_hidden,
        currency=auction.currency,
        opens_at=auction.opens_at,
        closes_at=auction.closes_at,
        status=AuctionStatus(auction.status),
        commitment=auction.commitment,
        bid_count=auction.bid_count if tell_count else None,
        winner_count=auction.winner_count,
        price_low_minor=auction.price_low_minor,
        price_high_minor=auction.price_high_minor,
        reason=auction.reason,
        created_at=auction.created_at,
        closed_at=auction.closed_at,
    )


def _check_schedule(body: AuctionInput, now: datetime) -> datetime:
    opens_at = body.opens_at or now
    if not now <= opens_at <= now + OPENS_MAX:
        raise ScheduleOutOfRange(f"At most {OPENS_MAX.days} days ahead.", param="opens_at")
    if not RUNS_MIN <= body.closes_at - opens_at <= RUNS_MAX:
        raise ScheduleOutOfRange(
            f"An auction runs for {RUNS_MIN.seconds} seconds to {RUNS_MAX.days} days.",
            param="closes_at",
        )
    return opens_at


async def _check_count(uow: UnitOfWork, seller_id: UUID) -> None:
    statement = select(func.count()).where(
        Auction.seller_id == seller_id, Auction.status == AuctionStatus.OPEN.value
    )
    if (await uow.session.exec(statement)).one() >= OPEN_AUCTIONS_MAX:
        raise TooManyAuctions(f"At most {OPEN_AUCTIONS_MAX}.")


def _new_auction(
    body: AuctionInput, plan: Plan, listing: Listing, *, opens_at: datetime, now: datetime
) -> Auction:
    # Committed to before the first bid: afterwards nobody can choose how bidders are split.
    seed = None if body.rule.exclusive else secrets.token_bytes(SEED_BYTES)
    return Auction(
        id=new_id(),
        seller_id=plan.seller_id,
        listing_id=listing.id,
        product_id=listing.product_id,
        plan_id=plan.id,
        rule=body.rule,
        licenses=(body.licenses or 1) if body.rule.exclusive else None,
        reserve_minor=body.reserve_minor,
        reserve_hidden=body.reserve_hidden,
        currency=plan.currency,
        opens_at=opens_at,
        closes_at=body.closes_at,
        status=AuctionStatus.OPEN,
        seed=seed,
        commitment=None if seed is None else commitment(seed),
        bid_count=0,
        bid_seq=0,
        created_at=now,
        closed_at=None,
    )
