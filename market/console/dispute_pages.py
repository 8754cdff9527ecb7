"""Arbitration: the queue, one case with both sides' evidence, claiming and ruling."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from contracts import arbitration, dispute_cases, disputes, evidence, rulings
from contracts.arbitration import QueueFilter, Taken
from contracts.dispute_errors import ArbiterConflict
from contracts.dispute_models import EVIDENCE_INLINE_MAX_BYTES
from contracts.dispute_schemas import (
    Assignment,
    DisputeView,
    EvidenceView,
    RulingView,
)
from contracts.dispute_states import ACTIVE, IN_REVIEW, DisputeStatus
from market.console.access import MemberDep
from market.console.forms import ActForm, RulingForm, RulingReviewForm
from market.console.readings import party_names
from market.console.rendering import Visit, render
from market.console.routes import ConsoleRoute
from market.kernel.ids import DisputeId, EvidenceId
from market.kernel.money import PPM
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Role

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)

CASES_MAX: Final = 30
EVIDENCE_MAX: Final = 50
STEPS_MAX: Final = 200
RULINGS_MAX: Final = 20
# What a page shows of each text; the whole is one click away.
EXCERPT_CHARS: Final = 4_000
_FILE_POLICY: Final = "sandbox; default-src 'none'"

AfterQuery = Annotated[str | None, Query(max_length=500)]


@router.get("/console/arbitration")
async def show_queue(
    visit: MemberDep,
    after: AfterQuery = None,
    show: Annotated[str, Query(pattern="^(review|all|mine|nobody)$")] = "review",
) -> HTMLResponse:
    """Cases by time left, for arbiters, operators and regulators."""
    wanted = QueueFilter(
        statuses=ACTIVE if show in ("all", "mine") else IN_REVIEW,
        taken={"mine": Taken.MINE, "nobody": Taken.NOBODY}.get(show, Taken.ANY),
    )
    page = await arbitration.queue(
        visit.kernel, visit.actor, wanted, page=PageQuery(CASES_MAX, after)
    )
    return render(
        visit,
        "queue.html",
        page=page,
        show=show,
        names=await _names(visit, [item.dispute for item in page.items]),
    )


@router.get("/console/disputes")
async def show_disputes(visit: MemberDep, after: AfterQuery = None) -> HTMLResponse:
    """One's own disputes, newest first; staff see all."""
    page = await disputes.list_disputes(visit.kernel, visit.actor, page=PageQuery(CASES_MAX, after))
    return render(visit, "disputes.html", page=page, names=await _names(visit, page.items))


async def _names(visit: Visit, cases: list[DisputeView]) -> dict[UUID, str]:
    parties = [
        party for case in cases for party in (case.claimant_id, case.respondent_id, case.arbiter_id)
    ]
    return await party_names(visit.kernel, parties)


@router.get("/console/disputes/{dispute_id}")
async def show_dispute_page(
    visit: MemberDep, dispute_id: DisputeId, after: AfterQuery = None
) -> HTMLResponse:
    """One case: claim, evidence side by side, timeline, preview, rulings, and what one may do."""
    kernel, actor = visit.kernel, visit.actor
    case = await disputes.get_dispute(kernel, actor, dispute_id)
    steps = await dispute_cases.list_steps(
        kernel, actor, dispute_id, page=PageQuery(STEPS_MAX, None)
    )
    made = await rulings.list_rulings(kernel, actor, dispute_id, page=PageQuery(RULINGS_MAX, None))
    filed = await _evidence(visit, dispute_id, after)
    current = next((ruling for ruling in made.items if ruling.effective), None)
    buyer_ppm = case.claim.buyer_ppm if current is None else current.buyer_ppm
    preview = await rulings.preview(kernel, actor, dispute_id, buyer_ppm=buyer_ppm)
    people = [
        *(case.buyer_id, case.seller_id, case.arbiter_id),
        *(step.actor_id for step in steps.items),
        *(party for ruling in made.items for party in (ruling.arbiter_id, ruling.reviewed_by)),
        *(share.party_id for share in preview.amounts.shares),
    ]
    async with kernel.unit_of_work() as uow:
        now = uow.now
    left = None if case.deadline_at is None else int((case.deadline_at - now).total_seconds())
    return render(
        visit,
        "dispute.html",
        case=case,
        left=left,
        steps=steps.items,
        rulings=made.items,
        proposal=_proposal(case, made),
        filed=filed,
        excerpts=await _excerpts(visit, dispute_id, filed),
        preview=preview,
        ppm=PPM,
        names=await party_names(kernel, people),
        may=_possible(visit, case, current, conflict=filed is None),
    )


