"""How an auction ends: without a sale here, by a decision in `market.auctions.awards`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from listings import reservations
from market.auctions.models import Auction, AuctionBid, AuctionStatus, BidStatus
from market.auctions.steps import auction_step, bid_step
from market.kernel.db import UnitOfWork
from market.kernel.logging import get_logger
from market.kernel.security import Actor
from settlement import ledger
from settlement.commands import Capture, Command, Refused, Void
from settlement.errors import error_of

_log = get_logger(__name__)


async def end_auction(
    uow: UnitOfWork, auction: Auction, *, reason: str, actor: Actor | None
) -> None:
    """Cancel a locked open auction: living bids become void, their money is free again.

    Effects: holds voided, the product is back on the market, events ``auction.cancelled`` and
    ``bid.void``.
    """
    bids = await living_bids(uow, auction.id)
    await resolve_holds(uow, [void_hold(bid.hold_id) for bid in bids])
    auction.status = AuctionStatus.CANCELLED
    auction.reason = reason
    auction.closed_at = uow.now
    for bid in bids:
        close_bid(uow, bid, BidStatus.VOID, actor=actor, reason="the auction was cancelled")
    await uow.session.flush()
    await reservations.release(uow, auction.id)
    bidders = [bid.bidder_id for bid in bids]
    auction_step(uow, auction, "cancelled", actor=actor, parties=bidders, reason=reason)


async def living_bids(uow: UnitOfWork, auction_id: UUID) -> Sequence[AuctionBid]:
    """Living bids in order of time; the auction is locked."""
    statement = (
        select(AuctionBid)
        .where(AuctionBid.auction_id == auction_id, AuctionBid.status == BidStatus.LIVING.value)
        .order_by(col(AuctionBid.ref))
        .execution_options(populate_existing=True)
    )
    return (await uow.session.exec(statement)).all()


def close_bid(
    uow: UnitOfWork,
    bid: AuctionBid,
    status: BidStatus,
    *,
    actor: Actor | None,
    reason: str | None = None,
) -> None:
    """Give a living bid its final status, with its event ``bid.<status>``."""
    bid.status = status
    bid.closed_at = bid.updated_at = uow.now
    bid_step(uow, bid, status.value, actor=actor, reason=reason)


def void_hold(hold_id: UUID) -> Void:
    """Free the money of a bid."""
    return Void(f"bid-void:{hold_id.hex}", hold_id)


async def resolve_holds(uow: UnitOfWork, commands: Sequence[Command]) -> None:
    """Post captures and voids of bids, all at once.

    Raises the ledger's refusal of a capture; a hold that has ended by itself needs no void.
    """
    for command, result in zip(commands, await ledger.post(uow, commands), strict=True):
        if not isinstance(result, Refused):
            continue
        if isinstance(command, Capture):
            raise error_of(result)
        _log.warning("bid_void_refused", key=command.key, code=result.code)
