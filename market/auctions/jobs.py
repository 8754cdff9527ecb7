"""Background work of auctions. Each job does a bounded batch, and may run twice or at once.

Nothing depends on when they run: after its close an auction takes no bid, and nobody can tell
its amounts.
"""

from __future__ import annotations

import asyncpg

from listings import reservations
from market.auctions import sql
from market.auctions.auctions import lock_auction
from market.auctions.awards import decide
from market.auctions.bids import withdraw_locked
from market.auctions.models import AuctionBid, AuctionStatus, BidStatus
from market.auctions.steps import auction_step
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger

BATCH = 20
_BLOCKED = "the bidder may not trade"

_log = get_logger(__name__)


async def decide_auctions(kernel: Kernel) -> int:
    """Decide auctions whose close has passed, each in a transaction of its own.

    One that fails stops no other; the last failure is raised at the end.
    """
    async with kernel.unit_of_work() as uow:
        due = await sql.due_auctions(await uow.raw(), now=uow.now, limit=BATCH)
    decided = 0
    failure: Exception | None = None
    for auction_id in due:
        try:
            decided += await decide(kernel, auction_id)
        except (MarketError, asyncpg.PostgresError) as error:
            _log.error("auction_undecided", auction_id=str(auction_id), error=repr(error))
            failure = error
    if failure is not None:
        raise failure
    return decided


async def withdraw_blocked(kernel: Kernel) -> int:
    """Withdraw living bids of parties whose kill switch is on, while their auctions run."""
    async with kernel.unit_of_work() as uow:
        found = await sql.blocked_bids(await uow.raw(), now=uow.now, limit=BATCH)
    withdrawn = 0
    for bid_id, auction_id in found:
        async with kernel.unit_of_work() as uow:
            auction = await lock_auction(uow, auction_id)
            bid = await uow.session.get_one(AuctionBid, bid_id, populate_existing=True)
            running = auction.status == AuctionStatus.OPEN and uow.now < auction.closes_at
            if bid.status == BidStatus.LIVING and running:
                await withdraw_locked(uow, auction, bid, actor=None, reason=_BLOCKED)
                withdrawn += 1
    return withdrawn


async def release_products(kernel: Kernel) -> int:
    """Give products back to the market whose exclusive licenses have all ended."""
    async with kernel.unit_of_work() as uow:
        found = await sql.lapsed_reservations(await uow.raw(), limit=BATCH)
    released = 0
    for auction_id in found:
        async with kernel.unit_of_work() as uow:
            auction = await lock_auction(uow, auction_id)
            if await reservations.release(uow, auction_id):
                auction_step(uow, auction, "exclusivity_ended", actor=None)
                released += 1
    return released
