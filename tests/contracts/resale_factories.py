"""A holder of units that may be sold on, and their sale as the engine's batch makes it."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from contracts import resale
from contracts.formation import Deal, Formed, form
from contracts.models import Agreement, Grant
from contracts.resale import Change
from listings import offers
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.security import Role
from settlement import ledger
from settlement.commands import Transfer
from settlement.escrow import escrow_of
from tests.contracts.factories import Trade, agreement_of, grant_of, make_agreement
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import MeteredUnit, make_plan
from tests.settlement.factories import available, fund

ROYALTY_PPM = 100_000


def policy(**changes: Any) -> dict[str, Any]:
    """A listing's policy with a resale clause: a tenth of the net goes to the original seller."""
    return {
        "purposes": ["internal_analytics"],
        "territory": ["CN"],
        "redistribution": False,
        "derivative_use": True,
        "resale": {"royalty_ppm": ROYALTY_PPM},
        **changes,
    }


async def make_holding(
    kernel: Kernel,
    *,
    lots: int = 10,
    lot_units: int = 10,
    price_minor: int = 1_000,
    unit: MeteredUnit = "row",
    **terms: Any,
) -> Trade:
    """A buyer's fresh agreement for ``lots`` lots; ``terms`` change the listing's policy."""
    seller = await make_party(kernel, Role.SELLER)
    buyer = await make_party(kernel, Role.BUYER)
    listing = await make_listing(kernel, seller, policy=policy(**terms))
    plan = await make_plan(
        kernel,
        seller,
        listing.listing_id,
        kind="metered",
        price_minor=price_minor,
        lot_units=lot_units,
        unit=unit,
    )
    agreement = await make_agreement(kernel, buyer, seller, plan, lots=lots)
    grant = await grant_of(kernel, agreement.id)
    return Trade(buyer, seller, plan, agreement, grant.id)


async def change(kernel: Kernel, grant_id: UUID, *, offered: int = 0, resold: int = 0) -> None:
    """Offer units or take them back."""
    async with kernel.unit_of_work() as uow:
        await resale.read_sources(uow, [grant_id], lock=True)
        await resale.apply(uow, [Change(grant_id, offered, resold)])


async def move(
    uow: UnitOfWork, kernel: Kernel, trade: Trade, buyer: Member, *, lots: int, price_minor: int
) -> Formed:
    """Sell offered lots on: units, money and agreement in the caller's transaction."""
    listing = await offers.get_listing(uow, trade.plan.listing_id)
    source = (await resale.read_sources(uow, [trade.grant_id], lock=True))[trade.grant_id]
    units = lots * source.lot_units
    await resale.apply(uow, [Change(trade.grant_id, -units, units)])
    deal = Deal(
        agreement_id=new_id(),
        trade_id=new_id(),
        plan=trade.plan,
        listing=listing,
        version_id=source.terms.version_id,
        buyer_id=buyer.party_id,
        seller_id=source.holder_id,
        lots=lots,
        price_minor=price_minor,
        currency=trade.plan.currency,
        traded_at=uow.now,
        source=source,
    )
    legs = (
        (available(buyer.party_id), -lots * price_minor),
        (escrow_of(deal.agreement_id, deal.currency), lots * price_minor),
    )
    await ledger.post_strict(uow, [Transfer(f"test:{deal.agreement_id.hex}", "trade", legs)])
    (formed,) = await form(uow, kernel, [deal])
    return formed


async def resell(kernel: Kernel, trade: Trade, *, lots: int, price_minor: int) -> Trade:
    """Offer ``lots`` of a holding and sell them to a new buyer, who holds the answer."""
    await change(kernel, trade.grant_id, offered=lots * trade.agreement.lot_units)
    buyer = await make_party(kernel, Role.BUYER)
    await fund(kernel, buyer.party_id, lots * price_minor)
    async with kernel.unit_of_work() as uow:
        made = await move(uow, kernel, trade, buyer, lots=lots, price_minor=price_minor)
    agreement = await agreement_of(kernel, made.terms.agreement_id)
    return replace(
        trade, seller=trade.buyer, buyer=buyer, agreement=agreement, grant_id=made.grant_id
    )


async def holding(kernel: Kernel, trade: Trade) -> tuple[Agreement, Grant]:
    """Agreement and grant as the database has them now."""
    agreement = await agreement_of(kernel, trade.agreement.id)
    return agreement, await grant_of(kernel, trade.agreement.id)
