"""Refusals of market.usage.

MarketError
├── NotFound 404: AutoTopUpNotFound
└── Conflict 409: AutoTopUpImpossible
"""

from market.kernel.errors import Conflict, NotFound


class AutoTopUpNotFound(NotFound):
    code = "auto_top_up_not_found"
    title = "The agreement has no automatic top-up"


class AutoTopUpImpossible(Conflict):
    code = "auto_top_up_impossible"
    title = "The agreement cannot be topped up"
    default_hint = "Only metered agreements whose access has not ended can."
