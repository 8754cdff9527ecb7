"""Price plans: made and retired by the seller, never changed."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlmodel import col, select

from listings import offers
from listings.errors import ListingNotFound
from listings.lifecycle import ListingStatus
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from pricing.errors import (
    ListingClosed,
    PlanCurrencyMismatch,
    PlanNotFound,
    PlanRetired,
    TooManyPlans,
)
from pricing.models import Plan, PlanStatus
from pricing.schemas import LicensePlanInput, MeteredPlanInput, PlanView

ACTIVE_PLANS_MAX = 50


async def get_plan(uow: UnitOfWork, plan_id: UUID) -> Plan:
    """One plan, active or retired. Raises PlanNotFound (404)."""
    plan = await uow.session.get(Plan, plan_id)
    if plan is None:
        raise PlanNotFound
    return plan


async def get_active_plan(uow: UnitOfWork, plan_id: UUID) -> Plan:
    """One plan that takes orders. Raises PlanNotFound (404) or PlanRetired (409)."""
    plan = await get_plan(uow, plan_id)
    if plan.status is not PlanStatus.ACTIVE:
        raise PlanRetired
    return plan


async def get_plans(uow: UnitOfWork, ids: Iterable[UUID]) -> dict[UUID, Plan]:
    """Those of ``ids`` that exist, by id, in one query."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    rows = await uow.session.exec(select(Plan).where(col(Plan.id).in_(wanted)))
    return {plan.id: plan for plan in rows}


async def get_active_plans(uow: UnitOfWork, listing_ids: Sequence[UUID]) -> dict[UUID, list[Plan]]:
    """The active plans of listings, oldest first, by listing; one query."""
    found: dict[UUID, list[Plan]] = {}
    if not listing_ids:
        return found
    rows = await uow.session.exec(
        select(Plan)
        .where(col(Plan.listing_id).in_(listing_ids), Plan.status == PlanStatus.ACTIVE)
        .order_by(col(Plan.id))
    )
    for plan in rows:
        found.setdefault(plan.listing_id, []).append(plan)
    return found


async def own_listing(uow: UnitOfWork, actor: Actor, listing_id: UUID) -> Listing:
    """The actor's own listing, its row locked until the unit of work ends.

    Raises ListingNotFound (404), also for the listing of somebody else, and ListingClosed (409)
    when it was delisted.
    """
    # Looked at before it is locked: nobody can make the seller wait for a stranger.
    listing = await offers.get_listing(uow, listing_id)
    if listing.seller_id != actor.party_id:
        raise ListingNotFound
    listing = await offers.lock_listing(uow, listing_id)
    if listing.status == ListingStatus.DELISTED:
        raise ListingClosed
    return listing


