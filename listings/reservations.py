"""Taking a product off the market for one exclusive sale, and giving it back."""

from uuid import UUID

from listings.errors import ListingReserved
from market.kernel.db import UnitOfWork


async def reserve(uow: UnitOfWork, product_id: UUID, *, holder_id: UUID) -> None:
    """From now on only ``holder_id`` may sell the product, under any of its listings.

    Orders and quotes on it are refused by `listings.offers`. Raises ListingReserved (409) when
    another sale holds it.
    """
    taken = await (await uow.raw()).fetchval(
        "INSERT INTO listings.reservation (holder_id, product_id, created_at) VALUES ($1, $2, $3) "
        "ON CONFLICT (product_id) WHERE released_at IS NULL DO NOTHING RETURNING true",
        holder_id,
        product_id,
        uow.now,
    )
    if not taken:
        raise ListingReserved


async def release(uow: UnitOfWork, holder_id: UUID) -> bool:
    """Give the product back to the market; False when there was nothing to give back."""
    done = await (await uow.raw()).fetchval(
        "UPDATE listings.reservation SET released_at = $2 "
        "WHERE holder_id = $1 AND released_at IS NULL RETURNING true",
        holder_id,
        uow.now,
    )
    return bool(done)
