"""Shares: the contributors' parts of a seller's net revenue, in append-only versions.

An agreement freezes the version that is current when it is formed; a change holds for later
agreements only.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func
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
from pricing.errors import ShareForSeller, SharePartyUnknown
from pricing.intermediaries import check_beside, newest_intermediary
from pricing.models import Share, ShareVersion
from pricing.plans import own_listing
from pricing.schemas import ShareInput, SharesInput, SharesView


async def get_shares(uow: UnitOfWork, listing_id: UUID) -> list[Share]:
    """The current shares of a listing in the order they were stated; empty: all to the seller."""
    return (await get_shares_of(uow, [listing_id]))[listing_id]


async def get_shares_of(uow: UnitOfWork, listing_ids: Sequence[UUID]) -> dict[UUID, list[Share]]:
    """The current shares of each of ``listing_ids``, as :func:`get_shares`, in one query."""
    newest = (
        select(ShareVersion.listing_id, func.max(ShareVersion.version).label("version"))
        .where(col(ShareVersion.listing_id).in_(listing_ids))
        .group_by(col(ShareVersion.listing_id))
        .subquery()
    )
    rows = await uow.session.exec(
        select(Share)
        .join(
            newest,
            (col(Share.listing_id) == newest.c.listing_id)
            & (col(Share.version) == newest.c.version),
        )
        .order_by(col(Share.listing_id), col(Share.position))
    )
    found: dict[UUID, list[Share]] = {listing_id: [] for listing_id in listing_ids}
    for share in rows:
        found[share.listing_id].append(share)
    return found


async def show_shares(kernel: Kernel, actor: Actor, listing_id: UUID) -> SharesView:
    """The current shares, for the seller and for overseers.

    Raises RoleRequired (403) and ListingNotFound (404).
    """
    actor.require(Role.SELLER, Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        if not may_oversee(actor, listing.seller_id):
            raise ListingNotFound
        newest = await _newest(uow, listing_id)
        return _view(listing_id, newest, await get_shares(uow, listing_id))


async def set_shares(
    kernel: Kernel, actor: Actor, listing_id: UUID, body: SharesInput, *, expected_version: int
) -> SharesView:
    """Replace a listing's shares for later agreements. Effect: event ``shares.changed``.

    Raises RoleRequired (403), ListingNotFound (404), ListingClosed, SharesExceedNet or
    IntermediaryHasShare (409), PreconditionFailed (412) when ``expected_version`` is not current
    (0 before the first), ShareForSeller or SharePartyUnknown (422).
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        listing = await own_listing(uow, actor, listing_id)
        newest = await _newest(uow, listing_id)
        current = newest.version if newest is not None else 0
        require_version(expected_version, current)
        await _check_parties(uow, listing.seller_id, body)
        check_beside(
            await newest_intermediary(uow, listing_id),
            [(share.party_id, share.ppm) for share in body.shares],
        )
        version = ShareVersion(
            listing_id=listing_id,
            version=current + 1,
            total_ppm=sum(share.ppm for share in body.shares),
            set_by=actor.party_id,
            created_at=uow.now,
        )
        uow.session.add(version)
        # The parts refer to their version, and the ORM knows no relationship to order them by.
        await uow.session.flush()
        rows = [
            Share(
                listing_id=listing_id,
                version=version.version,
                position=position,
                party_id=share.party_id,
                ppm=share.ppm,
            )
            for position, share in enumerate(body.shares, 1)
        ]
        uow.session.add_all(rows)
        uow.emit(
            "shares.changed",
            listing_id,
            {"listing_id": show("lst", listing_id), "version": version.version},
            parties=[listing.seller_id, *(share.party_id for share in body.shares)],
        )
        return _view(listing_id, version, rows)


async def _newest(uow: UnitOfWork, listing_id: UUID) -> ShareVersion | None:
    rows = await uow.session.exec(
        select(ShareVersion)
        .where(ShareVersion.listing_id == listing_id)
        .order_by(col(ShareVersion.version).desc())
        .limit(1)
    )
    return rows.one_or_none()


async def _check_parties(uow: UnitOfWork, seller_id: UUID, body: SharesInput) -> None:
    known = await get_parties(uow, [share.party_id for share in body.shares])
    for position, share in enumerate(body.shares):
        if share.party_id == seller_id:
            raise ShareForSeller(param=f"shares.{position}.party_id")
        if share.party_id not in known:
            raise SharePartyUnknown(param=f"shares.{position}.party_id")


def _view(listing_id: UUID, version: ShareVersion | None, rows: list[Share]) -> SharesView:
    return SharesView(
        listing_id=listing_id,
        version=version.version if version is not None else 0,
        shares=[ShareInput(party_id=row.party_id, ppm=row.ppm) for row in rows],
        seller_ppm=PPM - sum(row.ppm for row in rows),
        set_by=version.set_by if version is not None else None,
        created_at=version.created_at if version is not None else None,
    )
