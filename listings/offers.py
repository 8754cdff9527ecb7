"""What other packages ask about listings: reading offers, versions, certificates; prices."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import and_, update
from sqlmodel import col, select

from listings.certificates import find_certificate
from listings.errors import (
    CertificateNotFound,
    ListingNotFound,
    ListingNotLive,
    ListingReserved,
    VersionNotFound,
)
from listings.lifecycle import ListingStatus
from listings.models import CatalogEntry, Certificate, Listing, ProductVersion
from listings.reservation_models import Reservation
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.parties.models import Party, PartyStatus


async def get_listing(uow: UnitOfWork, listing_id: UUID) -> Listing:
    """Any listing, whatever its status. Raises ListingNotFound (404)."""
    listing = await uow.session.get(Listing, listing_id)
    if listing is None:
        raise ListingNotFound
    return listing


async def get_live_listing(
    uow: UnitOfWork, listing_id: UUID, *, holder_id: UUID | None = None
) -> Listing:
    """A listing that can be traded now, by ``holder_id`` also when it has reserved the product.

    Raises ListingNotFound (404), also for one that was never published, and ListingNotLive
    (409) when it is suspended or delisted, or when its seller may not trade; ListingReserved
    (409) when another sale holds it.
    """
    found = (await get_live_listings(uow, [listing_id], holder_id=holder_id))[listing_id]
    if isinstance(found, MarketError):
        raise found
    return found


async def get_live_listings(
    uow: UnitOfWork, ids: Collection[UUID], *, holder_id: UUID | None = None
) -> dict[UUID, Listing | MarketError]:
    """Each of ``ids`` as :func:`get_live_listing` finds it, in one query; what it would raise
    stands in the place of the listing.
    """
    found: dict[UUID, Listing | MarketError] = {identity: ListingNotFound() for identity in ids}
    if not found:
        return found
    rows = await uow.session.exec(
        select(Listing, Party.status, Reservation.holder_id)
        .join(Party, col(Party.id) == col(Listing.seller_id))
        .outerjoin(
            Reservation,
            and_(
                col(Reservation.product_id) == col(Listing.product_id),
                col(Reservation.released_at).is_(None),
            ),
        )
        .where(col(Listing.id).in_(sorted(found)))
    )
    for listing, seller_status, reserved_by in rows:
        if listing.listed_at is None:
            continue
        found[listing.id] = listing
        if listing.status != ListingStatus.LISTED:
            found[listing.id] = ListingNotLive(
                f"The listing is {listing.status}.", current=listing.status
            )
        elif seller_status is not PartyStatus.VERIFIED:
            found[listing.id] = ListingNotLive("Its seller may not trade at the moment.")
        elif reserved_by not in (None, holder_id):
            found[listing.id] = ListingReserved()
    return found


async def lock_listing(uow: UnitOfWork, listing_id: UUID) -> Listing:
    """The row, locked until the unit of work ends. Raises ListingNotFound (404)."""
    statement = (
        select(Listing)
        .where(Listing.id == listing_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    listing = (await uow.session.exec(statement)).one_or_none()
    if listing is None:
        raise ListingNotFound
    return listing


async def get_version(uow: UnitOfWork, version_id: UUID) -> ProductVersion:
    """A version with its schema and profile. Raises VersionNotFound (404)."""
    version = await uow.session.get(ProductVersion, version_id)
    if version is None:
        raise VersionNotFound
    return version


async def get_certificate_for(uow: UnitOfWork, version_id: UUID) -> Certificate:
    """The certificate of a version. Raises CertificateNotFound (404)."""
    certificate = await find_certificate(uow, version_id)
    if certificate is None:
        raise CertificateNotFound
    return certificate


async def set_price_summary(
    uow: UnitOfWork,
    listing_id: UUID,
    *,
    from_minor: int | None,
    currency: str | None,
    plan_kinds: Sequence[str],
) -> None:
    """Show the lowest price (minor units per lot) and the kinds of its active plans.

    ``None`` for both clears the price. Effects: the listing and, when it is on the market, its
    catalog entry. Raises ListingNotFound (404), ValueError when only one of both is given.
    """
    if (from_minor is None) != (currency is None):
        raise ValueError("a price needs its currency, and a currency its price")
    listing = await lock_listing(uow, listing_id)
    kinds = sorted(set(plan_kinds))
    listing.from_minor = from_minor
    listing.currency = currency
    listing.plan_kinds = kinds
    await uow.session.flush()
    await uow.session.exec(
        update(CatalogEntry)
        .where(col(CatalogEntry.listing_id) == listing_id)
        .values(from_minor=from_minor, currency=currency, plan_kinds=kinds)
    )
