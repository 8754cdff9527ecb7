"""Which version a grant reads: the one it bought, the latest in effect, or one that is named."""

from __future__ import annotations

from datetime import timedelta

from contracts.models import Grant
from contracts.policy import Policy, refuse_version
from contracts.versions.changes import in_effect
from listings import offers, releases
from listings.errors import VersionNotFound
from listings.models import ProductVersion
from market.kernel.db import UnitOfWork

# The newest of a product; what was before them has long been in effect.
RECENT_MAX = 100
NUMBER_MAX = 2**31 - 1


async def version_of(
    uow: UnitOfWork, grant: Grant, policy: Policy, number: int | None = None
) -> ProductVersion:
    """The version that a delivery reads; ``number`` names one.

    Raises PolicyRefused (403, clause ``versions``) for one that the agreement does not cover,
    VersionNotFound (404) for one that is not there or not certified.
    """
    bought = await offers.get_version(uow, grant.product_version_id)
    if number == bought.number:
        return bought
    if policy.versions == "pinned":
        if number is not None:
            refuse_version(f"Bought is version {bought.number}, and no other.")
        return bought
    if number is not None:
        if number < bought.number:
            refuse_version(f"Bought are version {bought.number} and later ones.")
        found = await releases.find(uow, grant.product_id, number)
        if found is None:
            raise VersionNotFound(param="version")
        return await offers.get_version(uow, found.id)
    notice = timedelta(days=policy.breaking_notice_days)
    known = await releases.page(
        uow, grant.product_id, number=bought.number, below=NUMBER_MAX, limit=RECENT_MAX
    )
    if len(known) < 2:
        return bought
    read = in_effect(known[::-1], now=uow.now, notice=notice)
    return bought if read.id == bought.id else await offers.get_version(uow, read.id)
