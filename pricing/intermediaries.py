"""A listing's intermediary (数商) and its commission, in append-only versions.

The commission is cut from the net after the platform fee, before the contributors' shares and
from the same base. The seller sets it, which is its consent; an agreement freezes what holds when
it is formed.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import distinct_on
from sqlmodel import col, select

from listings import offers
from listings.errors import ListingNotFound
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.http import require_version
from market.kernel.ids import show
from market.kernel.money import PPM
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import get_parties
from pricing.billing_models import Intermediary
from pricing.billing_schemas import IntermediaryInput, IntermediaryView
from pricing.errors import (
    IntermediaryHasShare,
    ShareForSeller,
    SharePartyUnknown,
    SharesExceedNet,
)
from pricing.models import Share, ShareVersion
from pricing.plans import own_listing


async def newest_intermediary(uow: UnitOfWork, listing_id: UUID) -> Intermediary | None:
    """The setting that holds, which may say "nobody"; None before the first."""
    return (await newest_intermediaries(uow, [listing_id])).get(listing_id)


async def newest_intermediaries(
    uow: UnitOfWork, listing_ids: Sequence[UUID]
) -> dict[UUID, Intermediary]:
    """The setting of each listing that has one, as :func:`newest_intermediary`, in one query."""
    rows = await uow.session.exec(
        select(Intermediary)
        .where(col(Intermediary.listing_id).in_(listing_ids))
        .ext(distinct_on(col(Intermediary.listing_id)))
        .order_by(col(Intermediary.listing_id), col(Intermediary.version).desc())
    )
    return {found.listing_id: found for found in rows}


async def show_intermediary(kernel: Kernel, actor: Actor, listing_id: UUID) -> IntermediaryView:
    """The current setting, for seller, intermediary and overseers. Raises ListingNotFound."""
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        found = await newest_intermediary(uow, listing_id)
        named = found is not None and found.party_id == actor.party_id
        if not named and not may_oversee(actor, listing.seller_id):
            raise ListingNotFound
        return _view(listing_id, found)


async def set_intermediary(
    kernel: Kernel,
    actor: Actor,
    listing_id: UUID,
    body: IntermediaryInput,
    *,
    expected_version: int,
) -> IntermediaryView:
    """Name, change or remove a listing's intermediary for later agreements.

    Effect: event ``intermediary.changed``. Raises RoleRequired (403), ListingNotFound (404),
    ListingClosed, IntermediaryHasShare or SharesExceedNet (409), PreconditionFailed (412),
    ShareForSeller or SharePartyUnknown (422).
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        listing = await own_listing(uow, actor, listing_id)
        newest = await newest_intermediary(uow, listing_id)
        current = newest.version if newest is not None else 0
        require_version(expected_version, current)
        if body.party_id == listing.seller_id:
            raise ShareForSeller(param="party_id")
        if body.party_id is not None and not await get_parties(uow, [body.party_id]):
            raise SharePartyUnknown(param="party_id")
        made = Intermediary(
            listing_id=listing_id,
            version=current + 1,
            party_id=body.party_id,
            ppm=body.ppm,
            set_by=actor.party_id,
            created_at=uow.now,
        )
        check_beside(made, await get_share_rows(uow, listing_id))
        uow.session.add(made)
        known = [item.party_id for item in (newest, made) if item is not None and item.party_id]
        uow.emit(
            "intermediary.changed",
            listing_id,
            {"listing_id": show("lst", listing_id), "version": made.version},
            parties=[listing.seller_id, *known],
        )
        return _view(listing_id, made)


async def get_share_rows(uow: UnitOfWork, listing_id: UUID) -> list[tuple[UUID, int]]:
    """(party, ppm) of the listing's newest shares."""
    newest = (
        select(func.max(ShareVersion.version))
        .where(ShareVersion.listing_id == listing_id)
        .scalar_subquery()
    )
    rows = await uow.session.exec(
        select(Share).where(Share.listing_id == listing_id, col(Share.version) == newest)
    )
    return [(row.party_id, row.ppm) for row in rows]


def check_beside(intermediary: Intermediary | None, shares: list[tuple[UUID, int]]) -> None:
    """Commission and shares are cut from one net. Raises SharesExceedNet, IntermediaryHasShare.

    The caller holds the listing's lock, so that neither changes meanwhile.
    """
    if intermediary is None or intermediary.party_id is None or intermediary.ppm is None:
        return
    if any(party == intermediary.party_id for party, _ in shares):
        raise IntermediaryHasShare
    if sum(ppm for _, ppm in shares) + intermediary.ppm >= PPM:
        raise SharesExceedNet


def _view(listing_id: UUID, row: Intermediary | None) -> IntermediaryView:
    return IntermediaryView(
        listing_id=listing_id,
        version=0 if row is None else row.version,
        party_id=None if row is None else row.party_id,
        ppm=None if row is None else row.ppm,
        set_by=None if row is None else row.set_by,
        created_at=None if row is None else row.created_at,
    )
