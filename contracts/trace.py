"""The trace of a trade: everything about an agreement as one hash chain, signed.

Sections run in a fixed order; other parts of contracts add theirs by :func:`register` at import
(``trace.register("disputes", section)``), where ``section(uow, agreement)`` gives JSON-ready data
that may be shown to both parties and overseers, or None to be left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlmodel import col, func, select

from contracts import grants
from contracts.agreements import get_agreement
from contracts.models import Agreement, AgreementStep, Delivery, DeliveryToken, Grant, Receipt
from contracts.schemas import TraceLink, TraceView
from listings import offers
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Actor, canonical_json, sha256_hex, verify_with_jwks
from pricing.models import Valuation
from settlement.escrow import escrow_of
from settlement.models import Account, Posting, Transfer

TYP = "trace+jws"
# A trace is read by people and courts; longer lists are paged at their own endpoints.
ITEMS_MAX = 1_000

Section = Callable[[UnitOfWork, Agreement], Awaitable[Any]]

_registered: dict[str, Section] = {}


def register(name: str, section: Section) -> None:
    """Add a section after ours. Registering a name again replaces it."""
    _registered[name] = section


async def trace(kernel: Kernel, actor: Actor, agreement_id: UUID) -> TraceView:
    """The signed trace. Raises AgreementNotFound for all but parties and overseers."""
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        agreement = await get_agreement(uow, agreement_id, actor)
        sections = {**_SECTIONS, **_registered}
        found = [(name, await make(uow, agreement)) for name, make in sections.items()]
    links = chain([(name, data) for name, data in found if data is not None])
    head = links[-1].sha256
    payload = {
        "agreement": show("agr", agreement_id),
        "links": [{"section": link.section, "sha256": link.sha256} for link in links],
        "head": head,
    }
    jws = kernel.keys.sign(TYP, payload)
    return TraceView(agreement_id=agreement_id, links=links, head_sha256=head, jws=jws)


def chain(sections: Sequence[tuple[str, Any]]) -> list[TraceLink]:
    """Links whose hash covers section, data and the previous hash. Pure."""
    links: list[TraceLink] = []
    previous = ""
    for name, data in sections:
        previous = sha256_hex(canonical_json({"section": name, "data": data, "previous": previous}))
        links.append(TraceLink(section=name, data=data, sha256=previous))
    return links


def verify_trace(view: Mapping[str, Any], jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Check a trace as served (parsed JSON), offline; give the signed payload.

    Raises InvalidToken for a bad signature, ValueError when data and signature disagree.
    """
    payload = verify_with_jwks(TYP, str(view["jws"]), jwks)
    links = chain([(link["section"], link["data"]) for link in view["links"]])
    signed = [{"section": link.section, "sha256": link.sha256} for link in links]
    if payload.get("links") != signed or payload.get("agreement") != view["agreement_id"]:
        raise ValueError("the trace does not match its signature")
    return payload


async def _listing(uow: UnitOfWork, agreement: Agreement) -> Any:
    listing = await offers.get_listing(uow, agreement.listing_id)
    version = await offers.get_version(uow, agreement.version_id)
    return {
        "listing_id": show("lst", listing.id),
        "title": listing.title,
        "category": listing.category,
        "product_id": show("prd", agreement.product_id),
        "version_id": show("ver", version.id),
        "version_number": version.number,
        "rows": version.row_count,
        "data_sha256": version.sha256,
        "grade": version.grade,
    }


async def _certificate(uow: UnitOfWork, agreement: Agreement) -> Any:
    certificate = await offers.get_certificate_for(uow, agreement.version_id)
    return {
        "certificate_id": show("crt", certificate.id),
        "issued_at": certificate.issued_at.isoformat(),
        "jws": certificate.jws,
    }


async def _valuation(uow: UnitOfWork, agreement: Agreement) -> Any:
    query = (
        select(Valuation)
        .where(
            Valuation.listing_id == agreement.listing_id,
            col(Valuation.created_at) <= agreement.formed_at,
        )
        .order_by(col(Valuation.id).desc())
        .limit(1)
    )
    valuation = (await uow.session.exec(query)).one_or_none()
    if valuation is None:
        return None
    return {"valuation_id": show("val", valuation.id), **valuation.model_dump(mode="json")}


