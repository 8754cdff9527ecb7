"""API shapes of usage alerts."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StrictInt

from contracts.models import Unit
from contracts.usage_alert_models import THRESHOLDS_MAX
from market.kernel.ids import GrantId, UsageAlertId
from market.kernel.schemas import Schema

Percent = Annotated[StrictInt, Field(ge=1, le=100)]


class ThresholdsInput(Schema):
    """At which percentages of the quota to alert; an empty list: never."""

    percents: Annotated[list[Percent], Field(max_length=THRESHOLDS_MAX, examples=[[50, 80, 100]])]


class ThresholdsView(Schema):
    """A grant's thresholds in order; ``updated_at`` null: the default ones."""

    grant_id: GrantId
    percents: list[int]
    updated_at: datetime | None


class UsageAlertView(Schema):
    """A threshold was reached: ``used_units`` were used or sold on by then."""

    id: UsageAlertId
    grant_id: GrantId
    percent: int
    unit: Unit = Field(description="What the units count.")
    used_units: int
    granted_units: int
    raised_at: datetime
