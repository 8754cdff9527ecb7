"""Background work of listings. Each job does one bounded batch and may run twice at once."""

import asyncio
import shutil
import time
from pathlib import Path
from uuid import UUID, uuid4

from sqlmodel import col, select

from listings import offers, reviews, versions
from listings.intake import PARSE_MAX_S, SCRATCH_PARENT, SCRATCH_PREFIX, SPOOL_MAX_S
from listings.lifecycle import ListingStatus
from listings.models import CatalogEntry
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor, Role
from market.parties.directory import get_parties
from market.parties.models import PartyStatus

BATCH = 100
# Well above the time from intent to row, which is one blob upload.
INTENT_MAX_AGE_S = 6 * 3_600
SCRATCH_MAX_AGE_S = 2 * (SPOOL_MAX_S + PARSE_MAX_S)
SELLERS_PER_RUN = 1_000
# The exchange itself: no party has this id.
EXCHANGE = UUID(int=0)
_EXCHANGE_ACTOR = Actor(EXCHANGE, EXCHANGE, frozenset({Role.OPERATOR}), "job")


async def sweep_blobs(kernel: Kernel) -> int:
    """Delete blobs whose upload never finished. Returns how many.

    First the intent is marked, so that a late upload fails cleanly, then the blob goes, then the
    intent: a crash in between repeats, it never deletes a blob that a version refers to.
    """
    async with kernel.unit_of_work() as uow:
        keys = await versions.doom_abandoned_intents(uow, age_s=INTENT_MAX_AGE_S, limit=BATCH)
    for key in keys:
        await kernel.blobs.delete(key)
        async with kernel.unit_of_work() as uow:
            await versions.forget_intent(uow, key)
    return len(keys)


async def sweep_scratch(kernel: Kernel) -> int:
    """Remove scratch folders that a killed process left behind. Returns how many."""
    return await asyncio.to_thread(_remove_old, kernel.settings.home.resolve() / SCRATCH_PARENT)


def _remove_old(parent: Path) -> int:
    oldest = time.time() - SCRATCH_MAX_AGE_S
    removed = 0
    for folder in sorted(parent.glob(f"{SCRATCH_PREFIX}*"))[: BATCH * 10]:
        if folder.stat().st_mtime < oldest and removed < BATCH:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


async def suspend_listings_of_suspended_sellers(kernel: Kernel) -> int:
    """Take listings off the market whose seller may no longer trade. Returns how many.

    Orders are refused at once by `offers.get_live_listing`; this cleans the catalog.
    """
    async with kernel.unit_of_work() as uow:
        sellers = await get_parties(uow, await _some_sellers(uow))
        excluded = [
            party.id for party in sellers.values() if party.status is not PartyStatus.VERIFIED
        ]
        found = (
            select(CatalogEntry.listing_id)
            .where(col(CatalogEntry.seller_id).in_(excluded))
            .order_by(col(CatalogEntry.listing_id))
            .limit(BATCH)
        )
        listing_ids = (await uow.session.exec(found)).all() if excluded else []
        done = 0
        for listing_id in listing_ids:
            listing = await offers.lock_listing(uow, listing_id)
            if listing.status == ListingStatus.LISTED:
                await reviews.suspend(uow, _EXCHANGE_ACTOR, listing, "Its seller may not trade.")
                done += 1
    return done


async def _some_sellers(uow: UnitOfWork) -> set[UUID]:
    # From a random place around the circle of ids: a few runs see all sellers, however many.
    start = uuid4()
    found: set[UUID] = set()
    for side in (col(CatalogEntry.seller_id) >= start, col(CatalogEntry.seller_id) < start):
        statement = (
            select(CatalogEntry.seller_id)
            .where(side)
            .distinct()
            .order_by(col(CatalogEntry.seller_id))
            .limit(SELLERS_PER_RUN - len(found))
        )
        found.update((await uow.session.exec(statement)).all())
    return found
