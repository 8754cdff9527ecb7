"""HTTP of surveillance."""

from typing import Annotated

from fastapi import APIRouter, Depends

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import PartyId, SurveillanceAlertId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import OperatorDep, OversightDep
from market.surveillance import alerts
from market.surveillance.models import AlertStatus
from market.surveillance.rules import Rule
from market.surveillance.schemas import DecisionInput, SurveillanceAlertView

router = APIRouter(route_class=IdempotentRoute, prefix="/v1/surveillance", tags=["surveillance"])

PageDep = Annotated[PageQuery, Depends()]


@router.get("/alerts", operation_id="list_surveillance_alerts", responses=problems(401, 403, 422))
async def list_surveillance_alerts(
    kernel: KernelDep,
    actor: OversightDep,
    page: PageDep,
    status: AlertStatus | None = None,
    rule: Rule | None = None,
    party_id: PartyId | None = None,
) -> Page[SurveillanceAlertView]:
    """Suspicions for operators, with their evidence; newest first."""
    return await alerts.list_alerts(
        kernel, actor, page, status=status, rule=rule, party_id=party_id
    )


@router.get(
    "/alerts/{alert_id}",
    operation_id="show_surveillance_alert",
    responses=problems(401, 403, 404, 422),
)
async def show_surveillance_alert(
    kernel: KernelDep, actor: OversightDep, alert_id: SurveillanceAlertId
) -> SurveillanceAlertView:
    """One alert."""
    return await alerts.show_alert(kernel, actor, alert_id)


@router.post(
    "/alerts/{alert_id}/decisions",
    status_code=201,
    operation_id="decide_surveillance_alert",
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def decide_surveillance_alert(
    kernel: KernelDep, actor: OperatorDep, alert_id: SurveillanceAlertId, body: DecisionInput
) -> SurveillanceAlertView:
    """Dismiss or confirm an open alert, for good; the reason goes into the audit log."""
    return await alerts.decide(kernel, actor, alert_id, body)
