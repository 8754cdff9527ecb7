"""May this order enter now, as far as operators have a say? Asked per order, in input order."""

from __future__ import annotations

from uuid import UUID

from market.matching.book import Book
from market.matching.commands import Place
from market.matching.control_errors import (
    BROKEN,
    InstrumentHalted,
    MarketHalted,
    OrderInconsistent,
    TooManyOpenOrders,
    TradeOutsideBand,
)
from market.matching.control_models import MARKET
from market.matching.controls import Controls
from market.matching.matcher import SIDES, TIFS, Matcher
from market.matching.models import OrderType
from market.matching.rules import Rules, Terms
from market.matching.shard import Shard
from market.matching.terms import UNLIMITED, Phase, Side
from market.matching.touched import Touched
from market.parties.errors import TradingBlocked
from pricing.models import Plan


class Gate:
    """The controls of one batch. ``references`` are those that its trades have moved."""

    def __init__(
        self, shard: Shard, matcher: Matcher, controls: Controls, *, open_orders_max: int
    ) -> None:
        self._shard = shard
        self._matcher = matcher
        self._controls = controls
        self._open_orders_max = open_orders_max
        self.references: dict[UUID, int] = {}

    def check(self, place: Place, plan: Plan) -> None:
        """Decide one order before it is admitted.

        Raises TradingBlocked (403), MarketHalted, InstrumentHalted, TooManyOpenOrders or
        TradeOutsideBand (409), or the Invalid (422) of the rule it breaks.
        """
        controls = self._controls
        if controls.blocked:
            self.check_party(place.party_id)
        if controls.halts:
            self.check_phase(plan.id)
        self._check_count(place.party_id, plan.id)
        rules = controls.rules.get(plan.id)
        if rules is not None:
            self._check_rules(place, plan, rules)

    def check_party(self, party_id: UUID) -> None:
        """Raises TradingBlocked (403)."""
        if party_id in self._controls.blocked:
            raise TradingBlocked

    def check_phase(self, plan_id: UUID) -> None:
        """Raises MarketHalted or InstrumentHalted (409)."""
        halts = self._controls.halts
        if MARKET in halts:
            raise MarketHalted(halts[MARKET])
        if plan_id in halts:
            raise InstrumentHalted(halts[plan_id], param="plan_id")

    def traded(self, taker: Touched) -> None:
        """Note what the order has just done to the reference of its instrument."""
        if taker.matches and taker.order.plan_id in self._controls.references:
            self.references[taker.order.plan_id] = taker.matches[-1].price

    def reference(self, plan: Plan) -> int:
        """The price that the band is around: the last trade's or a later operator's, else the
        posted one; minor units per lot.
        """
        moved = self.references.get(plan.id) or self._controls.references.get(plan.id)
        return moved or plan.price_minor

    def reopening_band(self, plan: Plan) -> tuple[int, int] | None:
        """The band around the reference; None unless a trade outside of it means an auction."""
        rules = self._controls.rules.get(plan.id)
        if rules is None or rules.reopen_s is None:
            return None
        return rules.band(self.reference(plan))

    def _check_count(self, party_id: UUID, plan_id: UUID) -> None:
        limit = self._open_orders_max
        quota = self._controls.quotas.get(party_id) if self._controls.quotas else None
        if quota is not None and quota.open_orders_max is not None:
            limit = quota.open_orders_max
        before = self._shard.open_orders_of(party_id, plan_id)
        # An upper bound first: what this batch has changed is counted only near the limit.
        if before + len(self._matcher.touched) < limit:
            return
        if before + self._matcher.opened(party_id, plan_id) >= limit:
            raise TooManyOpenOrders(f"At most {limit}.", limit=limit)

    def _check_rules(self, place: Place, plan: Plan, rules: Rules) -> None:
        body = place.body
        side = SIDES[body.side]
        terms = Terms(
            side=side,
            price=body.limit_minor,
            lots=UNLIMITED if body.lots is None else body.lots,
            tif=TIFS[body.effective_tif],
            post_only=body.post_only,
            minimum=body.min_lots or 0,
            market=body.type is OrderType.MARKET,
        )
        price_name = "price_minor" if body.price_minor is not None else "protection_price_minor"
        self.check_terms(terms, plan, rules, price_name=price_name)

    def check_amended(self, terms: Terms, plan: Plan) -> None:
        """Decide new terms of a resting order; raises as :meth:`check_terms`."""
        rules = self._controls.rules.get(plan.id)
        if rules is not None:
            self.check_terms(terms, plan, rules, price_name="price_minor")

    def check_terms(self, terms: Terms, plan: Plan, rules: Rules, *, price_name: str) -> None:
        """Raises the Invalid (422) of the rule that ``terms`` break, or TradeOutsideBand (409).

        ``price_name``: the field that states the price.
        """
        reference = self.reference(plan)
        violation = rules.violation(terms, reference)
        if violation is not None:
            error = BROKEN.get(violation)
            if error is None:
                raise OrderInconsistent(violation.value)
            param = price_name if violation.value.startswith("price") else "lots"
            raise error(_detail(rules, reference), param=param)
        band = rules.band(reference)
        if band is not None and _leaves(
            self._shard.instrument(plan.id).book, terms.side, terms.price, band
        ):
            raise TradeOutsideBand(_detail(rules, reference), param=price_name)


def _leaves(book: Book, side: Side, price: int, band: tuple[int, int]) -> bool:
    """Whether an incoming order within the band would meet one that rests outside of it."""
    best = book.best(1 - side)
    if best is None or book.phase is not Phase.CONTINUOUS:
        return False
    return (
        best <= price and best < band[0] if side is Side.BUY else best >= price and best > band[1]
    )


def _detail(rules: Rules, reference: int) -> str:
    band = rules.band(reference)
    said = f"tick {rules.tick}, lots {rules.lots_min} to {rules.lots_max} by {rules.lot_step}"
    return said if band is None else f"{said}, price {band[0]} to {band[1]}"
