"""Agreements for every test: paid into escrow and formed by the real services."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlmodel import select

from contracts import tokens
from contracts.formation import Deal, form
from contracts.metering import meter_of
from contracts.models import Agreement, Grant
from contracts.schemas import TokenBody
from listings import offers
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from pricing.models import Plan
from settlement import ledger
from settlement.accounts import AccountRef
from settlement.commands import Transfer
from settlement.escrow import escrow_of
from tests.listings.factories import listing_body, make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import MeteredUnit, make_plan
from tests.settlement.factories import available, fund


async def make_agreement(
    kernel: Kernel,
    buyer: Member,
    seller: Member,
    plan: Plan,
    *,
    lots: int = 1,
    price_minor: int | None = None,
) -> Agreement:
    """An active agreement for ``lots`` lots, its money in escrow, as a trade makes it."""
    price = plan.price_minor if price_minor is None else price_minor
    await fund(kernel, buyer.party_id, lots * price, plan.currency)
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, plan.listing_id)
        deal = Deal(
            agreement_id=new_id(),
            trade_id=new_id(),
            plan=plan,
            listing=listing,
            version_id=listing.version_id,
            buyer_id=buyer.party_id,
            seller_id=seller.party_id,
            lots=lots,
            price_minor=price,
            currency=plan.currency,
            traded_at=uow.now,
            buy_order_id=new_id(),
            sell_order_id=new_id(),
        )
        escrow = escrow_of(deal.agreement_id, plan.currency)
        legs = (
            (available(buyer.party_id, plan.currency), -lots * price),
            (escrow, lots * price),
        )
        key = f"test:escrow:{deal.agreement_id.hex}"
        await ledger.post_strict(uow, [Transfer(key, "trade", legs)])
        await form(uow, kernel, [deal])
    return await agreement_of(kernel, deal.agreement_id)


@dataclass(frozen=True)
class Trade:
    """A buyer and a seller with one agreement between them."""

    buyer: Member
    seller: Member
    plan: Plan
    agreement: Agreement
    grant_id: UUID

    @property
    def id(self) -> str:
        """The agreement's id on the wire."""
        return show("agr", self.agreement.id)

    @property
    def grant(self) -> str:
        """The grant's id on the wire."""
        return show("grt", self.grant_id)

    @property
    def escrow(self) -> AccountRef:
        """The agreement's escrow account."""
        return escrow_of(self.agreement.id, self.agreement.currency)


async def make_trade(
    kernel: Kernel,
    *,
    kind: str = "metered",
    lots: int = 1,
    lot_units: int = 1_000,
    price_minor: int = 1_000,
    unit: MeteredUnit = "row",
    rows: int = 1_000,
    term_days: int = 365,
    acceptance_window_days: int = 7,
    meter_side: str = "buyer_safe",
    sub_lease_units: int = 0,
    **clauses: Any,
) -> Trade:
    """A fresh seller, listing, plan and buyer, and their agreement.

    ``clauses`` are more of the policy.
    """
    seller = await make_party(kernel, Role.SELLER)
    buyer = await make_party(kernel, Role.BUYER)
    policy = {**listing_body("")["policy"], "meter_side": meter_side, **clauses}
    if sub_lease_units:
        policy["sub_lease_units"] = sub_lease_units
    listing = await make_listing(kernel, seller, rows=rows, policy=policy)
    plan = await make_plan(
        kernel,
        seller,
        listing.listing_id,
        kind="metered" if kind == "metered" else "license",
        price_minor=price_minor,
        lot_units=lot_units,
        unit=unit,
        term_days=term_days,
        acceptance_window_days=acceptance_window_days,
    )
    agreement = await make_agreement(kernel, buyer, seller, plan, lots=lots)
    grant = await grant_of(kernel, agreement.id)
    return Trade(buyer, seller, plan, agreement, grant.id)


async def grant_of(kernel: Kernel, agreement_id: UUID) -> Grant:
    """The agreement's grant as the database has it now."""
    async with kernel.unit_of_work() as uow:
        query = select(Grant).where(Grant.agreement_id == agreement_id)
        return (await uow.session.exec(query)).one()


async def agreement_of(kernel: Kernel, agreement_id: UUID) -> Agreement:
    """The agreement as the database has it now."""
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(Agreement, agreement_id)
        assert found is not None
        return found


async def mint(kernel: Kernel, trade: Trade, *, ttl_s: int = 3_600) -> str:
    """A delivery token of the trade's buyer."""
    body = TokenBody(ttl_s=ttl_s, label="test")
    return (await tokens.mint(kernel, trade.buyer.actor, trade.grant_id, body)).token


def bearer(token: str, **headers: str) -> dict[str, str]:
    """Headers of a delivery request."""
    return {"Authorization": f"Bearer {token}", **headers}


async def settled(kernel: Kernel, trade: Trade) -> int:
    """Used units on record."""
    await meter_of(kernel).flush()
    return (await grant_of(kernel, trade.agreement.id)).settled_units
