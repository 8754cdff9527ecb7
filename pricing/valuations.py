"""Valuations: run the pure approaches on stated inputs and own trades, keep them with evidence."""

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlmodel import col, select

from listings import offers
from listings.errors import ListingNotFound
from listings.models import Listing
from listings.schemas import Quality
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from pricing import observations
from pricing.errors import ValuationNotFound
from pricing.models import Valuation
from pricing.sql import ComparableRow
from pricing.valuation import (
    METHOD_VERSION,
    Appraisal,
    Approach,
    Comparable,
    CostInputs,
    Estimate,
    IncomeInputs,
    MarketInputs,
    Term,
    combine,
    cost,
    income,
    market,
    per_lot,
)
from pricing.valuation_schemas import (
    AppraisalView,
    Basis,
    ComparableView,
    CostApproachInput,
    DirectIncome,
    Evidence,
    ExcessIncome,
    IncrementalIncome,
    MarketApproachInput,
    ShareIncome,
    StepView,
    Suggestion,
    SwingView,
    ValuationInput,
    ValuationSummary,
    ValuationView,
)

Income = DirectIncome | ExcessIncome | IncrementalIncome | ShareIncome


async def create_valuation(kernel: Kernel, actor: Actor, body: ValuationInput) -> ValuationView:
    """Value a listing and keep the result. Effect: event ``valuation.created``.

    Raises RoleRequired (403), ListingNotFound (404), also for the listing of another seller, and
    ValuationImpossible (422) when the inputs give no price.
    """
    actor.require(Role.SELLER, Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, body.listing_id)
        if listing.seller_id != actor.party_id and not actor.has(Role.OPERATOR):
            raise ListingNotFound
        found = await _comparables(uow, listing, body)
        appraisals = appraise(body, found)
        weights = _weights(body)
        combined = combine(appraisals, weights)
        view = ValuationView(
            id=new_id(),
            listing_id=listing.id,
            seller_id=listing.seller_id,
            created_by=actor.party_id,
            created_at=uow.now,
            method_version=METHOD_VERSION,
            currency=body.currency,
            value_minor=combined.value_minor,
            low_minor=combined.low_minor,
            high_minor=combined.high_minor,
            suggestion=_suggestion(
                body.basis, combined.value_minor, combined.low_minor, combined.high_minor
            ),
            approaches=[_appraisal_view(item, weights[item.approach]) for item in appraisals],
            combination=StepView.model_validate(asdict(combined.step)),
            inputs=body,
            evidence=await _evidence(uow, listing, found),
        )
        uow.session.add(_row(view))
        uow.emit(
            "valuation.created",
            view.id,
            {
                "valuation_id": show("val", view.id),
                "listing_id": show("lst", listing.id),
                "value_minor": view.value_minor,
                "currency": view.currency,
            },
            parties=[listing.seller_id],
        )
        await uow.answer(view, headers={"Location": f"/v1/valuations/{show('val', view.id)}"})
        return view


async def show_valuation(kernel: Kernel, actor: Actor, valuation_id: UUID) -> ValuationView:
    """One valuation, for the listing's seller and for overseers.

    Raises RoleRequired (403) and ValuationNotFound (404).
    """
    actor.require(Role.SELLER, Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(Valuation, valuation_id)
    if row is None or not may_oversee(actor, row.seller_id):
        raise ValuationNotFound
    return ValuationView.model_validate(
        {
            **_summary(row).model_dump(),
            "approaches": row.results["approaches"],
            "combination": row.results["combination"],
            "inputs": row.inputs,
            "evidence": row.evidence,
        }
    )


async def list_valuations(
    kernel: Kernel, actor: Actor, page: PageQuery, *, listing_id: UUID | None = None
) -> Page[ValuationSummary]:
    """Valuations of the actor's own listings, of all for overseers, oldest first.

    Raises RoleRequired (403) and BadCursor (422).
    """
    actor.require(Role.SELLER, Role.OPERATOR, Role.REGULATOR)
    statement = select(Valuation).order_by(col(Valuation.id)).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Valuation.id) > after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        statement = statement.where(Valuation.seller_id == actor.party_id)
    if listing_id is not None:
        statement = statement.where(Valuation.listing_id == listing_id)
    async with kernel.unit_of_work() as uow:
        rows: Sequence[Valuation] = (await uow.session.exec(statement)).all()
    return Page.of([_summary(row) for row in rows], page.limit, [(row.id,) for row in rows])


def appraise(body: ValuationInput, found: Sequence[ComparableRow]) -> list[Appraisal]:
    """Run the stated approaches, in the order cost, income, market. Pure.

    Raises ValuationImpossible (422).
    """
    results: list[Appraisal] = []
    if body.cost is not None:
        results.append(cost(_cost_inputs(body.cost)))
    if body.income is not None:
        results.append(income(_income_inputs(body.income)))
    if body.market is not None:
        results.append(market(_market_inputs(body.market, body.basis, found)))
    return results


