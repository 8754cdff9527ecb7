"""Resting orders that a batch has matched: may they still trade, and with this taker?"""

from __future__ import annotations

from market.kernel.db import UnitOfWork
from market.matching.admission import Facts
from market.matching.matcher import Matcher
from market.matching.models import CloseReason
from market.matching.shard import Shard
from market.matching.verdicts import Reconsider, Verdicts
from market.parties.directory import get_standings, related
from market.parties.models import PartyStatus


async def check_makers(
    uow: UnitOfWork, shard: Shard, matcher: Matcher, facts: Facts, verdicts: Verdicts
) -> None:
    """Resting orders were admitted in the past: look at their parties again.

    Raises Reconsider, and has then put the orders to end into ``verdicts``.
    """
    matches = matcher.matches
    resting = dict.fromkeys(match.maker.order.party_id for match in matches)
    # In an uncrossing the later order has rested too.
    resting.update((m.taker.order.party_id, None) for m in matches if not m.taker.admitted)
    parties = {
        **facts.parties,
        **await get_standings(uow, resting.keys() - facts.parties.keys()),
    }
    lapsed = {
        party_id: None
        for party_id in resting
        if parties[party_id].status is not PartyStatus.VERIFIED
    }
    for match in matches:
        maker = parties[match.maker.order.party_id]
        if related(maker, parties[match.taker.order.party_id]):
            verdicts.ended[match.maker.order.id] = CloseReason.SELF_TRADE
            raise Reconsider
    if lapsed:
        for order in shard.orders_of(lapsed):
            verdicts.ended[order.id] = CloseReason.PARTY_NOT_VERIFIED
        raise Reconsider
