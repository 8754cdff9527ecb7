"""Standing requests: alerts to their buyers when a listing appears or becomes cheaper.

The outbox is read in commit order from ``demand.reading``. A published (or resumed) listing is
judged against every open standing request; a new plan only when it is now the cheapest way to
buy what the request wants. Each (request, listing, version, cost) is told once, and a listing
that was told before only again at a lower cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlmodel import col, select

from listings.market_facts import MarketFacts, read_facts
from market.demand import criteria, sql
from market.demand.matches import Judged, may_buy, prices_of, weigh
from market.demand.models import AlertReason, Request
from market.demand.schemas import Constraints
from market.demand.sql import AlertRow, Place
from market.kernel import events
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.events import StoredEvent
from market.kernel.ids import new_id, parse, show
from market.parties.directory import get_parties
from market.parties.models import Party
from pricing.models import Plan
from pricing.plans import get_active_plans

# Events read per run, and requests judged per run: what one transaction does stays short.
EVENTS_MAX = 500
REQUESTS_MAX = 500
_PUBLISHED = frozenset({"listing.listed", "listing.resumed"})
_PRICED = "plan.created"


@dataclass(frozen=True, slots=True)
class _News:
    """What an event says: this listing is on the market, or has this new plan."""

    facts: MarketFacts
    plans: list[Plan]
    seller: Party
    new_plan: UUID | None

    @property
    def reason(self) -> AlertReason:
        return AlertReason.PUBLISHED if self.new_plan is None else AlertReason.PRICE_FELL


async def match_standing(kernel: Kernel) -> int:
    """One run: works through some events; how many (a half-done one counts too).

    Effects, in one transaction: alerts, ``request.listing_matched`` events, the reader's place.
    """
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        place = await sql.lock_reading(connection)
        if place is None:
            return 0
        found = await events.read(connection, (place.txid, place.seq), limit=EVENTS_MAX)
        room, done, after = REQUESTS_MAX, 0, place.request_id
        for event in found:
            judged, last = await _work_off(uow, event, after=after, limit=room)
            room -= judged
            done += 1
            if last is not None:
                place = Place(place.txid, place.seq, last)
                break
            place, after = Place(event.txid, event.seq, None), None
            if room <= 0:
                break
        if done:
            await sql.move_reading(connection, place)
    return done


async def _work_off(
    uow: UnitOfWork, event: StoredEvent, *, after: UUID | None, limit: int
) -> tuple[int, UUID | None]:
    """Requests judged, and the last of them when there may be more."""
    news = await _news(uow, event)
    if news is None:
        return 0, None
    ids = await sql.standing_requests(
        await uow.raw(), news.facts.category.value, now=uow.now, after=after, limit=limit
    )
    await _tell(uow, news, ids)
    return len(ids), ids[-1] if len(ids) == limit else None


async def _news(uow: UnitOfWork, event: StoredEvent) -> _News | None:
    """What the event means for the market now; None when it concerns no listing on it."""
    if event.type in _PUBLISHED:
        listing_id, new_plan = event.object_id, None
    elif event.type == _PRICED:
        listing_id, new_plan = parse("lst", str(event.data["listing_id"])), event.object_id
    else:
        return None
    found = await read_facts(uow, [listing_id])
    if not found:
        return None
    (facts,) = found
    plans = (await get_active_plans(uow, [listing_id])).get(facts.listing_id, [])
    if new_plan is not None:
        # A plan from before the publication is part of that news, however late it is read.
        live = [plan.id for plan in plans if plan.created_at > facts.listed_at]
        if new_plan not in live:
            return None
    seller = (await get_parties(uow, [facts.seller_id]))[facts.seller_id]
    return _News(facts, plans, seller, new_plan)


async def _tell(uow: UnitOfWork, news: _News, ids: Sequence[UUID]) -> None:
    if not ids:
        return
    rows = await uow.session.exec(
        select(Request).where(col(Request.id).in_(ids)).order_by(col(Request.id))
    )
    requests = rows.all()
    buyers = await get_parties(uow, {request.buyer_id for request in requests})
    connection = await uow.raw()
    told = await sql.told(connection, ids, news.facts.listing_id, news.facts.version_id)
    alerts = []
    for request in requests:
        judged = _meets(uow, news, request, buyers[request.buyer_id])
        if judged is not None and _is_new(judged, told.get(request.id)):
            alerts.append(_alert(uow, news, request, judged))
    fresh = await sql.tell(connection, alerts)
    for alert in alerts:
        if alert.id in fresh:
            _emit(uow, alert)


def _meets(uow: UnitOfWork, news: _News, request: Request, buyer: Party) -> Judged | None:
    """The verdict when every constraint is met and the news is news for this request."""
    if not may_buy(buyer, news.seller):
        return None
    wanted = Constraints.model_validate(request.constraints)
    judged = weigh(wanted, news.facts, prices_of(news.plans), buyer, now=uow.now)
    if judged.failed:
        return None
    if news.new_plan is not None:
        others = [plan for plan in news.plans if plan.id != news.new_plan]
        before = criteria.cost(wanted, prices_of(others))
        bill = judged.bill
        if bill is None or (before is not None and before.minor <= bill.minor):
            return None
    return judged


def _is_new(judged: Judged, told: int | None) -> bool:
    """Never told, told without a price, or told at a higher one."""
    cost = judged.bill.minor if judged.bill else 0
    return told is None or 0 < cost < told


def _alert(uow: UnitOfWork, news: _News, request: Request, judged: Judged) -> AlertRow:
    bill = judged.bill
    return AlertRow(
        id=new_id(),
        request_id=request.id,
        buyer_id=request.buyer_id,
        listing_id=news.facts.listing_id,
        version_id=news.facts.version_id,
        reason=news.reason.value,
        cost_minor=bill.minor if bill else 0,
        currency=bill.currency if bill else None,
        created_at=uow.now,
    )


def _emit(uow: UnitOfWork, alert: AlertRow) -> None:
    uow.emit(
        "request.listing_matched",
        alert.request_id,
        {
            "alert_id": show("alr", alert.id),
            "request_id": show("req", alert.request_id),
            "listing_id": show("lst", alert.listing_id),
            "version_id": show("ver", alert.version_id),
            "reason": alert.reason,
            "cost_minor": alert.cost_minor or None,
            "currency": alert.currency,
        },
        parties=[alert.buyer_id],
    )
