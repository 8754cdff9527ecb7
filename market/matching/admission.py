"""May this order enter the book? Facts are read once per batch, decisions are made per order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from listings import offers
from listings.models import Listing
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.matching import resales, sql
from market.matching.commands import Place
from market.matching.errors import (
    ClientOrderIdTaken,
    ExpiryOutOfRange,
    NotTheSeller,
    OrderTooLarge,
    OrderUnfunded,
    SelfTrade,
)
from market.matching.models import OrderSide, TimeInForceName
from market.matching.shard import LiveOrder
from market.matching.terms import Side
from market.parties.directory import Standing, get_standings, related
from market.parties.errors import PartyNotVerified
from market.parties.models import PartyStatus
from pricing import plans
from pricing.errors import PlanNotFound, PlanRetired
from pricing.models import Plan, PlanStatus
from pricing.units import counted_units
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef

# A resting buy ties up money, so it ends by itself; a posted price may stand for ever.
BUY_TTL = timedelta(days=90)
EXPIRY_MAX = timedelta(days=366)
# 2**62: grants count units in bigint.
UNITS_MAX = 1 << 62


class BundleShare(NamedTuple):
    """That an order is a leg of a bundle, and what all its lots trade for, in minor units."""

    bundle_id: UUID
    amount_minor: int


class Admitted(NamedTuple):
    """An order that may be matched, with everything its trades will need."""

    place: Place
    plan: Plan
    listing: Listing
    group: UUID
    expires_at: datetime | None
    leg: BundleShare | None = None

    @property
    def account(self) -> AccountRef:
        """Where a buyer's money is."""
        return AccountRef(AccountKind.AVAILABLE, self.place.party_id, self.plan.currency)

    @property
    def reserve_minor(self) -> int:
        """What a buy order reserves: lots times its worst price. 0 for a sell.

        A leg of a bundle reserves what it is known to cost.
        """
        body = self.place.body
        if body.side is OrderSide.SELL:
            return 0
        if self.leg is not None:
            return self.leg.amount_minor
        assert body.lots is not None
        return body.lots * body.limit_minor


@dataclass(slots=True)
class Facts:
    """What a batch's orders refer to. ``balances`` and ``holdings`` shrink as they are admitted."""

    plans: dict[UUID, Plan]
    listings: dict[UUID, Listing | MarketError]
    parties: dict[UUID, Standing]
    client_ids: set[tuple[UUID, str]]
    balances: dict[UUID, int]
    holdings: resales.Holdings


async def gather(
    uow: UnitOfWork, places: Sequence[Place], amended: Sequence[LiveOrder] = ()
) -> Facts:
    """Read what new orders and orders to amend refer to, in a fixed number of queries."""
    named = {place.body.plan_id for place in places} | {order.plan_id for order in amended}
    found = await plans.get_plans(uow, named)
    wanted = {place.party_id for place in places} | {plan.seller_id for plan in found.values()}
    wanted |= {order.party_id for order in amended}
    names = [
        (place.party_id, place.body.client_order_id)
        for place in places
        if place.body.client_order_id is not None
    ]
    accounts = [
        AccountRef(AccountKind.AVAILABLE, place.party_id, found[place.body.plan_id].currency)
        for place in places
        if place.body.side is OrderSide.BUY and place.body.plan_id in found
    ]
    accounts += [
        AccountRef(AccountKind.AVAILABLE, order.party_id, found[order.plan_id].currency)
        for order in amended
        if order.side is Side.BUY
    ]
    return Facts(
        plans=found,
        listings=await offers.get_live_listings(uow, {p.listing_id for p in found.values()}),
        parties=await get_standings(uow, wanted),
        client_ids=await sql.taken_client_ids(await uow.raw(), names),
        balances=await ledger.read_balances(uow, accounts),
        holdings=await resales.gather(uow, places, amended),
    )


