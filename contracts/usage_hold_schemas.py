"""API shapes of holds because of unusual use."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from contracts.usage_hold_models import UsageSuspicion
from market.kernel.ids import AgreementId
from market.kernel.schemas import LongText, Schema


class UsageGuardInput(Schema):
    """On which suspicions to hold access by itself; an empty list: never."""

    hold_on: Annotated[list[UsageSuspicion], Field(max_length=len(UsageSuspicion))]


class UsageGuardView(Schema):
    """An agreement's guard; ``updated_at`` null: nobody has set it, nothing is held."""

    agreement_id: AgreementId
    hold_on: list[UsageSuspicion]
    updated_at: datetime | None


class UsageReleaseInput(Schema):
    """Why an operator gives access back."""

    reason: LongText


class UsageHoldView(Schema):
    """A hold; ``released_at`` null: access is suspended."""

    agreement_id: AgreementId
    suspicion: UsageSuspicion
    placed_at: datetime
    released_at: datetime | None
    reason: str | None
