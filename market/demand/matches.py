"""Ranked matches of a request, with reasons. Reads only; nothing but the market is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from listings.classification import Grade
from listings.market_facts import MarketFacts, any_word, search_market
from market.demand import criteria, ranking
from market.demand.criteria import Bill, Check, Price
from market.demand.errors import RequestNotFound
from market.demand.models import Request
from market.demand.requests import visible_request
from market.demand.schemas import CheckView, Constraints, Cost, MatchPage, MatchView, Places
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import BadCursor, PageQuery, encode_cursor
from market.kernel.security import Actor
from market.parties.access import may_oversee
from market.parties.directory import get_parties, get_party, related
from market.parties.models import Party, PartyStatus
from pricing.models import Plan
from pricing.plans import get_active_plans

_UP_TO = {
    Grade.GENERAL: (Grade.GENERAL,),
    Grade.IMPORTANT: (Grade.GENERAL, Grade.IMPORTANT),
}
_CORE_IS_NEVER_LISTED = (Grade.GENERAL, Grade.IMPORTANT)


@dataclass(frozen=True, slots=True)
class Judged:
    """A listing beside a request: every check, and what the wanted quantity costs."""

    facts: MarketFacts
    checks: list[Check]
    bill: Bill | None

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.met]


async def list_matches(
    kernel: Kernel, actor: Actor, request_id: UUID, page: PageQuery, *, near_misses: bool = False
) -> MatchPage:
    """Listings that meet every constraint, best first; with ``near_misses`` all but one.

    For the request's buyer and overseers. The order is that of the market now: a page that is
    fetched later may be of another market. Raises RequestNotFound (404), BadCursor (422).
    """
    after = _after(page)
    async with kernel.unit_of_work() as uow:
        request = await visible_request(uow, actor, request_id)
        if not may_oversee(actor, request.buyer_id):
            raise RequestNotFound(param="request_id")
        wanted = Constraints.model_validate(request.constraints)
        words = await any_word(uow, [request.title, request.text])
        grades = _UP_TO[wanted.grade_max] if wanted.grade_max else _CORE_IS_NEVER_LISTED
        found, exact = await search_market(
            uow, category=wanted.category, grades=grades, words=words
        )
        judged = await judge(uow, request, wanted, found)
    misses = 1 if near_misses else 0
    kept = {each.facts.listing_id: each for each in judged if len(each.failed) == misses}
    ranked = ranking.rank([_candidate(each, wanted) for each in kept.values()])
    rest = [each for each in ranked if after is None or each.key > after]
    shown = rest[: page.limit]
    more = len(rest) > page.limit
    return MatchPage(
        items=[_view(kept[each.listing_id], each) for each in shown],
        has_more=more,
        next_after=encode_cursor(*shown[-1].key) if more else None,
        total=len(ranked),
        exact=exact,
    )


async def judge(
    uow: UnitOfWork, request: Request, wanted: Constraints, found: Sequence[MarketFacts]
) -> list[Judged]:
    """Every listing that the buyer could buy, judged, in the order of ``found``."""
    buyer = await get_party(uow, request.buyer_id)
    sellers = await get_parties(uow, {facts.seller_id for facts in found})
    plans = await get_active_plans(uow, [facts.listing_id for facts in found])
    return [
        weigh(wanted, facts, prices_of(plans.get(facts.listing_id, ())), buyer, now=uow.now)
        for facts in found
        if may_buy(buyer, sellers[facts.seller_id])
    ]


def may_buy(buyer: Party, seller: Party) -> bool:
    """Whether a deal between them is possible at all: no affiliates, no suspended seller."""
    return seller.status is PartyStatus.VERIFIED and not related(buyer, seller)


def prices_of(plans: Sequence[Plan]) -> list[Price]:
    """Active plans as the criteria see them."""
    return [
        Price(plan.id, plan.unit.value, plan.lot_units, plan.price_minor, plan.currency)
        for plan in plans
    ]


def weigh(
    wanted: Constraints,
    facts: MarketFacts,
    prices: Sequence[Price],
    buyer: Party,
    *,
    now: datetime,
) -> Judged:
    """One listing, judged."""
    checks = criteria.check(wanted, facts, prices, country=buyer.jurisdiction, now=now)
    return Judged(facts, checks, criteria.cost(wanted, prices))


def _candidate(judged: Judged, wanted: Constraints) -> ranking.Candidate:
    # Prices can be compared in the budget's currency only.
    comparable = wanted.budget is not None and judged.bill is not None
    return ranking.Candidate(
        judged.facts.listing_id,
        criteria.closeness(judged.checks),
        judged.facts.text_score,
        judged.bill.minor if comparable and judged.bill else None,
    )


def _after(page: PageQuery) -> tuple[int, UUID] | None:
    key = page.key(2)
    if key is None:
        return None
    try:
        return int(key[0]), UUID(key[1])
    except ValueError as error:
        raise BadCursor(param="after") from error


def _view(judged: Judged, ranked: ranking.Ranked) -> MatchView:
    facts, bill = judged.facts, judged.bill
    return MatchView(
        listing_id=facts.listing_id,
        version_id=facts.version_id,
        seller_id=facts.seller_id,
        title=facts.title,
        category=facts.category,
        score=ranked.score,
        places=Places(
            closeness=ranked.closeness_place, text=ranked.text_place, price=ranked.price_place
        ),
        cost=None
        if bill is None
        else Cost(
            plan_id=bill.plan_id, lots=bill.lots, amount_minor=bill.minor, currency=bill.currency
        ),
        failed=judged.failed[0].constraint if judged.failed else None,
        checks=[
            CheckView(
                constraint=check.constraint, met=check.met, wanted=check.wanted, found=check.found
            )
            for check in judged.checks
        ],
    )
