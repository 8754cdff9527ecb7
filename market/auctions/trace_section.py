"""The auction's section of a trade's trace. Bids stay sealed: no amount but the price paid."""

from __future__ import annotations

from typing import Any

from sqlmodel import select

from contracts import trace
from contracts.models import Agreement
from market.auctions.auctions import get_auction
from market.auctions.models import AuctionAward
from market.kernel.db import UnitOfWork
from market.kernel.ids import show


def install() -> None:
    """Put the section into every trace."""
    trace.register("auction", _section)


async def _section(uow: UnitOfWork, agreement: Agreement) -> Any:
    query = select(AuctionAward).where(AuctionAward.agreement_id == agreement.id)
    award = (await uow.session.exec(query)).one_or_none()
    if award is None:
        return None
    auction = await get_auction(uow, award.auction_id)
    return {
        "auction_id": show("auc", auction.id),
        "rule": auction.rule,
        "licenses": auction.licenses,
        "reserve_minor": auction.reserve_minor,
        "opens_at": auction.opens_at.isoformat(),
        "closes_at": auction.closes_at.isoformat(),
        "decided_at": award.at.isoformat(),
        "commitment": auction.commitment,
        "seed": None if auction.seed is None else auction.seed.hex(),
        "bid_count": auction.bid_count,
        "winner_count": auction.winner_count,
        "bid_id": show("bid", award.bid_id),
        "price_minor": award.price_minor,
        "currency": award.currency,
    }
