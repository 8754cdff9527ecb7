"""The proof of a random-sampling auction: everything that its decision came from."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from market.auctions.auctions import get_auction
from market.auctions.errors import ProofNotReady
from market.auctions.models import (
    BIDS_MAX,
    Auction,
    AuctionBid,
    AuctionStatus,
    BidStatus,
    Rule,
)
from market.auctions.outcome import Sealed, sampled
from market.auctions.schemas import AuctionProof, ProofBid
from market.kernel.context import Kernel

_DECIDED = (AuctionStatus.AWARDED, AuctionStatus.UNSOLD)
_COUNTED = (BidStatus.WON.value, BidStatus.LOST.value)


async def show_proof(kernel: Kernel, auction_id: UUID) -> AuctionProof:
    """Seed, commitment and all counted bids without their bidders; everybody may see it.

    Raises AuctionNotFound (404), ProofNotReady (409) before the decision and for other rules.
    """
    async with kernel.unit_of_work() as uow:
        auction = await get_auction(uow, auction_id)
        if auction.rule != Rule.RANDOM_SAMPLING or auction.status not in _DECIDED:
            raise ProofNotReady(f"The {auction.rule} auction is {auction.status}.")
        statement = (
            select(AuctionBid)
            .where(
                AuctionBid.auction_id == auction_id,
                col(AuctionBid.status).in_(_COUNTED),
            )
            .order_by(col(AuctionBid.ref))
            .limit(BIDS_MAX)
        )
        bids = (await uow.session.exec(statement)).all()
    return _proof(auction, bids)


def _proof(auction: Auction, bids: Sequence[AuctionBid]) -> AuctionProof:
    assert auction.seed is not None
    assert auction.commitment is not None
    sealed = [Sealed(bid.id, bid.ref, bid.amount_minor) for bid in bids]
    offer, _ = sampled(sealed, auction.seed, auction.commitment, reserve=auction.reserve_minor)
    return AuctionProof(
        auction_id=auction.id,
        currency=auction.currency,
        reserve_minor=auction.reserve_minor,
        commitment=auction.commitment,
        seed=auction.seed.hex(),
        prices=list(offer.prices),
        bids=[
            ProofBid(
                bid_id=bid.id,
                ref=bid.ref,
                amount_minor=bid.amount_minor,
                price_minor=bid.price_minor,
            )
            for bid in bids
        ],
    )
