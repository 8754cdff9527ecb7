"""Plans for every test, made by the real services."""

from typing import Literal
from uuid import UUID

from listings.offering import create_listing, submit_listing
from listings.reviews import approve_listing
from listings.schemas import ListingInput
from market.kernel.context import Kernel
from pricing.models import Plan, PlanKind, Unit
from pricing.plans import create_plan, get_plan
from pricing.schemas import LicensePlanInput, MeteredPlanInput
from tests.listings.factories import any_operator, listing_body
from tests.market.parties.factories import Member

MeteredUnit = Literal["row", "call", "mib", "query", "compute_second"]
_UNITS: dict[
    MeteredUnit, Literal[Unit.ROW, Unit.CALL, Unit.MIB, Unit.QUERY, Unit.COMPUTE_SECOND]
] = {
    "row": Unit.ROW,
    "call": Unit.CALL,
    "mib": Unit.MIB,
    "query": Unit.QUERY,
    "compute_second": Unit.COMPUTE_SECOND,
}


async def make_plan(
    kernel: Kernel,
    seller: Member,
    listing_id: UUID,
    *,
    kind: Literal["metered", "license"] = "metered",
    price_minor: int = 1_000,
    lot_units: int = 1_000,
    unit: MeteredUnit = "row",
    currency: str = "CNY",
    term_days: int = 365,
    acceptance_window_days: int = 7,
) -> Plan:
    """An active plan; ``unit`` and ``lot_units`` count for metered ones only."""
    body: MeteredPlanInput | LicensePlanInput
    if kind == "metered":
        body = MeteredPlanInput(
            kind=PlanKind.METERED,
            currency=currency,
            price_minor=price_minor,
            unit=_UNITS[unit],
            lot_units=lot_units,
            term_days=term_days,
            acceptance_window_days=acceptance_window_days,
        )
    else:
        body = LicensePlanInput(
            kind=PlanKind.LICENSE,
            currency=currency,
            price_minor=price_minor,
            term_days=term_days,
            acceptance_window_days=acceptance_window_days,
        )
    view = await create_plan(kernel, seller.actor, listing_id, body)
    async with kernel.unit_of_work() as uow:
        return await get_plan(uow, view.id)


async def offer_again(kernel: Kernel, seller: Member, product_id: UUID) -> UUID:
    """A further live listing of a product; much cheaper than another product with its upload."""
    body = {**listing_body(""), "product_id": product_id}
    listing = await create_listing(kernel, seller.actor, ListingInput.model_validate(body))
    await submit_listing(kernel, seller.actor, listing.id)
    await approve_listing(kernel, any_operator(), listing.id)
    return listing.id
