"""From trades to agreements and grants: bulk, because the matching engine waits for it.

No money moves here: matching captures the buyers' holds into escrow in the same unit of work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from contracts import sql
from contracts.agreement_states import AgreementStatus
from contracts.models import Agreement, PlanKind, Unit
from contracts.policy import parse_policy
from contracts.schemas import ShareTerm, Terms
from listings import offers
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import canonical_json, sha256_hex
from pricing.models import Plan
from pricing.shares import get_shares

TYP = "agreement+jws"
# Versions and their certificates never change, so facts about them are kept across batches.
VERSIONS_CACHED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Deal:
    """One trade to form: who, what, how many lots, at which price per lot (minor units)."""

    agreement_id: UUID
    trade_id: UUID
    plan: Plan
    listing: Listing
    version_id: UUID
    buyer_id: UUID
    seller_id: UUID
    lots: int
    price_minor: int
    currency: str
    traded_at: datetime
    buy_order_id: UUID | None = None
    sell_order_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _VersionFacts:
    product_id: UUID
    sha256: str
    certificate_id: UUID


_versions: dict[UUID, _VersionFacts] = {}


async def form(uow: UnitOfWork, kernel: Kernel, deals: Sequence[Deal]) -> list[Agreement]:
    """Write agreements (signed, frozen terms) and their grants for ``deals``, in their order.

    Effects: rows in ``agreement``, ``agreement_step`` (formed, active) and ``access_grant``,
    events ``agreement.formed`` to both parties. Raises VersionNotFound or CertificateNotFound
    for a version that was never certified, and ValidationError for a policy of a foreign form.
    """
    if not deals:
        return []
    shares: dict[UUID, list[ShareTerm]] = {}
    for deal in deals:
        if deal.listing.id not in shares:
            shares[deal.listing.id] = [
                ShareTerm(party_id=share.party_id, ppm=share.ppm)
                for share in await get_shares(uow, deal.listing.id)
            ]
        await _version_facts(uow, deal.version_id)
    formed = [_agreement(kernel, deal, shares[deal.listing.id]) for deal in deals]
    grant_ids = [new_id() for _ in formed]
    connection = await uow.raw()
    await sql.insert_agreements(connection, [_agreement_row(made) for made in formed])
    await sql.insert_steps(connection, [row for made in formed for row in _step_rows(made)])
    await sql.insert_grants(
        connection, [_grant_row(made, id_) for made, id_ in zip(formed, grant_ids, strict=True)]
    )
    for made, grant_id in zip(formed, grant_ids, strict=True):
        data: dict[str, object] = {
            "agreement_id": show("agr", made.id),
            "grant_id": show("grt", grant_id),
            "trade_id": show("trd", made.trade_id),
            "total_minor": made.total_minor,
            "currency": made.currency,
        }
        uow.emit("agreement.formed", made.id, data, parties=[made.buyer_id, made.seller_id])
    return formed


async def _version_facts(uow: UnitOfWork, version_id: UUID) -> _VersionFacts:
    facts = _versions.get(version_id)
    if facts is None:
        version = await offers.get_version(uow, version_id)
        certificate = await offers.get_certificate_for(uow, version_id)
        facts = _VersionFacts(version.product_id, version.sha256, certificate.id)
        if len(_versions) >= VERSIONS_CACHED_MAX:
            _versions.clear()
        _versions[version_id] = facts
    return facts


def _terms(kernel: Kernel, deal: Deal, shares: list[ShareTerm]) -> Terms:
    plan, facts = deal.plan, _versions[deal.version_id]
    policy = parse_policy(deal.listing.policy).frozen(
        deal.traded_at, timedelta(days=plan.term_days)
    )
    assert policy.not_after is not None
    kind = PlanKind(plan.kind)
    # A license's meter counts deliveries; only a count clause bounds them.
    granted = deal.lots * plan.lot_units if kind is PlanKind.METERED else policy.count
    return Terms(
        agreement_id=deal.agreement_id,
        trade_id=deal.trade_id,
        listing_id=deal.listing.id,
        product_id=facts.product_id,
        version_id=deal.version_id,
        data_sha256=facts.sha256,
        certificate_id=facts.certificate_id,
        plan_id=plan.id,
        kind=kind,
        buyer_id=deal.buyer_id,
        seller_id=deal.seller_id,
        lots=deal.lots,
        price_minor=deal.price_minor,
        total_minor=deal.lots * deal.price_minor,
        currency=deal.currency,
        unit=Unit(plan.unit),
        lot_units=plan.lot_units,
        granted_units=granted,
        fee_ppm=kernel.settings.platform_fee_ppm,
        shares=shares,
        policy=policy,
        formed_at=deal.traded_at,
        acceptance_due_at=deal.traded_at + timedelta(days=plan.acceptance_window_days),
        expires_at=policy.not_after,
    )


def _agreement(kernel: Kernel, deal: Deal, shares: list[ShareTerm]) -> Agreement:
    terms = _terms(kernel, deal, shares)
    stored = terms.model_dump(mode="json")
    digest = sha256_hex(canonical_json(stored))
    jws = kernel.keys.sign(TYP, {"terms": stored, "terms_sha256": digest})
    values: dict[str, Any] = {
        name: getattr(terms, name)
        for name in Terms.model_fields
        if name not in {"agreement_id", "data_sha256", "shares", "policy"}
    }
    return Agreement(
        id=deal.agreement_id,
        buy_order_id=deal.buy_order_id,
        sell_order_id=deal.sell_order_id,
        status=AgreementStatus.ACTIVE,
        terms=stored,
        terms_sha256=digest,
        jws=jws,
        **values,
    )


def _agreement_row(made: Agreement) -> tuple[Any, ...]:
    values = {
        **{name: getattr(made, name) for name, _ in sql.AGREEMENT_COLUMNS},
        "terms": canonical_json(made.terms).decode(),
        "kind": made.kind.value,
        "status": made.status.value,
        "unit": made.unit.value,
    }
    return tuple(values[name] for name, _ in sql.AGREEMENT_COLUMNS)


def _step_rows(made: Agreement) -> list[tuple[Any, ...]]:
    return [
        (new_id(), made.id, status.value, "formed by a trade", made.formed_at)
        for status in (AgreementStatus.FORMED, AgreementStatus.ACTIVE)
    ]


def _grant_row(made: Agreement, grant_id: UUID) -> tuple[Any, ...]:
    return (
        grant_id,
        made.id,
        made.buyer_id,
        made.seller_id,
        made.product_id,
        made.version_id,
        made.unit.value,
        made.granted_units,
        made.formed_at,
        made.expires_at,
    )
