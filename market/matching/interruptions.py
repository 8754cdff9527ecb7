"""Trades that would leave the price band of an instrument that reopens by a call auction.

The order that would trade is noted, and its batch starts over with the instrument collecting from
its first step on: so the decision has a place in the input sequence like any other.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import datetime
from uuid import UUID

from market.matching.admission import Facts, admit, give_back
from market.matching.commands import Place
from market.matching.control_errors import TradeOutsideBand
from market.matching.gate import Gate
from market.matching.models import TimeInForceName
from market.matching.verdicts import Reconsider, Verdicts
from pricing.models import Plan

_WAITS = (TimeInForceName.GTC, TimeInForceName.GTD)


def check(
    gate: Gate,
    place: Place,
    plan: Plan,
    facts: Facts,
    found: MutableMapping[UUID, str],
    now: datetime,
) -> None:
    """As ``Gate.check``. Puts the instrument with a reason into ``found`` if it has to collect.

    Only an order that can wait for the auction, and may and could trade, interrupts anything.
    Raises its refusal otherwise (402, for example).
    """
    try:
        gate.check(place, plan)
    except TradeOutsideBand:
        band = gate.reopening_band(plan)
        body = place.body
        waits = body.effective_tif in _WAITS and not body.post_only and body.min_lots is None
        if band is not None and waits:
            give_back(admit(place, facts, now=now), facts)
            found[plan.id] = f"A trade would leave the price band, {band[0]} to {band[1]}."
        raise


def decide(found: MutableMapping[UUID, str], verdicts: Verdicts) -> None:
    """Raises Reconsider when an instrument has to collect that was not told to yet.

    Told twice, it has another reason not to: a call auction is scheduled, for example.
    """
    told = {plan_id: why for plan_id, why in found.items() if plan_id not in verdicts.reopen}
    if told:
        verdicts.reopen.update(told)
        raise Reconsider
