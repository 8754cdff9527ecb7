"""Refusals of market.surveillance.

MarketError
├── NotFound 404: SurveillanceAlertNotFound
└── Conflict 409: SurveillanceAlertDecided
"""

from market.kernel.errors import Conflict, NotFound


class SurveillanceAlertNotFound(NotFound):
    code = "surveillance_alert_not_found"
    title = "No such alert"


class SurveillanceAlertDecided(Conflict):
    code = "surveillance_alert_decided"
    title = "The alert has been decided"
    default_hint = "Read the alert: it names the decision and its reason."
