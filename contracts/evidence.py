"""Evidence: verbatim, hashed, append-only; seen by both sides; in turn and in time only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

import orjson
from sqlalchemy import func
from sqlalchemy.orm import QueryableAttribute, defer
from sqlmodel import col, select

from contracts import arbitration, dispute_states as machine, receipts
from contracts.dispute_cases import (
    Docket,
    advance,
    find,
    is_party,
    lock,
    number_of,
    periods_of,
    side_of,
    view as dispute_view,
)
from contracts.dispute_errors import (
    EvidenceCorrupt,
    EvidenceInvalid,
    EvidenceLimit,
    EvidenceNotFound,
    EvidenceTooLarge,
    EvidenceTypeRefused,
)
from contracts.dispute_models import (
    EVIDENCE_INLINE_MAX_BYTES,
    Dispute,
    Evidence,
    EvidenceKind,
    Submitter,
)
from contracts.dispute_schemas import DisputeView, EvidenceCall, EvidenceRequest, EvidenceView
from contracts.models import Agreement, Grant, Receipt
from contracts.proxy import violations
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import new_id, show
from market.kernel.logging import get_logger
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role, canonical_json, sha256_hex

_log = get_logger("contracts.evidence")

# Per side: enough for any case, and a bound on what a side can make the others read.
PER_SIDE_MAX = 100
# Receipts that are named one by one; the head of their chain covers all the earlier ones.
RECEIPTS_LISTED_MAX = 200

# A page of evidence is read without its content, which may be 64 KiB each.
WITHOUT_CONTENT: Final = defer(cast("QueryableAttribute[bytes | None]", Evidence.content))

# First bytes of each binary type that is taken: a file must be what it says it is.
_MAGIC: Final[Mapping[str, bytes]] = {
    "application/pdf": b"%PDF-",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "application/vnd.apache.parquet": b"PAR1",
}
_TEXT: Final = frozenset(
    {"text/plain", "text/html", "text/markdown", "text/csv", "application/json"}
)
BINARY_TYPES: Final = tuple(_MAGIC)
FILE_TYPES: Final = (*sorted(_TEXT), *BINARY_TYPES)
_SUFFIX: Final[Mapping[str, str]] = {
    "application/pdf": "pdf",
    "image/png": "png",
    "image/jpeg": "jpg",
    "application/vnd.apache.parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of evidence as it is served: never as anything that a browser would run."""

    body: bytes
    media_type: str
    file_name: str
    sha256: str


def check_content(media_type: str, content: bytes) -> None:
    """Raises EvidenceTypeRefused (415) or EvidenceInvalid (422)."""
    if media_type not in FILE_TYPES:
        raise EvidenceTypeRefused(f"Taken are {', '.join(FILE_TYPES)}.", param="Content-Type")
    if not content:
        raise EvidenceInvalid("The content is empty.", param="body")
    if media_type in _MAGIC:
        if not content.startswith(_MAGIC[media_type]):
            raise EvidenceInvalid(f"The content is not {media_type}.", param="body")
        return
    try:
        content.decode()
        if media_type == "application/json":
            orjson.loads(content)
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise EvidenceInvalid(f"The content is not {media_type} in UTF-8.", param="body") from error


async def submit_text(
    kernel: Kernel, actor: Actor, dispute_id: UUID, body: EvidenceRequest
) -> EvidenceView:
    """Put text on file. Raises DisputeNotFound, WrongSide, EvidenceClosed, EvidenceLimit (409),
    DeadlinePassed (409), EvidenceTooLarge (413), EvidenceInvalid (422)."""
    content = inline_bytes(body)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        row = await submit(uow, docket, actor, body, content=content)
        view = view_of(row)
        await uow.answer(view, headers={"Location": _location(view)})
    return view


def inline_bytes(body: EvidenceRequest) -> bytes:
    """The checked bytes of a text. Raises EvidenceTooLarge (413), EvidenceInvalid (422)."""
    content = body.content.encode()
    if len(content) > EVIDENCE_INLINE_MAX_BYTES:
        raise EvidenceTooLarge(
            f"Text may have {EVIDENCE_INLINE_MAX_BYTES} bytes; send more as a file.",
            param="content",
        )
    check_content(body.media_type, content)
    return content


