"""Who may use a product now: asked before its data is promised to one buyer."""

from collections.abc import Sequence
from uuid import UUID

from market.kernel.db import UnitOfWork

# A suspended grant may come back, and an exhausted license still lasts for its term.
_IN_FORCE = """
SELECT EXISTS (SELECT FROM contracts.access_grant
    WHERE product_id = $1 AND status IN ('active', 'suspended', 'exhausted')
    AND NOT agreement_id = ANY ($2::uuid[]))
"""


async def product_in_use(
    uow: UnitOfWork, product_id: UUID, *, but_for: Sequence[UUID] = ()
) -> bool:
    """Whether an agreement on the product, other than ``but_for``, has not ended.

    Not for hot paths: no index serves it.
    """
    connection = await uow.raw()
    return bool(await connection.fetchval(_IN_FORCE, product_id, list(but_for)))
