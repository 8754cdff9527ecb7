"""API shapes of surveillance."""

from datetime import datetime
from enum import StrEnum

from market.kernel.ids import OrderId, PartyId, PlanId, SurveillanceAlertId, TradeId
from market.kernel.schemas import LongText, Schema
from market.surveillance.models import AlertStatus
from market.surveillance.rules import Rule


class AlertDecision(StrEnum):
    """``dismiss``: nothing wrong was found. ``confirm``: it goes on outside this system."""

    DISMISS = "dismiss"
    CONFIRM = "confirm"


class DecisionInput(Schema):
    """What an operator decides about an alert, and why."""

    decision: AlertDecision
    reason: LongText


class SurveillanceAlertView(Schema):
    """A suspicion with its evidence: at most 50 ids of each kind, and the figures behind it.

    Amounts in ``figures`` are minor units.
    """

    id: SurveillanceAlertId
    rule: Rule
    plan_id: PlanId | None
    parties: list[PartyId]
    figures: dict[str, int | str]
    orders: list[OrderId]
    trades: list[TradeId]
    status: AlertStatus
    window_start: datetime
    created_at: datetime
    reason: str | None
    decided_by: PartyId | None
    decided_at: datetime | None
