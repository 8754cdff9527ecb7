"""Background work of requests. Each job does a bounded batch, and may run twice or at once.

Nothing depends on when they run: what is overdue can no longer be quoted on or accepted.
"""

from market.demand import sql
from market.demand.models import Quote, QuoteStatus, RequestStatus
from market.demand.requests import end_request, lock_request
from market.demand.standing import match_standing
from market.demand.steps import quote_step
from market.kernel.context import Kernel

BATCH = 100

__all__ = ["expire_quotes", "expire_requests", "match_standing"]


async def expire_requests(kernel: Kernel) -> int:
    """End open requests whose time has passed; their quotes lapse."""
    async with kernel.unit_of_work() as uow:
        due = await sql.due_requests(await uow.raw(), now=uow.now, limit=BATCH)
    ended = 0
    for request_id in due:
        async with kernel.unit_of_work() as uow:
            request = await lock_request(uow, request_id)
            # Again under the lock: it may have been closed, matched or prolonged meanwhile.
            if request.status == RequestStatus.OPEN and request.expires_at <= uow.now:
                await end_request(uow, request, RequestStatus.EXPIRED, actor=None)
                ended += 1
    return ended


async def expire_quotes(kernel: Kernel) -> int:
    """End open quotes whose latest proposal is no longer valid."""
    async with kernel.unit_of_work() as uow:
        due = await sql.due_quotes(await uow.raw(), now=uow.now, limit=BATCH)
    ended = 0
    for quote_id, request_id in due:
        async with kernel.unit_of_work() as uow:
            await lock_request(uow, request_id)
            quote = await uow.session.get_one(Quote, quote_id)
            if quote.status == QuoteStatus.OPEN and quote.valid_until <= uow.now:
                quote.status = QuoteStatus.EXPIRED
                quote.closed_at = quote.updated_at = uow.now
                quote_step(uow, quote, "expired", actor=None)
                ended += 1
    return ended
