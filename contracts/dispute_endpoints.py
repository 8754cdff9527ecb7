"""HTTP of disputes, evidence, settlement offers, the arbitration queue and rulings."""

import base64
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from contracts import (
    arbitration,
    dispute_cases,
    dispute_offers,
    dispute_trace,
    disputes,
    evidence,
    rulings,
)
from contracts.arbitration import QueueFilter, Taken
from contracts.dispute_models import Reason
from contracts.dispute_schemas import (
    AppealRequest,
    AppealView,
    Assignment,
    DisputeRequest,
    DisputeView,
    EvidenceCall,
    EvidenceRequest,
    EvidenceView,
    OfferRequest,
    OfferView,
    QueueItem,
    Recusal,
    RulingDecision,
    RulingPreview,
    RulingRequest,
    RulingView,
    StepView,
    SubmittedKind,
    Withdrawal,
)
from contracts.dispute_states import IN_REVIEW, DisputeStatus
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AgreementId, DisputeId, EvidenceId, RulingId
from market.kernel.money import Currency
from market.kernel.schemas import Page, PageQuery, ShortText
from market.parties.access import ActorDep, ArbiterDep

router = APIRouter(route_class=IdempotentRoute, tags=["disputes"])
dispute_trace.install()

PageDep = Annotated[PageQuery, Depends()]
OfferNumber = Annotated[int, Path(ge=1, le=1_000_000)]

_READ: Final = problems(401, 403, 404, 422)
_ACT: Final = problems(400, 401, 403, 404, 409, 422)
# A browser that opens evidence runs nothing of it, whatever it contains (operations.md §2, row 50).
_CONTENT_POLICY: Final = "sandbox; default-src 'none'"
_BYTES: Final = {"type": "string", "format": "binary"}
_FILE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {} if media_type == "application/json" else _BYTES}
            for media_type in evidence.FILE_TYPES
        },
    }
}
_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bytes, verbatim, as an attachment",
        "content": {
            media_type: {"schema": _BYTES} for media_type in ("text/plain", *evidence.BINARY_TYPES)
        },
        "headers": {
            "Repr-Digest": {"schema": {"type": "string"}, "description": "RFC 9530, sha-256"},
            "Content-Disposition": {"schema": {"type": "string"}},
        },
    }
}


@router.post("/v1/disputes", status_code=201, responses=_ACT)
async def open_dispute(kernel: KernelDep, actor: ActorDep, body: DisputeRequest) -> DisputeView:
    """Dispute an agreement (either party): freezes its escrow and suspends its grant."""
    return await disputes.open_dispute(kernel, actor, body)


@router.get("/v1/disputes", responses=problems(401, 422))
async def list_disputes(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    status: DisputeStatus | None = None,
    agreement_id: AgreementId | None = None,
) -> Page[DisputeView]:
    """Your disputes, newest first; operators, arbiters and regulators see all."""
    return await disputes.list_disputes(
        kernel, actor, page=page, status=status, agreement_id=agreement_id
    )


@router.get("/v1/disputes/{dispute_id}", responses=_READ)
async def show_dispute(kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId) -> DisputeView:
    """One dispute, with its outcome once it is closed."""
    return await disputes.get_dispute(kernel, actor, dispute_id)


@router.get("/v1/disputes/{dispute_id}/timeline", responses=_READ)
async def list_dispute_steps(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, page: PageDep
) -> Page[StepView]:
    """Who did what when, oldest first."""
    return await dispute_cases.list_steps(kernel, actor, dispute_id, page=page)


@router.post("/v1/disputes/{dispute_id}/escalate", responses=_ACT)
async def escalate_dispute(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId
) -> DisputeView:
    """End the negotiation and ask for a ruling (claimant)."""
    return await disputes.escalate(kernel, actor, dispute_id)


@router.post("/v1/disputes/{dispute_id}/withdraw", responses=_ACT)
async def withdraw_dispute(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, body: Withdrawal
) -> DisputeView:
    """Give up (claimant, before a ruling): money and access go back to where they were."""
    return await disputes.withdraw(kernel, actor, dispute_id, body)


