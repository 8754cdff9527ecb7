"""The operators' queue of suspicions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import orjson
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from market.surveillance.errors import SurveillanceAlertDecided, SurveillanceAlertNotFound
from market.surveillance.models import AlertStatus, SurveillanceAlert
from market.surveillance.rules import Finding, Rule
from market.surveillance.schemas import AlertDecision, DecisionInput, SurveillanceAlertView
from settlement import audit

_RAISE = """
INSERT INTO surveillance.alert
    (id, rule, subject, window_start, plan_id, parties, figures, orders, trades, status, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, 'open', $10)
ON CONFLICT (rule, subject, window_start) DO NOTHING RETURNING id
"""
_DECIDED = {
    AlertDecision.DISMISS: AlertStatus.DISMISSED,
    AlertDecision.CONFIRM: AlertStatus.CONFIRMED,
}


async def raise_alerts(uow: UnitOfWork, findings: Sequence[Finding], *, window_s: int) -> int:
    """Queue what is new; a subject has one alert per rule and window. Returns how many.

    Effect: event ``surveillance.alert_raised`` each, for operators and regulators.
    """
    connection = await uow.raw()
    raised = 0
    for finding in findings:
        start = int(finding.at.timestamp()) // window_s * window_s
        alert_id = await connection.fetchval(
            _RAISE,
            new_id(),
            finding.rule.value,
            finding.subject,
            datetime.fromtimestamp(start, UTC),
            finding.plan_id,
            list(finding.parties),
            orjson.dumps(finding.figures).decode(),
            list(finding.orders),
            list(finding.trades),
            uow.now,
        )
        if alert_id is not None:
            raised += 1
            uow.emit(
                "surveillance.alert_raised",
                UUID(str(alert_id)),
                {"alert_id": show("sva", alert_id), "rule": finding.rule.value},
            )
    return raised


async def list_alerts(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    status: AlertStatus | None = None,
    rule: Rule | None = None,
    party_id: UUID | None = None,
) -> Page[SurveillanceAlertView]:
    """Newest first. Raises RoleRequired (403), BadCursor (422)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    query = select(SurveillanceAlert).order_by(col(SurveillanceAlert.id).desc())
    after = after_id(page)
    if after is not None:
        query = query.where(col(SurveillanceAlert.id) < after)
    if status is not None:
        query = query.where(SurveillanceAlert.status == status.value)
    if rule is not None:
        query = query.where(SurveillanceAlert.rule == rule.value)
    if party_id is not None:
        query = query.where(col(SurveillanceAlert.parties).contains([party_id]))
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query.limit(page.limit + 1))
        views = [SurveillanceAlertView.model_validate(row) for row in rows]
    return Page[SurveillanceAlertView].of(views, page.limit, [(view.id,) for view in views])


async def show_alert(kernel: Kernel, actor: Actor, alert_id: UUID) -> SurveillanceAlertView:
    """One alert. Raises RoleRequired (403), SurveillanceAlertNotFound (404)."""
    actor.require(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(SurveillanceAlert, alert_id)
        if found is None:
            raise SurveillanceAlertNotFound(param="alert_id")
        return SurveillanceAlertView.model_validate(found)


async def decide(
    kernel: Kernel, actor: Actor, alert_id: UUID, body: DecisionInput
) -> SurveillanceAlertView:
    """Dismiss or confirm an open alert, for good, with the reason in the audit log.

    Effect: event ``surveillance.alert_decided``. Raises RoleRequired (403),
    SurveillanceAlertNotFound (404), SurveillanceAlertDecided (409).
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        alert = await uow.session.get(
            SurveillanceAlert, alert_id, with_for_update=True, populate_existing=True
        )
        if alert is None:
            raise SurveillanceAlertNotFound(param="alert_id")
        if alert.status != AlertStatus.OPEN:
            raise SurveillanceAlertDecided
        alert.status = _DECIDED[body.decision].value
        alert.reason, alert.decided_by, alert.decided_at = body.reason, actor.party_id, uow.now
        facts = {"rule": alert.rule, "decision": body.decision.value}
        audit.record(
            uow, actor, "surveillance_alert.decide", alert.id, reason=body.reason, data=facts
        )
        uow.emit(
            "surveillance.alert_decided", alert.id, {"alert_id": show("sva", alert.id), **facts}
        )
        view = SurveillanceAlertView.model_validate(alert)
        await uow.answer(view)
    return view