async def submit(
    uow: UnitOfWork, docket: Docket, actor: Actor, body: EvidenceRequest, *, content: bytes
) -> Evidence:
    """Put a party's text on file of a locked case, if it is that side's turn."""
    side = side_of(docket.dispute, actor)
    case = machine.submit(docket.case, side, uow.now)
    row = await append(uow, docket.dispute, actor, side, body, content=content)
    _advance(uow, docket, case, actor, row)
    return row


async def append(
    uow: UnitOfWork,
    dispute: Dispute,
    actor: Actor,
    side: machine.Side,
    body: EvidenceRequest,
    *,
    content: bytes,
    round_: int | None = None,
) -> Evidence:
    """Append a party's checked text to a locked dispute. Raises EvidenceLimit (409)."""
    return await add(
        uow,
        dispute,
        side=Submitter(side.value),
        submitted_by=actor.party_id,
        kind=body.kind,
        title=body.title,
        media_type=body.media_type,
        content=content,
        round_=round_,
    )


async def submit_file(
    kernel: Kernel,
    actor: Actor,
    dispute_id: UUID,
    *,
    kind: EvidenceKind,
    title: str,
    media_type: str,
    content: bytes,
) -> EvidenceView:
    """Put a file on file: the blob is stored first, the row then claims it.

    Raises as :func:`submit_text`, EvidenceTypeRefused (415). A refusal leaves no blob behind.
    """
    check_content(media_type, content)
    evidence_id = new_id()
    blob_key = f"evidence/{dispute_id.hex}/{evidence_id.hex}"
    async with kernel.unit_of_work() as uow:
        dispute = await find(uow, dispute_id, actor)
        side_of(dispute, actor)
    await kernel.blobs.put(blob_key, content)
    try:
        async with kernel.unit_of_work() as uow:
            docket = await lock(uow, dispute_id, actor)
            side = side_of(docket.dispute, actor)
            case = machine.submit(docket.case, side, uow.now)
            row = await add(
                uow,
                docket.dispute,
                side=Submitter(side.value),
                submitted_by=actor.party_id,
                kind=kind,
                title=title,
                media_type=media_type,
                content=content,
                evidence_id=evidence_id,
                blob_key=blob_key,
            )
            _advance(uow, docket, case, actor, row)
            view = view_of(row)
            await uow.answer(view, headers={"Location": _location(view)})
    except MarketError as refusal:
        # After a lost connection the row may have been committed: then the blob must stay.
        if refusal.status < 500:
            await kernel.blobs.delete(blob_key)
        raise
    return view


async def add(
    uow: UnitOfWork,
    dispute: Dispute,
    *,
    side: Submitter,
    submitted_by: UUID | None,
    kind: EvidenceKind,
    title: str,
    media_type: str,
    content: bytes,
    evidence_id: UUID | None = None,
    blob_key: str | None = None,
    round_: int | None = None,
) -> Evidence:
    """Append to a locked dispute. Raises EvidenceLimit (409)."""
    number, own = await _count(uow, dispute.id, side)
    if own >= PER_SIDE_MAX:
        raise EvidenceLimit(f"A side submits at most {PER_SIDE_MAX} pieces.")
    row = Evidence(
        id=evidence_id or new_id(),
        dispute_id=dispute.id,
        number=number + 1,
        side=side,
        submitted_by=submitted_by,
        round=round_ or dispute.round,
        kind=kind,
        title=title,
        media_type=media_type,
        byte_count=len(content),
        sha256=sha256_hex(content),
        content=None if blob_key else content,
        blob_key=blob_key,
        submitted_at=uow.now,
    )
    uow.session.add(row)
    await uow.session.flush()
    return row


async def _count(uow: UnitOfWork, dispute_id: UUID, side: Submitter) -> tuple[int, int]:
    query = select(
        func.coalesce(func.max(Evidence.number), 0),
        func.count().filter(col(Evidence.side) == side),
    ).where(Evidence.dispute_id == dispute_id)
    last, own = (await uow.session.exec(query)).one()
    return int(last), int(own)


def _advance(
    uow: UnitOfWork, docket: Docket, case: machine.Case, actor: Actor, row: Evidence
) -> None:
    data: dict[str, object] = {
        "evidence_id": show("evd", row.id),
        "number": row.number,
        "sha256": row.sha256,
    }
    advance(uow, docket, case, kind="evidence", actor_id=actor.party_id, data=data)


