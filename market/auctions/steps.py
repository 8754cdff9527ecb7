"""What each change leaves behind: a row of the record, and an event. Neither tells an amount
before the auction is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from market.auctions.models import Auction, AuctionBid, AuctionStep, BidStatus
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Actor


def auction_step(
    uow: UnitOfWork,
    auction: Auction,
    action: str,
    *,
    actor: Actor | None,
    parties: Sequence[UUID] = (),
    reason: str | None = None,
) -> None:
    """Record ``action`` by ``actor`` (None: time); event ``auction.<action>`` to the seller and
    ``parties``, with the result once there is one.
    """
    _record(uow, auction.id, None, action, status=auction.status, actor=actor, reason=reason)
    uow.emit(
        f"auction.{action}",
        auction.id,
        {
            "auction_id": show("auc", auction.id),
            "listing_id": show("lst", auction.listing_id),
            "plan_id": show("pln", auction.plan_id),
            "rule": auction.rule,
            "status": auction.status,
            "opens_at": auction.opens_at.isoformat(),
            "closes_at": auction.closes_at.isoformat(),
            "commitment": auction.commitment,
            "winner_count": auction.winner_count,
            "price_low_minor": auction.price_low_minor,
            "price_high_minor": auction.price_high_minor,
            "currency": auction.currency,
            "reason": reason,
        },
        parties=[auction.seller_id, *parties],
    )


def bid_step(
    uow: UnitOfWork, bid: AuctionBid, action: str, *, actor: Actor | None, reason: str | None = None
) -> None:
    """The same for a bid; its event ``bid.<action>`` goes to the bidder only."""
    _record(uow, bid.auction_id, bid.id, action, status=bid.status, actor=actor, reason=reason)
    data: Mapping[str, object] = {
        "bid_id": show("bid", bid.id),
        "auction_id": show("auc", bid.auction_id),
        "status": bid.status,
        "reason": reason,
    }
    if bid.status == BidStatus.WON and bid.agreement_id is not None:
        agreement = show("agr", bid.agreement_id)
        data = {**data, "price_minor": bid.price_minor, "agreement_id": agreement}
    uow.emit(f"bid.{action}", bid.id, data, parties=[bid.bidder_id])


def _record(
    uow: UnitOfWork,
    auction_id: UUID,
    bid_id: UUID | None,
    action: str,
    *,
    status: str,
    actor: Actor | None,
    reason: str | None,
) -> None:
    uow.session.add(
        AuctionStep(
            id=new_id(),
            auction_id=auction_id,
            bid_id=bid_id,
            action=action,
            status=status,
            reason=reason,
            actor_id=actor.party_id if actor else None,
            credential_id=actor.credential_id if actor else None,
            at=uow.now,
        )
    )
