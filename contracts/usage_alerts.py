"""Soft limits: alerts when a grant's quota is used up to a percentage. They refuse nothing.

Raised where use becomes money (``jobs.accrue``), so no use passes them by; unique in the
database, so each is raised once.
"""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts import grants
from contracts.agreements import READERS
from contracts.errors import GrantNotFound
from contracts.models import Grant, Unit
from contracts.usage_alert_models import UsageAlert, UsageThreshold
from contracts.usage_alert_schemas import ThresholdsInput, ThresholdsView, UsageAlertView
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.parties.directory import after_id

DEFAULT_PERCENTS = (50, 80, 100)

_REACHED = """
SELECT t.percent FROM unnest(coalesce(
    (SELECT percents FROM contracts.usage_threshold WHERE grant_id = $1), $2::smallint[]
)) AS t(percent)
WHERE $3::numeric * 100 >= $4::numeric * t.percent AND NOT EXISTS (
    SELECT FROM contracts.usage_alert a WHERE a.grant_id = $1 AND a.percent = t.percent)
ORDER BY t.percent
"""


async def raise_due(uow: UnitOfWork, grant: Grant) -> int:
    """Raise what a locked grant has reached and not been told; give how many.

    Effect: event ``usage.threshold_reached`` each, for the buyer. A grant without a bound has none.
    """
    if grant.granted_units is None:
        return 0
    connection = await uow.raw()
    used, granted = grant.spent_units, grant.granted_units
    reached = await connection.fetch(_REACHED, grant.id, DEFAULT_PERCENTS, used, granted)
    for row in reached:
        alert = UsageAlert(
            id=new_id(),
            grant_id=grant.id,
            buyer_id=grant.buyer_id,
            percent=row["percent"],
            used_units=used,
            granted_units=granted,
            raised_at=uow.now,
        )
        uow.session.add(alert)
        uow.emit(
            "usage.threshold_reached",
            grant.id,
            {
                "alert_id": show("usa", alert.id),
                "grant_id": show("grt", grant.id),
                "agreement_id": show("agr", grant.agreement_id),
                "percent": alert.percent,
                "unit": Unit(grant.unit).value,
                "used_units": used,
                "granted_units": granted,
            },
            parties=[grant.buyer_id],
        )
    return len(reached)


async def list_alerts(
    kernel: Kernel, actor: Actor, *, page: PageQuery, grant_id: UUID | None = None
) -> Page[UsageAlertView]:
    """The alerts of the actor's grants as buyer, newest first; overseers see all.

    Raises BadCursor (422).
    """
    after = after_id(page)
    query = (
        select(UsageAlert, Grant.unit)
        .join(Grant, col(Grant.id) == UsageAlert.grant_id)
        .order_by(col(UsageAlert.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(UsageAlert.id) < after)
    if grant_id is not None:
        query = query.where(UsageAlert.grant_id == grant_id)
    if not actor.has(*READERS):
        query = query.where(UsageAlert.buyer_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
    views = [
        UsageAlertView.model_validate({**row.model_dump(exclude={"buyer_id"}), "unit": unit})
        for row, unit in rows
    ]
    return Page[UsageAlertView].of(views, page.limit, [(view.id,) for view in views])


async def get_thresholds(kernel: Kernel, actor: Actor, grant_id: UUID) -> ThresholdsView:
    """A grant's thresholds, for both parties and overseers. Raises GrantNotFound."""
    async with kernel.unit_of_work() as uow:
        await grants.find(uow, grant_id, actor)
        found = await uow.session.get(UsageThreshold, grant_id)
        return _view(grant_id, found)


async def set_thresholds(
    kernel: Kernel, actor: Actor, grant_id: UUID, body: ThresholdsInput
) -> ThresholdsView:
    """Replace a grant's thresholds (its buyer). Those that are reached already alert at once.

    Raises GrantNotFound (404), also for everybody but the buyer.
    """
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        grant = await uow.session.get(Grant, grant_id, with_for_update=True)
        if grant is None or grant.buyer_id != actor.party_id:
            raise GrantNotFound(param="grant_id")
        made = UsageThreshold(
            grant_id=grant_id, percents=sorted(set(body.percents)), updated_at=uow.now
        )
        made = await uow.session.merge(made)
        await uow.session.flush()
        await raise_due(uow, grant)
        return _view(grant_id, made)


def _view(grant_id: UUID, found: UsageThreshold | None) -> ThresholdsView:
    if found is None:
        return ThresholdsView(grant_id=grant_id, percents=list(DEFAULT_PERCENTS), updated_at=None)
    return ThresholdsView(
        grant_id=grant_id, percents=list(found.percents), updated_at=found.updated_at
    )
