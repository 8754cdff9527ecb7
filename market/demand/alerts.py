"""The inbox of a buyer: what its standing requests found."""

from uuid import UUID

from sqlmodel import col, select

from market.demand.errors import AlertNotFound
from market.demand.models import Alert, AlertReason
from market.demand.schemas import AlertView
from market.kernel.context import Kernel
from market.kernel.money import Money
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id


async def list_alerts(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    request_id: UUID | None = None,
    unread: bool = False,
) -> Page[AlertView]:
    """The actor's alerts, newest first. Raises BadCursor (422)."""
    after = after_id(page)
    statement = (
        select(Alert)
        .where(Alert.buyer_id == actor.party_id)
        .order_by(col(Alert.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        statement = statement.where(col(Alert.id) < after)
    if request_id is not None:
        statement = statement.where(Alert.request_id == request_id)
    if unread:
        statement = statement.where(col(Alert.read_at).is_(None))
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
    return Page.of([_view(row) for row in rows], page.limit, [(row.id,) for row in rows])


async def read_alert(kernel: Kernel, actor: Actor, alert_id: UUID) -> AlertView:
    """Mark an alert as read; again changes nothing. Raises AlertNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        alert = (
            await uow.session.exec(select(Alert).where(Alert.id == alert_id).with_for_update())
        ).one_or_none()
        if alert is None or alert.buyer_id != actor.party_id:
            raise AlertNotFound(param="alert_id")
        if alert.read_at is None:
            alert.read_at = uow.now
        view = _view(alert)
        await uow.answer(view, status=200)
    return view


def _view(alert: Alert) -> AlertView:
    cost = None
    if alert.currency is not None:
        cost = Money(amount_minor=alert.cost_minor, currency=alert.currency)
    return AlertView(
        id=alert.id,
        request_id=alert.request_id,
        listing_id=alert.listing_id,
        version_id=alert.version_id,
        reason=AlertReason(alert.reason),
        cost=cost,
        created_at=alert.created_at,
        read_at=alert.read_at,
    )