async def _agreement(uow: UnitOfWork, agreement: Agreement) -> Any:
    query = (
        select(AgreementStep)
        .where(AgreementStep.agreement_id == agreement.id)
        .order_by(col(AgreementStep.id))
        .limit(ITEMS_MAX)
    )
    return {
        "agreement_id": show("agr", agreement.id),
        "trade_id": show("trd", agreement.trade_id),
        "buy_order_id": _shown("ord", agreement.buy_order_id),
        "sell_order_id": _shown("ord", agreement.sell_order_id),
        "terms": agreement.terms,
        "terms_sha256": agreement.terms_sha256,
        "jws": agreement.jws,
        "status": agreement.status.value,
        "released_minor": agreement.released_minor,
        "refunded_minor": agreement.refunded_minor,
        "disputed_minor": agreement.disputed_minor,
        "steps": [
            {"status": step.status.value, "reason": step.reason, "at": step.at.isoformat()}
            for step in await uow.session.exec(query)
        ],
    }


def _shown(prefix: str, value: UUID | None) -> str | None:
    return None if value is None else show(prefix, value)


async def _access(uow: UnitOfWork, agreement: Agreement) -> Any:
    grant = (await uow.session.exec(select(Grant).where(Grant.agreement_id == agreement.id))).one()
    query = (
        select(DeliveryToken)
        .where(DeliveryToken.grant_id == grant.id)
        .order_by(col(DeliveryToken.id))
        .limit(ITEMS_MAX)
    )
    return {
        "grant": grants.view(grant).model_dump(mode="json"),
        "tokens": [
            {
                "token_id": show("tok", token.id),
                "label": token.label,
                "purpose": token.purpose,
                "created_at": token.created_at.isoformat(),
                "expires_at": token.expires_at.isoformat(),
                "revoked_at": None if token.revoked_at is None else token.revoked_at.isoformat(),
            }
            for token in await uow.session.exec(query)
        ],
    }


async def _deliveries(uow: UnitOfWork, agreement: Agreement) -> Any:
    totals = (
        await uow.session.exec(
            select(
                func.count(),
                func.coalesce(func.sum(Delivery.units), 0),
                func.coalesce(func.sum(Delivery.row_count), 0),
                func.coalesce(func.sum(Delivery.byte_count), 0),
            )
            .select_from(Delivery)
            .join(Grant, col(Grant.id) == col(Delivery.grant_id))
            .where(Grant.agreement_id == agreement.id)
        )
    ).one()
    query = (
        select(Receipt)
        .where(Receipt.agreement_id == agreement.id)
        .order_by(col(Receipt.seq).desc())
        .limit(ITEMS_MAX)
    )
    newest = list(await uow.session.exec(query))
    return {
        "deliveries": int(totals[0]),
        "units": int(totals[1]),
        "rows": int(totals[2]),
        "bytes": int(totals[3]),
        "receipts_head": newest[0].sha256 if newest else None,
        "receipts": [
            {
                "receipt_id": show("rcp", receipt.id),
                "usage_id": show("use", receipt.delivery_id),
                "seq": receipt.seq,
                "sha256": receipt.sha256,
            }
            for receipt in reversed(newest)
        ],
    }


async def _ledger(uow: UnitOfWork, agreement: Agreement) -> Any:
    """Transfers of the escrow account, and of frozen accounts that its money went to."""
    own = escrow_of(agreement.id, agreement.currency).id
    touched = select(Posting.transfer_id).where(Posting.account_id == own)
    frozen = (
        select(Account.id)
        .join(Posting, col(Posting.account_id) == col(Account.id))
        .where(col(Posting.transfer_id).in_(touched), Account.kind == "frozen")
    )
    accounts = [own, *(await uow.session.exec(frozen.distinct())).all()]
    ids = select(Posting.transfer_id).where(col(Posting.account_id).in_(accounts))
    query = (
        select(Transfer)
        .where(col(Transfer.id).in_(ids))
        .order_by(col(Transfer.booked_at), col(Transfer.id))
        .limit(ITEMS_MAX)
    )
    transfers = list(await uow.session.exec(query))
    legs: dict[UUID, list[dict[str, object]]] = {transfer.id: [] for transfer in transfers}
    postings = (
        select(Posting, Account)
        .join(Account, col(Account.id) == col(Posting.account_id))
        .where(col(Posting.transfer_id).in_(list(legs)))
        .order_by(col(Posting.account_id))
    )
    for posting, account in await uow.session.exec(postings):
        leg: dict[str, object] = {
            "account_id": show("acc", account.id),
            "kind": account.kind,
            "amount_minor": posting.amount,
            "currency": posting.currency,
        }
        legs[posting.transfer_id].append(leg)
    return [
        {
            "transfer_id": show("txn", transfer.id),
            "kind": transfer.kind,
            "booked_at": transfer.booked_at.isoformat(),
            "postings": legs[transfer.id],
        }
        for transfer in transfers
    ]


_SECTIONS: dict[str, Section] = {
    "listing": _listing,
    "certificate": _certificate,
    "valuation": _valuation,
    "agreement": _agreement,
    "access": _access,
    "deliveries": _deliveries,
    "ledger": _ledger,
}
