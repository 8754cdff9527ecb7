"""A seeded market for the durable matching benchmark, and the flow of orders over it.

Ten sellers with five live instruments each come from the real services; 1,990 verified buyers are
copies of one that a service made (rows of ``parties.party`` only: a flow without HTTP needs no
credentials); their money comes from the ledger.
"""

import random
from dataclasses import dataclass
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.security import Role
from market.matching.commands import Cancel, Place
from market.matching.models import OrderSide, OrderType, TimeInForceName
from market.matching.schemas import OrderRequest
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Transfer
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan, offer_again

SEED = 20240607
PARTIES = 2_000
SELLERS = 10
INSTRUMENTS = 50
FUNDS = 10**12
MID = 10_000
LIMIT_PERCENT, IMMEDIATE_PERCENT, CANCEL_PERCENT, AMEND_PERCENT = 60, 15, 20, 5
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A plan and who may sell it."""

    plan_id: UUID
    seller_id: UUID


@dataclass(frozen=True, slots=True)
class Market:
    """What a flow trades."""

    instruments: list[Instrument]
    buyers: list[UUID]
    sellers: list[Member]


async def seed(kernel: Kernel) -> Market:
    """Make sellers, instruments and funded buyers."""
    instruments = []
    sellers = [await make_party(kernel, Role.SELLER) for _ in range(SELLERS)]
    for seller in sellers:
        first = await make_listing(kernel, seller, rows=10)
        listings = [first.listing_id]
        while len(listings) < INSTRUMENTS // SELLERS:
            listings.append(await offer_again(kernel, seller, first.product_id))
        for listing_id in listings:
            plan = await make_plan(
                kernel, seller, listing_id, kind="metered", price_minor=MID, lot_units=100
            )
            instruments.append(Instrument(plan.id, seller.party_id))
    buyers = await _buyers(kernel, PARTIES - SELLERS)
    await fund(kernel, buyers)
    return Market(instruments, buyers, sellers)


async def fund(kernel: Kernel, party_ids: list[UUID]) -> None:
    """Give each party more money than a flow can spend."""
    async with kernel.unit_of_work() as uow:
        await ledger.post_strict(uow, [_funding(party_id) for party_id in party_ids])


async def _buyers(kernel: Kernel, count: int) -> list[UUID]:
    model = await make_party(kernel, Role.BUYER)
    ids = [new_id() for _ in range(count)]
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "INSERT INTO parties.party (id, name, kind, jurisdiction, roles, status, version,"
            " created_at, updated_at, verified_at)"
            " SELECT n.id, p.name, p.kind, p.jurisdiction, p.roles, p.status, p.version,"
            " p.created_at, p.updated_at, p.verified_at"
            " FROM parties.party p CROSS JOIN unnest($2::uuid[]) AS n(id) WHERE p.id = $1",
            model.party_id,
            ids,
        )
    return ids


def _funding(party_id: UUID) -> Transfer:
    legs = (
        (AccountRef(AccountKind.CLEARING, None, "CNY"), -FUNDS),
        (AccountRef(AccountKind.AVAILABLE, party_id, "CNY"), FUNDS),
    )
    return Transfer(f"bench:fund:{party_id.hex}", "top_up", legs)


class Flow:
    """60 % limit orders, 15 % market or IOC, 20 % cancels, 5 % amendments.

    An amendment is a cancel and a new order, because that is what it does to priority. Cancels
    aim at orders that rested when they were answered: some are filled by then, as in real life.
    The orders are made beforehand, because that is not the engine's work.
    """

    def __init__(self, market: Market, operations: int) -> None:
        self._market = market
        self._random = random.Random(SEED)
        self._resting: list[Place] = []
        share = IMMEDIATE_PERCENT / (IMMEDIATE_PERCENT + LIMIT_PERCENT)
        self.orders = [
            self._place(immediate=self._random.random() < share) for _ in range(operations)
        ]

    def rests(self, place: Place) -> None:
        """An order that was answered as open."""
        self._resting.append(place)

    def next(self) -> list[Place | Cancel]:
        """The commands of the next operation, one after the other."""
        kind = self._random.randrange(100)
        if kind < CANCEL_PERCENT + AMEND_PERCENT and self._resting:
            place = self._pick()
            cancel = Cancel(place.party_id, place.order_id, "bench")
            return [cancel] if kind < CANCEL_PERCENT else [cancel, self._again(place)]
        return [self.orders.pop()]

    def _pick(self) -> Place:
        """A random one, taken out at constant cost."""
        resting = self._resting
        index = self._random.randrange(len(resting))
        resting[index], resting[-1] = resting[-1], resting[index]
        return resting.pop()

    def _again(self, place: Place) -> Place:
        assert place.body.lots is not None
        body = place.body.model_copy(update={"lots": place.body.lots + 1})
        return self._command(place.party_id, body)

    def _place(self, *, immediate: bool) -> Place:
        draw = self._random
        instrument = draw.choice(self._market.instruments)
        side = draw.choice((OrderSide.BUY, OrderSide.SELL))
        party_id = instrument.seller_id
        if side is OrderSide.BUY:
            party_id = draw.choice(self._market.buyers)
        away = 1 if side is OrderSide.SELL else -1
        lots = draw.randint(1, 20)
        if immediate:
            price = MID - away * 20
            market = draw.random() < 0.5
            body = OrderRequest(
                plan_id=instrument.plan_id,
                side=side,
                type=OrderType.MARKET if market else OrderType.LIMIT,
                time_in_force=TimeInForceName.IOC,
                lots=lots,
                price_minor=None if market else price,
                protection_price_minor=price if market else None,
            )
        else:
            body = OrderRequest(
                plan_id=instrument.plan_id,
                side=side,
                lots=lots,
                price_minor=MID + away * draw.randint(-3, 20),
            )
        return self._command(party_id, body)

    @staticmethod
    def _command(party_id: UUID, body: OrderRequest) -> Place:
        return Place(party_id, f"bench:{new_id().hex}", _NO_HASH, body, "bench")
