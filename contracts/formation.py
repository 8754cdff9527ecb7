"""From trades to agreements and grants: bulk, because the matching engine waits for it.

No money moves here: matching captures the buyers' holds into escrow in the same unit of work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from contracts import sql
from contracts.agreement_states import AgreementStatus
from contracts.models import PlanKind, Unit
from contracts.policy import Policy, parse_policy
from contracts.schemas import FeeTerm, ShareTerm, TaxTerm, Terms
from listings import offers
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Keyring, canonical_json, sha256_hex
from market.kernel.settings import Settings
from pricing.intermediaries import newest_intermediary
from pricing.models import Plan
from pricing.shares import get_shares
from pricing.taxes import rate_of
from settlement.fees import Fee, fees_in_force
from settlement.tax import contained

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
class Formed:
    """A new agreement: its terms, their digest and signature, its grant. Active from the start."""

    terms: Terms
    terms_json: bytes
    terms_sha256: str
    jws: str
    grant_id: UUID
    deal: Deal


@dataclass(frozen=True, slots=True)
class _VersionFacts:
    product_id: UUID
    sha256: str
    certificate_id: UUID


@dataclass(frozen=True, slots=True)
class _Offer:
    """What all deals of a batch on one listing share."""

    shares: list[ShareTerm]
    intermediary: ShareTerm | None
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Rates:
    """What holds for one deal at its moment: the platform's fee and the declared tax."""

    fee: Fee
    tax_ppm: int


_versions: OrderedDict[UUID, _VersionFacts] = OrderedDict()


async def form(uow: UnitOfWork, kernel: Kernel, deals: Sequence[Deal]) -> list[Formed]:
    """Write agreements (signed, frozen terms) and their grants for ``deals``, in their order.

    Effects: rows in ``agreement``, ``agreement_step`` (formed, active) and ``access_grant``,
    events ``agreement.formed`` to both parties. Raises VersionNotFound or CertificateNotFound
    for a version that was never certified, and ValidationError for a policy of a foreign form.
    """
    if not deals:
        return []
    listed: dict[UUID, _Offer] = {}
    versions: dict[UUID, _VersionFacts] = {}
    for deal in deals:
        if deal.listing.id not in listed:
            listed[deal.listing.id] = await _offer(uow, deal.listing)
        if deal.version_id not in versions:
            versions[deal.version_id] = await _version_facts(uow, deal.version_id)
    rates = await _rates(uow, kernel.settings, deals)
    formed = [
        _sign(
            kernel.keys,
            deal,
            _terms(deal, listed[deal.listing.id], versions[deal.version_id], rates[deal.plan.id]),
        )
        for deal in deals
    ]
    connection = await uow.raw()
    await sql.insert_agreements(connection, [_agreement_row(made) for made in formed])
    await sql.insert_steps(connection, [row for made in formed for row in _step_rows(made)])
    await sql.insert_grants(connection, [_grant_row(made) for made in formed])
    for made in formed:
        _announce(uow, made)
    return formed


async def _offer(uow: UnitOfWork, listing: Listing) -> _Offer:
    shares = [
        ShareTerm(party_id=share.party_id, ppm=share.ppm)
        for share in await get_shares(uow, listing.id)
    ]
    broker = await newest_intermediary(uow, listing.id)
    commission = None
    if broker is not None and broker.party_id is not None and broker.ppm is not None:
        commission = ShareTerm(party_id=broker.party_id, ppm=broker.ppm)
    return _Offer(shares, commission, parse_policy(listing.policy))


async def _rates(uow: UnitOfWork, settings: Settings, deals: Sequence[Deal]) -> dict[UUID, _Rates]:
    """Fee and tax by plan: the fees of a whole batch take one query, each plan's tax another."""
    pairs = {(deal.listing.category, deal.currency) for deal in deals}
    fees = await fees_in_force(uow, settings, pairs, at=uow.now)
    rates: dict[UUID, _Rates] = {}
    for deal in deals:
        if deal.plan.id not in rates:
            tax_ppm = await rate_of(uow, deal.plan, deal.listing.category)
            rates[deal.plan.id] = _Rates(fees[deal.listing.category, deal.currency], tax_ppm)
    return rates


