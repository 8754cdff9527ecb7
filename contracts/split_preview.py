"""Who would get what of a price today: the split that an agreement formed now would freeze."""

from __future__ import annotations

from uuid import UUID

from contracts.billing_schemas import PartView, SplitPreview
from listings import offers
from market.kernel.context import Kernel
from market.kernel.money import MAX_MINOR
from market.kernel.security import Actor
from market.parties.access import may_oversee
from pricing.errors import PlanNotFound
from pricing.intermediaries import newest_intermediary
from pricing.plans import get_plan
from pricing.shares import get_shares
from pricing.taxes import rate_of
from settlement.errors import BalanceLimit
from settlement.fees import fees_in_force
from settlement.split import SplitTerms, cumulative
from settlement.tax import contained


async def preview_split(
    kernel: Kernel, actor: Actor, plan_id: UUID, *, lots: int, price_minor: int | None
) -> SplitPreview:
    """The split of ``lots`` × ``price_minor`` (default: the plan's price). Changes nothing.

    For the plan's seller and overseers, because shares are theirs to know before a deal. Raises
    PlanNotFound (404), and BalanceLimit (409) for a total beyond what can be traded.
    """
    async with kernel.unit_of_work() as uow:
        plan = await get_plan(uow, plan_id)
        if not may_oversee(actor, plan.seller_id):
            raise PlanNotFound
        listing = await offers.get_listing(uow, plan.listing_id)
        pair = (listing.category, plan.currency)
        fee = (await fees_in_force(uow, kernel.settings, [pair], at=uow.now))[pair]
        broker = await newest_intermediary(uow, listing.id)
        shares = [(share.party_id, share.ppm) for share in await get_shares(uow, listing.id)]
        tax_ppm = await rate_of(uow, plan, listing.category)
    price = plan.price_minor if price_minor is None else price_minor
    total = lots * price
    if total > MAX_MINOR:
        raise BalanceLimit("The total is more than an agreement can hold.", param="lots")
    named = []
    if broker is not None and broker.party_id is not None and broker.ppm is not None:
        named = [(broker.party_id, broker.ppm)]
    terms = SplitTerms(fee.fee_ppm, (*named, *shares), fee.minimum_minor, fee.cap_minor)
    parts = cumulative(total, terms)
    taxed = contained(total, tax_ppm)
    views = [
        PartView(party_id=party, ppm=ppm, amount_minor=amount)
        for (party, ppm), amount in zip(terms.shares, parts.shares, strict=True)
    ]
    return SplitPreview(
        plan_id=plan_id,
        lots=lots,
        price_minor=price,
        total_minor=total,
        currency=plan.currency,
        schedule_id=fee.schedule_id,
        fee_ppm=fee.fee_ppm,
        fee_minimum_minor=fee.minimum_minor,
        fee_cap_minor=fee.cap_minor,
        fee_minor=parts.fee,
        fee_vat_ppm=fee.vat_ppm,
        fee_tax_minor=contained(parts.fee, fee.vat_ppm).tax,
        intermediary=views[0] if named else None,
        shares=views[len(named) :],
        seller_minor=parts.seller,
        tax_ppm=tax_ppm,
        without_tax_minor=taxed.without_tax,
        tax_minor=taxed.tax,
    )