@router.post(
    "/v1/disputes/{dispute_id}/evidence",
    status_code=201,
    responses=_ACT | problems(413),
)
async def submit_evidence(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, body: EvidenceRequest
) -> EvidenceView:
    """Put text on file (either party, in turn). It can never be changed or removed."""
    return await evidence.submit_text(kernel, actor, dispute_id, body)


@router.post(
    "/v1/disputes/{dispute_id}/evidence/files",
    status_code=201,
    responses=_ACT | problems(413, 415),
    openapi_extra=_FILE_BODY,
)
async def submit_evidence_file(
    kernel: KernelDep,
    actor: ActorDep,
    dispute_id: DisputeId,
    request: Request,
    kind: Annotated[SubmittedKind, Query()],
    title: Annotated[ShortText, Query()],
) -> EvidenceView:
    """Put a file on file: the body is the file, its Content-Type one of those listed."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return await evidence.submit_file(
        kernel,
        actor,
        dispute_id,
        kind=kind,
        title=title,
        media_type=media_type,
        content=await request.body(),
    )


@router.get("/v1/disputes/{dispute_id}/evidence", responses=_READ)
async def list_evidence(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, page: PageDep
) -> Page[EvidenceView]:
    """All evidence on file, in order of submission."""
    return await evidence.list_evidence(kernel, actor, dispute_id, page=page)


@router.get("/v1/disputes/{dispute_id}/evidence/{evidence_id}", responses=_READ)
async def show_evidence(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, evidence_id: EvidenceId
) -> EvidenceView:
    """One piece of evidence: who, when, what, and its SHA-256."""
    return await evidence.get_evidence(kernel, actor, dispute_id, evidence_id)


@router.get(
    "/v1/disputes/{dispute_id}/evidence/{evidence_id}/content",
    response_class=Response,
    responses=_CONTENT | _READ | problems(503),
)
async def read_evidence(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, evidence_id: EvidenceId
) -> Response:
    """The content, verbatim; any text is served as plain text, everything as an attachment."""
    content = await evidence.get_content(kernel, actor, dispute_id, evidence_id)
    digest = base64.b64encode(bytes.fromhex(content.sha256)).decode()
    return Response(
        content.body,
        media_type=content.media_type,
        headers={
            "Content-Disposition": f'attachment; filename="{content.file_name}"',
            "Content-Security-Policy": _CONTENT_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Repr-Digest": f"sha-256=:{digest}:",
        },
    )


@router.post("/v1/disputes/{dispute_id}/evidence/complete", responses=_ACT)
async def complete_evidence(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId
) -> DisputeView:
    """Say that your side has nothing to add: the case goes on without waiting."""
    return await evidence.rest(kernel, actor, dispute_id)


@router.post("/v1/disputes/{dispute_id}/evidence-requests", responses=_ACT)
async def request_evidence(
    kernel: KernelDep, actor: ArbiterDep, dispute_id: DisputeId, body: EvidenceCall
) -> DisputeView:
    """Ask both sides for more (assigned arbiter): opens a new window for evidence."""
    return await evidence.call_for(kernel, actor, dispute_id, body)


@router.post("/v1/disputes/{dispute_id}/offers", status_code=201, responses=_ACT)
async def make_offer(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, body: OfferRequest
) -> OfferView:
    """Offer the other side a settlement; replaces any offer before it."""
    return await dispute_offers.make(kernel, actor, dispute_id, body)


@router.get("/v1/disputes/{dispute_id}/offers", responses=_READ)
async def list_offers(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, page: PageDep
) -> Page[OfferView]:
    """Settlement offers, oldest first; not for arbiters."""
    return await dispute_offers.list_offers(kernel, actor, dispute_id, page=page)


@router.post("/v1/disputes/{dispute_id}/offers/{number}/accept", responses=_ACT)
async def accept_offer(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, number: OfferNumber
) -> DisputeView:
    """Accept the other side's standing offer: money and access move at once."""
    return await dispute_offers.accept(kernel, actor, dispute_id, number)