async def create_plan(
    kernel: Kernel, actor: Actor, listing_id: UUID, body: MeteredPlanInput | LicensePlanInput
) -> PlanView:
    """Offer a listing under a further plan. Effects: event ``plan.created``, price summary.

    Raises RoleRequired (403), ListingNotFound (404), ListingClosed, TooManyPlans or
    PlanCurrencyMismatch (409).
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        listing = await own_listing(uow, actor, listing_id)
        active = await _active_plans(uow, listing_id)
        if len(active) >= ACTIVE_PLANS_MAX:
            raise TooManyPlans(f"At most {ACTIVE_PLANS_MAX} plans.")
        if active and active[0].currency != body.currency:
            raise PlanCurrencyMismatch(
                f"The active plans are in {active[0].currency}.", param="currency"
            )
        plan = Plan(
            id=new_id(),
            listing_id=listing_id,
            seller_id=listing.seller_id,
            kind=body.kind,
            currency=body.currency,
            price_minor=body.price_minor,
            unit=body.unit,
            lot_units=body.lot_units,
            term_days=body.term_days,
            acceptance_window_days=body.acceptance_window_days,
            status=PlanStatus.ACTIVE,
            created_at=uow.now,
            retired_at=None,
        )
        uow.session.add(plan)
        await _summarize(uow, listing_id, [*active, plan])
        view = plan_view(plan)
        uow.emit("plan.created", plan.id, view.model_dump(mode="json"), parties=[plan.seller_id])
        await uow.answer(view, headers={"Location": f"/v1/plans/{show('pln', plan.id)}"})
        return view


async def retire_plan(kernel: Kernel, actor: Actor, plan_id: UUID) -> PlanView:
    """Stop a plan from taking orders. Effects: event ``plan.retired``, price summary.

    Agreements under it go on. Raises RoleRequired (403), PlanNotFound (404), also for the plan
    of somebody else, and PlanRetired (409) the second time.
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        plan = await get_plan(uow, plan_id)
        if plan.seller_id != actor.party_id:
            raise PlanNotFound
        await offers.lock_listing(uow, plan.listing_id)
        # Again under the lock: a second retire may have come first.
        await uow.session.refresh(plan)
        if plan.status is not PlanStatus.ACTIVE:
            raise PlanRetired
        plan.status = PlanStatus.RETIRED
        plan.retired_at = uow.now
        await uow.session.flush()
        await _summarize(uow, plan.listing_id, await _active_plans(uow, plan.listing_id))
        view = plan_view(plan)
        uow.emit(
            "plan.retired",
            plan.id,
            {"plan_id": show("pln", plan.id), "listing_id": show("lst", plan.listing_id)},
            parties=[plan.seller_id],
        )
        await uow.answer(view, status=200)
        return view


async def show_plan(kernel: Kernel, actor: Actor, plan_id: UUID) -> PlanView:
    """A plan of a live listing to everyone, of another only to its seller and to overseers.

    Raises PlanNotFound (404).
    """
    async with kernel.unit_of_work() as uow:
        plan = await get_plan(uow, plan_id)
        if not may_oversee(actor, plan.seller_id):
            listing = await offers.get_listing(uow, plan.listing_id)
            if listing.status != ListingStatus.LISTED:
                raise PlanNotFound
        return plan_view(plan)


async def list_plans(
    kernel: Kernel,
    actor: Actor,
    listing_id: UUID,
    page: PageQuery,
    *,
    status: PlanStatus | None = None,
) -> Page[PlanView]:
    """A listing's plans, oldest first; visible as in :func:`show_plan`.

    Raises ListingNotFound (404) and BadCursor (422).
    """
    after = after_id(page)
    statement = (
        select(Plan)
        .where(Plan.listing_id == listing_id)
        .order_by(col(Plan.id))
        .limit(page.limit + 1)
    )
    if after is not None:
        statement = statement.where(col(Plan.id) > after)
    if status is not None:
        statement = statement.where(Plan.status == status)
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        if listing.status != ListingStatus.LISTED and not may_oversee(actor, listing.seller_id):
            raise ListingNotFound
        rows: Sequence[Plan] = (await uow.session.exec(statement)).all()
    return Page.of([plan_view(row) for row in rows], page.limit, [(row.id,) for row in rows])


def plan_view(plan: Plan) -> PlanView:
    """The plan as the API shows it."""
    return PlanView.model_validate(plan)


async def _active_plans(uow: UnitOfWork, listing_id: UUID) -> list[Plan]:
    rows = await uow.session.exec(
        select(Plan)
        .where(Plan.listing_id == listing_id, Plan.status == PlanStatus.ACTIVE)
        .order_by(col(Plan.id))
        .limit(ACTIVE_PLANS_MAX + 1)
    )
    return list(rows)


async def _summarize(uow: UnitOfWork, listing_id: UUID, active: Sequence[Plan]) -> None:
    """Tell the listing its lowest lot price. The caller holds the listing's lock."""
    cheapest = min(active, key=lambda plan: plan.price_minor, default=None)
    await offers.set_price_summary(
        uow,
        listing_id,
        from_minor=cheapest.price_minor if cheapest else None,
        currency=cheapest.currency if cheapest else None,
        plan_kinds=sorted({plan.kind.value for plan in active}),
    )