def admit(place: Place, facts: Facts, *, now: datetime) -> Admitted:
    """Decide one order, in input order. Raises the MarketError that refuses it.

    Effect: takes the order's reserve off ``facts.balances`` or ``facts.holdings``, so that later
    orders of the batch see what is left. The ledger and the grants have the last word.
    """
    admitted = consider(place, facts, now=now)
    _fund(admitted, facts)
    if place.body.grant_id is not None:
        facts.holdings.take(place)
    if place.body.client_order_id is not None:
        facts.client_ids.add((place.party_id, place.body.client_order_id))
    return admitted


def consider(place: Place, facts: Facts, *, now: datetime) -> Admitted:
    """The same decision without any effect, and without asking for the money or the units."""
    body = place.body
    plan = facts.plans.get(body.plan_id)
    if plan is None:
        raise PlanNotFound(param="plan_id")
    side = Side.SELL if body.side is OrderSide.SELL else Side.BUY
    resale = body.grant_id is not None
    listing, party = check_offer(side, place.party_id, plan, facts, resale=resale)
    if body.lots is not None and body.lots * counted_units(plan.unit, plan.lot_units) > UNITS_MAX:
        raise OrderTooLarge("The order has more units than a grant can count.", param="lots")
    expires_at = _expiry(place, now)
    if body.grant_id is not None:
        expires_at = facts.holdings.check(place, now)
    if (place.party_id, body.client_order_id or "") in facts.client_ids:
        raise ClientOrderIdTaken(param="client_order_id")
    return Admitted(place, plan, listing, party.affiliate_group or party.id, expires_at)


def check_offer(
    side: Side, party_id: UUID, plan: Plan, facts: Facts, *, resale: bool = False
) -> tuple[Listing, Standing]:
    """Whether the plan is on offer, and to this party; raises the MarketError that says no.

    ``resale``: of a grant's units, so that not only the listing's owner may sell.
    """
    listing = facts.listings[plan.listing_id]
    if isinstance(listing, MarketError):
        raise listing
    if plan.status is not PlanStatus.ACTIVE:
        raise PlanRetired(param="plan_id")
    party = facts.parties[party_id]
    if party.status is not PartyStatus.VERIFIED:
        raise PartyNotVerified
    if side is Side.SELL:
        if not resale and party.id != plan.seller_id:
            raise NotTheSeller(param="side")
    elif related(party, facts.parties[plan.seller_id]):
        raise SelfTrade(param="plan_id")
    return listing, party


def _expiry(place: Place, now: datetime) -> datetime | None:
    body = place.body
    if body.expires_at is not None:
        if not now < body.expires_at <= now + EXPIRY_MAX:
            raise ExpiryOutOfRange(param="expires_at")
        return body.expires_at
    if body.side is OrderSide.BUY and body.effective_tif in _RESTS_UNDATED:
        return now + BUY_TTL
    return None


_RESTS_UNDATED = (TimeInForceName.GTC, TimeInForceName.AUCTION)


def give_back(admitted: Admitted, facts: Facts) -> None:
    """Undo what :func:`admit` took off ``facts``, for an order that the book did not take."""
    if admitted.reserve_minor:
        facts.balances[admitted.account.id] += admitted.reserve_minor
    if admitted.place.body.grant_id is not None:
        facts.holdings.give_back(admitted.place)
    facts.client_ids.discard((admitted.place.party_id, admitted.place.body.client_order_id or ""))


def _fund(admitted: Admitted, facts: Facts) -> None:
    reserve = admitted.reserve_minor
    if not reserve:
        return
    take_money(facts, admitted.account, reserve)


def take_money(facts: Facts, account: AccountRef, amount: int) -> None:
    """Take ``amount`` minor units off what later orders of the batch see.

    Raises OrderUnfunded (402).
    """
    available = facts.balances.get(account.id, 0)
    if available < amount:
        raise OrderUnfunded(
            f"The order needs {amount} minor units of {account.currency}.",
            required_minor=amount,
            available_minor=available,
        )
    facts.balances[account.id] = available - amount