def _cost_inputs(body: CostApproachInput) -> CostInputs:
    return CostInputs(
        lines=[line.cost.estimate() for line in body.lines],
        return_rate=body.return_rate.estimate(),
        quality=body.quality.estimate(),
        circulation=body.circulation.estimate(),
        monopoly=body.monopoly.estimate(),
        risk=body.risk.estimate(),
    )


def _income_inputs(body: Income) -> IncomeInputs:
    terms: list[Term]
    match body:
        case DirectIncome():
            terms = [Term(term.revenue.estimate(), Estimate.exact(0)) for term in body.terms]
        case ExcessIncome():
            terms = [
                Term(term.revenue.estimate(), term.contributory_charges.estimate())
                for term in body.terms
            ]
        case IncrementalIncome():
            terms = [
                Term(term.revenue_with.estimate(), term.revenue_without.estimate())
                for term in body.terms
            ]
        case ShareIncome():
            terms = [Term(term.revenue.estimate(), term.share.estimate()) for term in body.terms]
    return IncomeInputs(body.method, terms, body.discount_rate.estimate())


def _market_inputs(
    body: MarketApproachInput, basis: Basis, found: Sequence[ComparableRow]
) -> MarketInputs:
    factors = body.factors
    return MarketInputs(
        quantity=basis.lot_units * basis.lots_expected,
        reference=body.reference.price.estimate() if body.reference is not None else None,
        comparables=[
            Comparable(show("lst", row.listing_id), row.unit_price, row.trades) for row in found
        ],
        factors={
            "X_quality": factors.quality.estimate(),
            "X_supply_demand": factors.supply_demand.estimate(),
            "X_date": factors.date.estimate(),
            "X_capacity": factors.capacity.estimate(),
            "X_other": factors.other.estimate(),
        },
    )


def _weights(body: ValuationInput) -> dict[Approach, int]:
    stated = ((Approach.COST, body.cost), (Approach.INCOME, body.income))
    weights = {approach: item.weight for approach, item in stated if item is not None}
    if body.market is not None:
        weights[Approach.MARKET] = body.market.weight
    return weights


async def _comparables(
    uow: UnitOfWork, listing: Listing, body: ValuationInput
) -> list[ComparableRow]:
    if body.market is None:
        return []
    return await observations.comparables(
        uow,
        category=listing.category,
        currency=body.currency,
        unit=body.basis.unit,
        window_days=body.market.window_days,
        except_listing=listing.id,
    )


async def _evidence(uow: UnitOfWork, listing: Listing, found: Sequence[ComparableRow]) -> Evidence:
    version = await offers.get_version(uow, listing.version_id)
    certificate = await offers.get_certificate_for(uow, listing.version_id)
    return Evidence(
        product_id=version.product_id,
        version_id=version.id,
        version_number=version.number,
        version_sha256=version.sha256,
        row_count=version.row_count,
        grade=version.grade,
        quality=Quality.model_validate(version.quality),
        certificate_id=certificate.id,
        category=listing.category,
        comparables=[
            ComparableView(
                listing_id=row.listing_id,
                unit_price=_plain(row.unit_price),
                trades=row.trades,
                last_traded_at=row.last_traded_at,
            )
            for row in found
        ],
    )


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _suggestion(basis: Basis, value_minor: int, low_minor: int, high_minor: int) -> Suggestion:
    return Suggestion(
        unit=basis.unit,
        lot_units=basis.lot_units,
        price_minor=per_lot(value_minor, basis.lots_expected),
        low_minor=per_lot(low_minor, basis.lots_expected),
        high_minor=per_lot(high_minor, basis.lots_expected),
    )


def _appraisal_view(item: Appraisal, weight: int) -> AppraisalView:
    return AppraisalView(
        approach=item.approach,
        weight=weight,
        value_minor=item.value_minor,
        low_minor=item.low_minor,
        high_minor=item.high_minor,
        trace=[StepView.model_validate(asdict(step)) for step in item.trace],
        sensitivity=[SwingView.model_validate(asdict(swing)) for swing in item.sensitivity],
    )


def _row(view: ValuationView) -> Valuation:
    shown: dict[str, Any] = view.model_dump(mode="json")
    return Valuation(
        id=view.id,
        listing_id=view.listing_id,
        seller_id=view.seller_id,
        created_by=view.created_by,
        method_version=view.method_version,
        currency=view.currency,
        value_minor=view.value_minor,
        low_minor=view.low_minor,
        high_minor=view.high_minor,
        inputs=shown["inputs"],
        results={
            "approaches": shown["approaches"],
            "combination": shown["combination"],
            "suggestion": shown["suggestion"],
        },
        evidence=shown["evidence"],
        created_at=view.created_at,
    )


def _summary(row: Valuation) -> ValuationSummary:
    return ValuationSummary(
        id=row.id,
        listing_id=row.listing_id,
        seller_id=row.seller_id,
        created_by=row.created_by,
        created_at=row.created_at,
        method_version=row.method_version,
        currency=row.currency,
        value_minor=row.value_minor,
        low_minor=row.low_minor,
        high_minor=row.high_minor,
        suggestion=Suggestion.model_validate(row.results["suggestion"]),
    )
