"""Agreements: the list, one with its live meter, its receipts and its trace."""

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse

from contracts import acceptance, disputes, grants, receipts, trace
from contracts.agreement_states import CLOSED, AgreementStatus
from contracts.models import PlanKind
from contracts.schemas import AgreementView, Terms
from market.console.access import MemberDep
from market.console.forms import ActForm
from market.console.readings import agreement_steps, listing_titles, party_names
from market.console.rendering import Visit, render
from market.console.routes import ConsoleRoute
from market.kernel.ids import AgreementId
from market.kernel.schemas import PageQuery

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)

AGREEMENTS_MAX: Final = 30
RECEIPTS_MAX: Final = 25
DISPUTES_MAX: Final = 5

AfterQuery = Annotated[str | None, Query(max_length=500)]


@router.get("/console/agreements")
async def show_agreements(
    visit: MemberDep, after: AfterQuery = None, status: AgreementStatus | None = None
) -> HTMLResponse:
    """One's own agreements, newest first; overseers see all."""
    page = await acceptance.list_agreements(
        visit.kernel, visit.actor, page=PageQuery(AGREEMENTS_MAX, after), status=status
    )
    return render(
        visit,
        "agreements.html",
        page=page,
        titles=await listing_titles(visit.kernel, [item.listing_id for item in page.items]),
        names=await party_names(visit.kernel, _parties(page.items)),
    )


def _parties(items: list[AgreementView]) -> list[Any]:
    return [party for item in items for party in (item.buyer_id, item.seller_id)]


@router.get("/console/agreements/{agreement_id}")
async def show_agreement_page(
    visit: MemberDep, agreement_id: AgreementId, after: AfterQuery = None
) -> HTMLResponse:
    """Timeline, terms, money, meter and receipts of one agreement."""
    kernel, actor = visit.kernel, visit.actor
    found = await _metered(visit, agreement_id)
    agreement: AgreementView = found["agreement"]
    terms = Terms.model_validate(agreement.terms)
    page = await receipts.list_receipts(
        kernel, actor, agreement_id, page=PageQuery(RECEIPTS_MAX, after)
    )
    shares = [*terms.shares, *([terms.intermediary] if terms.intermediary else [])]
    involved = [agreement.buyer_id, agreement.seller_id, *(s.party_id for s in shares)]
    return render(
        visit,
        "agreement.html",
        **found,
        terms=terms,
        steps=await agreement_steps(kernel, actor, agreement_id),
        receipts=page,
        facts=[kernel.keys.verify(receipts.TYP, receipt.jws) for receipt in page.items],
        names=await party_names(kernel, involved),
        titles=await listing_titles(kernel, [agreement.listing_id]),
        cases=await disputes.list_disputes(
            kernel, actor, page=PageQuery(DISPUTES_MAX, None), agreement_id=agreement_id
        ),
        acceptable=_acceptable(visit, agreement),
    )


def _acceptable(visit: Visit, agreement: AgreementView) -> bool:
    """Whether to show the form; the service decides."""
    return (
        agreement.buyer_id == visit.actor.party_id
        and agreement.kind is PlanKind.LICENSE
        and agreement.status in (AgreementStatus.ACTIVE, AgreementStatus.DELIVERED)
    )


async def _metered(visit: Visit, agreement_id: AgreementId) -> dict[str, Any]:
    agreement = await acceptance.show_agreement(visit.kernel, visit.actor, agreement_id)
    return {
        "agreement": agreement,
        "grant": await grants.get_grant(visit.kernel, visit.actor, agreement.grant_id),
        "live": agreement.status not in CLOSED,
    }


@router.get("/console/agreements/{agreement_id}/meter")
async def show_meter_part(visit: MemberDep, agreement_id: AgreementId) -> HTMLResponse:
    """The meter and the money, for the page that refreshes them."""
    return render(visit, "_meter.html", **await _metered(visit, agreement_id))


@router.get("/console/agreements/{agreement_id}/trace")
async def show_trace_page(visit: MemberDep, agreement_id: AgreementId) -> HTMLResponse:
    """The whole trade as a signed chain."""
    found = await trace.trace(visit.kernel, visit.actor, agreement_id)
    links = [
        (link, orjson.dumps(link.data, option=orjson.OPT_INDENT_2).decode()) for link in found.links
    ]
    return render(visit, "trace.html", agreement_id=agreement_id, trace=found, links=links)


@router.post("/console/agreements/{agreement_id}/accept")
async def accept_in_console(
    visit: MemberDep, agreement_id: AgreementId, form: Annotated[ActForm, Form()]
) -> AgreementView:
    """The buyer accepts what was delivered."""
    return await acceptance.accept(visit.kernel, visit.actor, agreement_id)