async def attach_system(
    uow: UnitOfWork, dispute: Dispute, agreement: Agreement, grant: Grant
) -> None:
    """What the exchange itself knows: the signed terms, what was used, the receipts."""
    heads = await receipts.receipts_after(
        uow,
        agreement.id,
        after=max(0, grant.delivery_count - RECEIPTS_LISTED_MAX),
        limit=RECEIPTS_LISTED_MAX,
    )
    pieces: list[tuple[EvidenceKind, str, dict[str, object]]] = [
        (EvidenceKind.AGREEMENT_TERMS, "Signed terms of the agreement", _terms_facts(agreement)),
        (EvidenceKind.USAGE_TOTAL, "Use at the opening", _usage_facts(agreement, grant)),
        (
            EvidenceKind.DELIVERY_RECEIPTS,
            "Delivery receipts at the opening",
            {
                "count": grant.delivery_count,
                "head_sha256": grant.receipt_head,
                "listed": [_receipt_facts(receipt) for receipt in heads],
            },
        ),
    ]
    broken = await violations.facts(uow, agreement.id)
    if broken is not None:
        pieces.append((EvidenceKind.SCHEMA_DIFF, "Broken answers at the opening", broken))
    for kind, title, facts in pieces:
        await add(
            uow,
            dispute,
            side=Submitter.SYSTEM,
            submitted_by=None,
            kind=kind,
            title=title,
            media_type="application/json",
            content=canonical_json(facts),
        )


def _terms_facts(agreement: Agreement) -> dict[str, object]:
    return {
        "agreement": show("agr", agreement.id),
        "terms_sha256": agreement.terms_sha256,
        "jws_sha256": sha256_hex(agreement.jws.encode()),
        "formed_at": agreement.formed_at.isoformat(),
        "delivered_at": agreement.delivered_at and agreement.delivered_at.isoformat(),
        "accepted_at": agreement.accepted_at and agreement.accepted_at.isoformat(),
    }


def _usage_facts(agreement: Agreement, grant: Grant) -> dict[str, object]:
    return {
        "grant": show("grt", grant.id),
        "unit": grant.unit.value,
        "granted_units": grant.granted_units,
        "settled_units": grant.settled_units,
        "resold_units": grant.resold_units,
        "reserved_units": grant.reserved_units,
        "deliveries": grant.delivery_count,
        "currency": agreement.currency,
        "total_minor": agreement.total_minor,
        "released_minor": agreement.released_minor,
        "refunded_minor": agreement.refunded_minor,
    }


def _receipt_facts(receipt: Receipt) -> dict[str, object]:
    return {"receipt": show("rcp", receipt.id), "seq": receipt.seq, "sha256": receipt.sha256}


async def rest(kernel: Kernel, actor: Actor, dispute_id: UUID) -> DisputeView:
    """The actor's side has nothing to add. Raises DisputeNotFound, WrongSide, EvidenceClosed."""
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        side = side_of(docket.dispute, actor)
        case = machine.rest(docket.case, side, uow.now, periods_of(kernel.settings))
        advance(uow, docket, case, kind="rested", actor_id=actor.party_id)
        answer = dispute_view(docket.dispute)
        await uow.answer(answer, status=200)
    return answer


async def call_for(
    kernel: Kernel, actor: Actor, dispute_id: UUID, body: EvidenceCall
) -> DisputeView:
    """The assigned arbiter asks both sides for more. Raises RoleRequired, ArbiterNotAssigned
    (403), DisputeStateRefused, ProposalPending (409)."""
    actor.require(Role.ARBITER)
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        case = machine.request_evidence(docket.case, uow.now, periods_of(kernel.settings))
        await arbitration.check_assigned(uow, docket.dispute, actor)
        data = {"question": body.question}
        advance(uow, docket, case, kind="evidence_requested", actor_id=actor.party_id, data=data)
        answer = dispute_view(docket.dispute)
        await uow.answer(answer, status=200)
    return answer


async def digest_of(uow: UnitOfWork, dispute_id: UUID) -> str:
    """SHA-256 over ``[[number, sha256], …]`` of everything on file, as canonical JSON."""
    query = (
        select(Evidence.number, Evidence.sha256)
        .where(Evidence.dispute_id == dispute_id)
        .order_by(col(Evidence.number))
    )
    pairs = [[number, digest] for number, digest in await uow.session.exec(query)]
    return sha256_hex(canonical_json(pairs))


