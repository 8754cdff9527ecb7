"""Call auctions as everybody may read them."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import Page, PageQuery
from market.matching.call_models import CallAuction, CallStatus
from market.matching.control_errors import CallAuctionNotFound
from market.matching.control_schemas import CallAuctionView
from market.parties.directory import after_id
from pricing import plans

_OPEN = (CallStatus.SCHEDULED.value, CallStatus.COLLECTING.value)


async def show_call(kernel: Kernel, call_id: UUID) -> CallAuctionView:
    """One call auction. Raises CallAuctionNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return await read_call(uow, call_id)


async def list_calls(kernel: Kernel, plan_id: UUID, page: PageQuery) -> Page[CallAuctionView]:
    """The call auctions of an instrument, newest first. Raises PlanNotFound (404), BadCursor."""
    statement = (
        select(CallAuction)
        .where(CallAuction.plan_id == plan_id)
        .order_by(col(CallAuction.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(CallAuction.id) < after)
    async with kernel.unit_of_work() as uow:
        await plans.get_plan(uow, plan_id)
        views = [_view(row) for row in await uow.session.exec(statement)]
    return Page[CallAuctionView].of(views, page.limit, [(view.id,) for view in views])


async def read_call(uow: UnitOfWork, call_id: UUID) -> CallAuctionView:
    """As :func:`show_call`, in a unit of work."""
    row = await uow.session.get(CallAuction, call_id, populate_existing=True)
    if row is None:
        raise CallAuctionNotFound
    return _view(row)


async def open_call(uow: UnitOfWork, plan_id: UUID) -> CallAuctionView | None:
    """The call auction of an instrument that is not over."""
    statement = (
        select(CallAuction)
        .where(CallAuction.plan_id == plan_id, col(CallAuction.status).in_(_OPEN))
        .execution_options(populate_existing=True)
    )
    row = (await uow.session.exec(statement)).one_or_none()
    return None if row is None else _view(row)


def _view(row: CallAuction) -> CallAuctionView:
    # Numeric columns come as Decimal.
    return CallAuctionView(
        id=row.id,
        plan_id=row.plan_id,
        status=CallStatus(row.status),
        reopening=row.reopening,
        opens_at=row.opens_at,
        closes_at=row.closes_at,
        price_minor=row.price_minor,
        volume_lots=None if row.volume_lots is None else int(row.volume_lots),
        surplus_lots=None if row.surplus_lots is None else int(row.surplus_lots),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