async def _version_facts(uow: UnitOfWork, version_id: UUID) -> _VersionFacts:
    facts = _versions.get(version_id)
    if facts is None:
        version = await offers.get_version(uow, version_id)
        certificate = await offers.get_certificate_for(uow, version_id)
        facts = _VersionFacts(version.product_id, version.sha256, certificate.id)
        _versions[version_id] = facts
        if len(_versions) > VERSIONS_CACHED_MAX:
            _versions.popitem(last=False)
    return facts


def _terms(deal: Deal, offer: _Offer, facts: _VersionFacts, rates: _Rates) -> Terms:
    plan, fee = deal.plan, rates.fee
    total = deal.lots * deal.price_minor
    taxed = contained(total, rates.tax_ppm)
    policy = offer.policy.frozen(deal.traded_at, timedelta(days=plan.term_days))
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
        total_minor=total,
        currency=deal.currency,
        unit=Unit(plan.unit),
        lot_units=plan.lot_units,
        granted_units=granted,
        fee_ppm=fee.fee_ppm,
        shares=offer.shares,
        fee=FeeTerm(
            schedule_id=fee.schedule_id,
            category=deal.listing.category,
            minimum_minor=fee.minimum_minor,
            cap_minor=fee.cap_minor,
            vat_ppm=fee.vat_ppm,
        ),
        intermediary=offer.intermediary,
        tax=TaxTerm(
            rate_ppm=rates.tax_ppm, without_tax_minor=taxed.without_tax, tax_minor=taxed.tax
        ),
        policy=policy,
        formed_at=deal.traded_at,
        acceptance_due_at=deal.traded_at + timedelta(days=plan.acceptance_window_days),
        expires_at=policy.not_after,
    )


def _sign(keys: Keyring, deal: Deal, terms: Terms) -> Formed:
    stored = terms.model_dump(mode="json")
    canonical = canonical_json(stored)
    digest = sha256_hex(canonical)
    jws = keys.sign(TYP, {"terms": stored, "terms_sha256": digest})
    return Formed(terms, canonical, digest, jws, new_id(), deal)


def _announce(uow: UnitOfWork, made: Formed) -> None:
    terms = made.terms
    data: dict[str, object] = {
        "agreement_id": show("agr", terms.agreement_id),
        "grant_id": show("grt", made.grant_id),
        "trade_id": show("trd", terms.trade_id),
        "total_minor": terms.total_minor,
        "currency": terms.currency,
    }
    parties = [terms.buyer_id, terms.seller_id]
    uow.emit("agreement.formed", terms.agreement_id, data, parties=parties)


def _agreement_row(made: Formed) -> tuple[Any, ...]:
    """A row in the order of ``sql.AGREEMENT_COLUMNS``."""
    terms, deal = made.terms, made.deal
    return (
        terms.agreement_id,
        terms.trade_id,
        deal.buy_order_id,
        deal.sell_order_id,
        terms.listing_id,
        terms.product_id,
        terms.version_id,
        terms.plan_id,
        terms.certificate_id,
        terms.buyer_id,
        terms.seller_id,
        terms.kind.value,
        AgreementStatus.ACTIVE.value,
        terms.lots,
        terms.price_minor,
        terms.total_minor,
        terms.currency,
        terms.unit.value,
        terms.lot_units,
        terms.granted_units,
        terms.fee_ppm,
        made.terms_json.decode(),
        made.terms_sha256,
        made.jws,
        terms.formed_at,
        terms.acceptance_due_at,
        terms.expires_at,
    )


def _step_rows(made: Formed) -> list[tuple[Any, ...]]:
    terms = made.terms
    return [
        (new_id(), terms.agreement_id, status.value, "formed by a trade", terms.formed_at)
        for status in (AgreementStatus.FORMED, AgreementStatus.ACTIVE)
    ]


def _grant_row(made: Formed) -> tuple[Any, ...]:
    terms = made.terms
    return (
        made.grant_id,
        terms.agreement_id,
        terms.buyer_id,
        terms.seller_id,
        terms.product_id,
        terms.version_id,
        terms.unit.value,
        terms.granted_units,
        terms.formed_at,
        terms.expires_at,
    )