async def require_new(uow: UnitOfWork, dispute_id: UUID, content: bytes) -> None:
    """Raises EvidenceInvalid (422) for what is on file already."""
    query = select(Evidence.number).where(
        Evidence.dispute_id == dispute_id, Evidence.sha256 == sha256_hex(content)
    )
    known = (await uow.session.exec(query)).first()
    if known is not None:
        raise EvidenceInvalid(
            f"An appeal needs new evidence; this is number {known} already.",
            param="evidence.content",
        )


async def list_evidence(
    kernel: Kernel, actor: Actor, dispute_id: UUID, *, page: PageQuery
) -> Page[EvidenceView]:
    """In order of submission. Raises DisputeNotFound, ArbiterConflict (403), BadCursor."""
    key = page.key(1)
    query = (
        select(Evidence)
        .options(WITHOUT_CONTENT)
        .where(Evidence.dispute_id == dispute_id)
        .order_by(col(Evidence.number))
        .limit(page.limit + 1)
    )
    if key is not None:
        query = query.where(col(Evidence.number) > number_of(key[0]))
    async with kernel.unit_of_work() as uow:
        await _check_reader(uow, await find(uow, dispute_id, actor), actor)
        rows = list(await uow.session.exec(query))
        return Page[EvidenceView].of(
            [view_of(row) for row in rows], page.limit, [(row.number,) for row in rows]
        )


async def get_evidence(
    kernel: Kernel, actor: Actor, dispute_id: UUID, evidence_id: UUID
) -> EvidenceView:
    """One piece. Raises DisputeNotFound, EvidenceNotFound, ArbiterConflict (403)."""
    async with kernel.unit_of_work() as uow:
        return view_of(await _read(uow, actor, dispute_id, evidence_id))


async def get_content(kernel: Kernel, actor: Actor, dispute_id: UUID, evidence_id: UUID) -> Content:
    """The bytes, verbatim. Raises as :func:`get_evidence`, BlobNotFound, and EvidenceCorrupt
    (503, with an alarm in the log) when they do not have the recorded hash."""
    async with kernel.unit_of_work() as uow:
        row = await _read(uow, actor, dispute_id, evidence_id)
    if row.blob_key is not None:
        body = await kernel.blobs.get(row.blob_key)
    else:
        assert row.content is not None
        body = row.content
    if hashlib.sha256(body).hexdigest() != row.sha256:
        _log.critical("evidence_hash_mismatch", evidence_id=row.id.hex)
        raise EvidenceCorrupt
    # Text of any kind is served as plain text: HTML in evidence is data, not a page.
    media_type = "text/plain; charset=utf-8" if row.media_type in _TEXT else row.media_type
    suffix = _SUFFIX.get(row.media_type, "txt")
    return Content(body, media_type, f"{show('evd', row.id)}.{suffix}", row.sha256)


async def _read(uow: UnitOfWork, actor: Actor, dispute_id: UUID, evidence_id: UUID) -> Evidence:
    await _check_reader(uow, await find(uow, dispute_id, actor), actor)
    row = await uow.session.get(Evidence, evidence_id)
    if row is None or row.dispute_id != dispute_id:
        raise EvidenceNotFound(param="evidence_id")
    return row


async def _check_reader(uow: UnitOfWork, dispute: Dispute, actor: Actor) -> None:
    # An arbiter related to one side must not read what the other side put on file.
    if not is_party(dispute, actor) and not actor.has(Role.OPERATOR, Role.REGULATOR):
        await arbitration.check_unrelated(uow, dispute, actor.party_id)


def view_of(row: Evidence) -> EvidenceView:
    """The API shape of a piece of evidence."""
    return EvidenceView(
        id=row.id,
        dispute_id=row.dispute_id,
        number=row.number,
        side=row.side,
        submitted_by=row.submitted_by,
        round=row.round,
        kind=row.kind,
        title=row.title,
        media_type=row.media_type,
        byte_count=row.byte_count,
        sha256=row.sha256,
        submitted_at=row.submitted_at,
    )


def _location(view: EvidenceView) -> str:
    return f"/v1/disputes/{show('dsp', view.dispute_id)}/evidence/{show('evd', view.id)}"