async def _evidence(
    visit: Visit, dispute_id: DisputeId, after: str | None
) -> Page[EvidenceView] | None:
    """What is on file; None for an arbiter with a conflict, who must not read it."""
    try:
        return await evidence.list_evidence(
            visit.kernel, visit.actor, dispute_id, page=PageQuery(EVIDENCE_MAX, after)
        )
    except ArbiterConflict:
        return None


async def _excerpts(
    visit: Visit, dispute_id: DisputeId, filed: Page[EvidenceView] | None
) -> dict[UUID, tuple[str, bool]]:
    """The beginning of each short text of the two sides: (text, whether it was cut)."""
    found: dict[UUID, tuple[str, bool]] = {}
    for item in filed.items if filed else []:
        is_text = item.media_type.startswith("text/") or item.media_type == "application/json"
        if is_text and item.byte_count <= EVIDENCE_INLINE_MAX_BYTES:
            content = await evidence.get_content(visit.kernel, visit.actor, dispute_id, item.id)
            text = content.body.decode()
            found[item.id] = (text[:EXCERPT_CHARS], len(text) > EXCERPT_CHARS)
    return found


def _proposal(case: DisputeView, made: Page[RulingView]) -> RulingView | None:
    pending = [r for r in made.items if r.needs_approval and r.decision is None]
    return pending[-1] if case.ruling_pending and pending else None


def _possible(
    visit: Visit, case: DisputeView, current: RulingView | None, *, conflict: bool
) -> frozenset[str]:
    """Which forms to show; the services decide whether they work."""
    actor, acts = visit.actor, set()
    arbiter = actor.has(Role.ARBITER) and not conflict and case.status in IN_REVIEW
    if arbiter and case.arbiter_id is None:
        acts.add("claim")
    if arbiter and case.arbiter_id == actor.party_id and not case.ruling_pending:
        acts.add("rule")
    if arbiter and case.arbiter_id != actor.party_id and case.ruling_pending:
        acts.add("review")
    undecided = {case.claimant_id, case.respondent_id} - set(current.accepted_by if current else ())
    if case.status is DisputeStatus.RULED and actor.party_id in undecided:
        acts.add("accept")
    return frozenset(acts)


@router.get("/console/disputes/{dispute_id}/preview")
async def show_preview_part(
    visit: MemberDep,
    dispute_id: DisputeId,
    buyer_ppm: Annotated[int, Query(ge=0, le=PPM)],
) -> HTMLResponse:
    """What a ruling would post, for the page's slider."""
    preview = await rulings.preview(visit.kernel, visit.actor, dispute_id, buyer_ppm=buyer_ppm)
    shares = [share.party_id for share in preview.amounts.shares]
    return render(
        visit,
        "_preview.html",
        preview=preview,
        names=await party_names(visit.kernel, shares),
    )


@router.get("/console/disputes/{dispute_id}/evidence/{evidence_id}")
async def download_evidence(
    visit: MemberDep, dispute_id: DisputeId, evidence_id: EvidenceId
) -> Response:
    """The content, verbatim, as an attachment that a browser runs nothing of."""
    content = await evidence.get_content(visit.kernel, visit.actor, dispute_id, evidence_id)
    return Response(
        content.body,
        media_type=content.media_type,
        headers={
            "Content-Disposition": f'attachment; filename="{content.file_name}"',
            "Content-Security-Policy": _FILE_POLICY,
        },
    )


@router.post("/console/disputes/{dispute_id}/claim")
async def claim_in_console(
    visit: MemberDep, dispute_id: DisputeId, form: Annotated[ActForm, Form()]
) -> DisputeView:
    """An arbiter takes the case."""
    return await arbitration.assign(visit.kernel, visit.actor, dispute_id, Assignment())


@router.post("/console/disputes/{dispute_id}/rule")
async def rule_in_console(
    visit: MemberDep, dispute_id: DisputeId, form: Annotated[RulingForm, Form()]
) -> RulingView:
    """The assigned arbiter rules."""
    return await rulings.rule(visit.kernel, visit.actor, dispute_id, form.body())


@router.post("/console/disputes/{dispute_id}/review-ruling")
async def review_ruling_in_console(
    visit: MemberDep, dispute_id: DisputeId, form: Annotated[RulingReviewForm, Form()]
) -> RulingView:
    """A second arbiter approves or rejects a proposal."""
    return await rulings.review(visit.kernel, visit.actor, dispute_id, form.ruling_id, form.body())


@router.post("/console/disputes/{dispute_id}/accept-ruling")
async def accept_ruling_in_console(
    visit: MemberDep, dispute_id: DisputeId, form: Annotated[ActForm, Form()]
) -> DisputeView:
    """A party accepts the preliminary ruling."""
    return await rulings.accept(visit.kernel, visit.actor, dispute_id)
