"""Background work of Delta Sharing."""

from __future__ import annotations

from contracts.sharing import queries
from market.kernel.context import Kernel

BATCH = 100


async def sweep_shared_files(kernel: Kernel) -> int:
    """Forget queries that can no longer be repeated, and delete their files. Returns how many.

    A query that finds a file of the same content just deleted makes it anew under the same key.
    """
    doomed = await queries.forget_expired(kernel, limit=BATCH)
    for key in doomed:
        await kernel.blobs.delete(key)
    return len(doomed)
