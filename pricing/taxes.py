"""Declared tax rates of sales: for a plan, else its category, else all that the seller sells.

The seller is liable for its tax: the exchange declares nothing for it and shows the rate that
the seller states. Without a declaration the rate is 0. Declarations are append-only; agreements
freeze the rate that holds when they are formed.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from listings import offers
from listings.lifecycle import ListingStatus
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import PPM, split
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from pricing.billing_models import TaxDeclaration
from pricing.billing_schemas import PlanTax, TaxDeclarationInput, TaxDeclarationView
from pricing.errors import PlanNotFound
from pricing.models import Plan
from pricing.plans import get_plan

# Per sale the narrowest scope first, in it the newest.
_RATES = """
SELECT DISTINCT ON (k.plan_id) k.plan_id, d.rate_ppm
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS k(plan_id, seller_id, category)
JOIN pricing.tax_declaration d ON d.seller_id = k.seller_id
     AND (d.plan_id = k.plan_id OR d.category = k.category
          OR (d.plan_id IS NULL AND d.category IS NULL))
ORDER BY k.plan_id, (d.plan_id IS NULL), (d.category IS NULL), d.id DESC
"""


async def rate_of(uow: UnitOfWork, plan: Plan, category: str) -> int:
    """The tax rate, in ppm, of a sale under ``plan``; 0 when nothing is declared."""
    return (await rates_of(uow, [(plan, category)]))[plan.id]


async def rates_of(uow: UnitOfWork, sales: Sequence[tuple[Plan, str]]) -> dict[UUID, int]:
    """The rate by plan of sales, each a plan and its category, as :func:`rate_of`; one query."""
    connection = await uow.raw()
    rows = await connection.fetch(
        _RATES,
        [plan.id for plan, _ in sales],
        [plan.seller_id for plan, _ in sales],
        [category for _, category in sales],
    )
    declared: dict[UUID, int] = dict(rows)
    return {plan.id: declared.get(plan.id, 0) for plan, _ in sales}


async def declare_tax(
    kernel: Kernel, actor: Actor, body: TaxDeclarationInput
) -> TaxDeclarationView:
    """Declare a rate for agreements formed from now on. Effect: event ``tax.declared``.

    Raises RoleRequired (403) and PlanNotFound (404), also for the plan of somebody else.
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        if body.plan_id is not None:
            plan = await get_plan(uow, body.plan_id)
            if plan.seller_id != actor.party_id:
                raise PlanNotFound(param="plan_id")
        made = TaxDeclaration(
            id=new_id(),
            seller_id=actor.party_id,
            plan_id=body.plan_id,
            category=None if body.category is None else body.category.value,
            rate_ppm=body.rate_ppm,
            declared_by=actor.party_id,
            created_at=uow.now,
        )
        uow.session.add(made)
        view = TaxDeclarationView.model_validate(_shown(made))
        uow.emit(
            "tax.declared",
            made.id,
            {"declaration_id": show("txd", made.id), "rate_ppm": made.rate_ppm},
            parties=[actor.party_id],
        )
        await uow.answer(view)
        return view


async def list_declarations(
    kernel: Kernel, actor: Actor, page: PageQuery
) -> Page[TaxDeclarationView]:
    """The actor's declarations, newest first; operators and regulators see all."""
    after = after_id(page)
    query = select(TaxDeclaration).order_by(col(TaxDeclaration.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(TaxDeclaration.id) < after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(TaxDeclaration.seller_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
    views = [TaxDeclarationView.model_validate(_shown(row)) for row in rows]
    return Page[TaxDeclarationView].of(views, page.limit, [(row.id,) for row in rows])


async def show_plan_tax(kernel: Kernel, actor: Actor, plan_id: UUID, *, lots: int) -> PlanTax:
    """The tax inside the price of ``lots`` lots today; visible as the plan. PlanNotFound."""
    async with kernel.unit_of_work() as uow:
        plan = await get_plan(uow, plan_id)
        listing = await offers.get_listing(uow, plan.listing_id)
        if listing.status != ListingStatus.LISTED and not may_oversee(actor, plan.seller_id):
            raise PlanNotFound
        rate = await rate_of(uow, plan, listing.category)
    total = lots * plan.price_minor
    without_tax, tax = split(total, (PPM, rate))
    return PlanTax(
        plan_id=plan_id,
        currency=plan.currency,
        lots=lots,
        rate_ppm=rate,
        without_tax_minor=without_tax,
        tax_minor=tax,
        total_minor=total,
    )


def _shown(row: TaxDeclaration) -> dict[str, object]:
    return {name: getattr(row, name) for name in TaxDeclarationView.model_fields}
