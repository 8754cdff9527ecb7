"""Products with several versions, and grants that follow them."""

from typing import Any

import pyarrow as pa

from contracts.versions.notices import announce_versions
from listings.products import submit_product
from listings.reviews import approve_product
from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.contracts.factories import Trade, grant_of, make_agreement
from tests.listings.factories import any_operator, listing_body, make_listing, make_version
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan


async def make_follower(
    kernel: Kernel,
    table: pa.Table,
    *,
    versions: str = "follow_latest",
    lot_units: int = 1_000,
    unit: str = "row",
    breaking_notice_days: int = 14,
    **clauses: Any,
) -> Trade:
    """A grant for a product whose first version is ``table``; ``clauses`` are its policy's."""
    seller = await make_party(kernel, Role.SELLER)
    buyer = await make_party(kernel, Role.BUYER)
    policy = {
        **listing_body("")["policy"],
        "versions": versions,
        "breaking_notice_days": breaking_notice_days,
        **clauses,
    }
    listing = await make_listing(kernel, seller, table=table, policy=policy)
    plan = await make_plan(
        kernel,
        seller,
        listing.listing_id,
        lot_units=lot_units,
        unit="call" if unit == "call" else "row",
    )
    agreement = await make_agreement(kernel, buyer, seller, plan)
    grant = await grant_of(kernel, agreement.id)
    return Trade(buyer, seller, plan, agreement, grant.id)


async def publish(kernel: Kernel, trade: Trade, table: pa.Table) -> int:
    """Upload and certify another version; give its number."""
    version = await make_version(kernel, trade.seller, trade.agreement.product_id, table)
    await submit_product(kernel, trade.seller.actor, trade.agreement.product_id)
    await approve_product(kernel, any_operator(), trade.agreement.product_id)
    return version.number


async def announce(kernel: Kernel) -> None:
    """Run the job until it finds nothing."""
    while await announce_versions(kernel):
        pass