@router.get("/v1/arbitration/queue", tags=["arbitration"], responses=problems(401, 403, 422))
async def list_queue(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    status: Annotated[list[DisputeStatus] | None, Query(max_length=len(DisputeStatus))] = None,
    assigned: Taken = Taken.ANY,
    reason: Reason | None = None,
    currency: Currency | None = None,
    escalated: bool | None = None,
) -> Page[QueueItem]:
    """Cases by time left; without `status`, those that arbiters have to decide now."""
    wanted = QueueFilter(
        statuses=frozenset(status) if status else IN_REVIEW,
        taken=assigned,
        reason=reason,
        currency=currency,
        escalated=escalated,
    )
    return await arbitration.queue(kernel, actor, wanted, page=page)


@router.post("/v1/disputes/{dispute_id}/assign", tags=["arbitration"], responses=_ACT)
async def assign_dispute(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, body: Assignment
) -> DisputeView:
    """Take a case (arbiter without conflict), or give it to one (operator)."""
    return await arbitration.assign(kernel, actor, dispute_id, body)


@router.post("/v1/disputes/{dispute_id}/recuse", tags=["arbitration"], responses=_ACT)
async def recuse_from_dispute(
    kernel: KernelDep, actor: ArbiterDep, dispute_id: DisputeId, body: Recusal
) -> DisputeView:
    """Give a case back to the queue (assigned arbiter)."""
    return await arbitration.recuse(kernel, actor, dispute_id, body)


@router.get("/v1/disputes/{dispute_id}/ruling-preview", tags=["arbitration"], responses=_READ)
async def preview_ruling(
    kernel: KernelDep,
    actor: ActorDep,
    dispute_id: DisputeId,
    buyer_ppm: Annotated[int, Query(ge=0, le=1_000_000)],
) -> RulingPreview:
    """What a ruling or settlement would pay, to the minor unit. Changes nothing."""
    return await rulings.preview(kernel, actor, dispute_id, buyer_ppm=buyer_ppm)


@router.post(
    "/v1/disputes/{dispute_id}/rulings", tags=["arbitration"], status_code=201, responses=_ACT
)
async def make_ruling(
    kernel: KernelDep, actor: ArbiterDep, dispute_id: DisputeId, body: RulingRequest
) -> RulingView:
    """Rule (assigned arbiter): preliminary at first, final on appeal."""
    return await rulings.rule(kernel, actor, dispute_id, body)


@router.get("/v1/disputes/{dispute_id}/rulings", tags=["arbitration"], responses=_READ)
async def list_rulings(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, page: PageDep
) -> Page[RulingView]:
    """Rulings, oldest first; proposals are for staff only."""
    return await rulings.list_rulings(kernel, actor, dispute_id, page=page)


@router.post(
    "/v1/disputes/{dispute_id}/rulings/{ruling_id}/review", tags=["arbitration"], responses=_ACT
)
async def review_ruling(
    kernel: KernelDep,
    actor: ArbiterDep,
    dispute_id: DisputeId,
    ruling_id: RulingId,
    body: RulingDecision,
) -> RulingView:
    """Approve or reject a proposed ruling above the limit (second arbiter)."""
    return await rulings.review(kernel, actor, dispute_id, ruling_id, body)


@router.post("/v1/disputes/{dispute_id}/ruling/accept", responses=_ACT)
async def accept_ruling(kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId) -> DisputeView:
    """Accept the preliminary ruling (either party); once both have, it is carried out."""
    return await rulings.accept(kernel, actor, dispute_id)


@router.post("/v1/disputes/{dispute_id}/appeals", status_code=201, responses=_ACT | problems(413))
async def appeal_ruling(
    kernel: KernelDep, actor: ActorDep, dispute_id: DisputeId, body: AppealRequest
) -> AppealView:
    """Appeal with new evidence (either party that has not accepted)."""
    return await rulings.appeal(kernel, actor, dispute_id, body)
