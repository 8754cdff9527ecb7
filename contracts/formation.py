"""From trades to agreements and grants: bulk, because the matching engine waits for it.

No money moves here: matching captures the buyers' holds into escrow in the same unit of work.
A resale (:mod:`contracts.resale`) takes its policy, term, version and royalty from the agreement
that its units come from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from contracts import resale, sql
from contracts.agreement_states import AgreementStatus
from contracts.models import GrantStatus, PlanKind, Unit
from contracts.policy import Policy, parse_policy
from contracts.resale_terms import resale_term, royalty_shares
from contracts.schemas import FeeTerm, ResaleTerm, ShareTerm, TaxTerm, Terms
from listings import offers
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Keyring, canonical_json, sha256_hex
from market.kernel.settings import Settings
from pricing.intermediaries import newest_intermediaries
from pricing.models import Plan
from pricing.shares import get_shares_of
from pricing.taxes import rates_of
from pricing.units import counted, counted_units
from settlement.fees import Fee, fees_in_force
from settlement.tax import contained

TYP = "agreement+jws"
# Versions and their certificates never change, so facts about them are kept across batches.
VERSIONS_CACHED_MAX = 10_000
# Released, refunded, disputed.
_NOTHING_LEFT_ESCROW = (0, 0, 0)
# Status, four counts of use, no receipt yet, first generation of tokens.
_NEW_GRANT = (GrantStatus.ACTIVE.value, 0, 0, 0, 0, "", 1)


class Deal(NamedTuple):
    """One trade to form: who, what, how many lots, at which price per lot (minor units).

    ``source``: the grant that the seller resells units of; ``version_id`` is then that grant's.
    """

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
    source: resale.Source | None = None


class Formed(NamedTuple):
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


class _Conditions(NamedTuple):
    """What the terms of a deal say beyond its plan, price and parties."""

    policy: Policy
    shares: list[ShareTerm]
    intermediary: ShareTerm | None
    tax_ppm: int
    resale: ResaleTerm | None = None


@dataclass(frozen=True, slots=True)
class _Rates:
    """What holds for the deals of a plan at their moment: the platform's fee, the declared tax."""

    fee: Fee
    tax_ppm: int


@dataclass(frozen=True, slots=True)
class Sources:
    """What terms are made from: offers by listing, rates by plan, facts by version.

    ``templates`` are what came of them.
    """

    offers: Mapping[UUID, _Offer]
    rates: Mapping[UUID, _Rates]
    versions: Mapping[UUID, _VersionFacts]
    templates: dict[tuple[UUID, UUID, datetime, UUID | None], _Template] = field(
        default_factory=dict
    )


class _Template(NamedTuple):
    """Terms that the deals of one plan at one moment share, as the model and as JSON values."""

    terms: Terms
    stored: dict[str, Any]
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
    formed = draw_up(kernel, deals, await read_sources(uow, kernel.settings, deals))
    await write(uow, formed)
    return formed


async def read_sources(uow: UnitOfWork, settings: Settings, deals: Sequence[Deal]) -> Sources:
    """What the terms of ``deals`` are made from; one deal of each plan and version is enough.

    Raises as :func:`form`.
    """
    versions = dict.fromkeys(deal.version_id for deal in deals)
    return Sources(
        await _offers(uow, {deal.listing.id: deal.listing for deal in deals}),
        await _rates(uow, settings, {deal.plan.id: deal for deal in deals}),
        {one: await _version_facts(uow, one) for one in versions},
    )


def draw_up(kernel: Kernel, deals: Sequence[Deal], sources: Sources) -> list[Formed]:
    """Terms, digests and signatures of ``deals``. No I/O: nothing exists before :func:`write`."""
    templates = sources.templates
    formed = []
    for deal in deals:
        origin = None if deal.source is None else deal.source.grant_id
        name = (deal.plan.id, deal.version_id, deal.traded_at, origin)
        template = templates.get(name)
        if template is None:
            terms = _terms(deal, sources)
            assert terms.tax is not None
            template = _Template(terms, terms.model_dump(mode="json"), terms.tax.rate_ppm)
            templates[name] = template
        formed.append(_sign(kernel.keys, deal, template))
    return formed


async def write(uow: UnitOfWork, formed: Sequence[Formed]) -> None:
    """Store what was drawn up, with its events. Effects as :func:`form`."""
    connection = await uow.raw()
    await sql.insert_agreements(connection, [_agreement_row(made) for made in formed])
    await sql.insert_steps(connection, [row for made in formed for row in _step_rows(made)])
    await sql.insert_grants(connection, [_grant_row(made) for made in formed])
    resold = [made for made in formed if made.deal.source is not None]
    if resold:
        await resale.record(uow, resold)
    for made in formed:
        _announce(uow, made)


async def _offers(uow: UnitOfWork, listings: Mapping[UUID, Listing]) -> dict[UUID, _Offer]:
    shares = await get_shares_of(uow, list(listings))
    brokers = await newest_intermediaries(uow, list(listings))
    found: dict[UUID, _Offer] = {}
    for listing in listings.values():
        broker = brokers.get(listing.id)
        commission = None
        if broker is not None and broker.party_id is not None and broker.ppm is not None:
            commission = ShareTerm(party_id=broker.party_id, ppm=broker.ppm)
        found[listing.id] = _Offer(
            [ShareTerm(party_id=share.party_id, ppm=share.ppm) for share in shares[listing.id]],
            commission,
            parse_policy(listing.policy),
        )
    return found


async def _rates(
    uow: UnitOfWork, settings: Settings, deals: Mapping[UUID, Deal]
) -> dict[UUID, _Rates]:
    """Fee and tax by plan, one query each for a whole batch."""
    pairs = {(deal.listing.category, deal.currency) for deal in deals.values()}
    fees = await fees_in_force(uow, settings, pairs, at=uow.now)
    taxes = await rates_of(uow, [(deal.plan, deal.listing.category) for deal in deals.values()])
    return {
        plan_id: _Rates(fees[deal.listing.category, deal.currency], taxes[plan_id])
        for plan_id, deal in deals.items()
    }


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


def _conditions(deal: Deal, sources: Sources) -> _Conditions:
    """A reseller passes on what bound it; the listing's broker and declared tax are not its."""
    if deal.source is not None:
        origin = deal.source.terms
        return _Conditions(origin.policy, royalty_shares(origin), None, 0, resale_term(origin))
    offer, plan = sources.offers[deal.listing.id], deal.plan
    return _Conditions(
        offer.policy.frozen(deal.traded_at, timedelta(days=plan.term_days)),
        offer.shares,
        offer.intermediary,
        sources.rates[plan.id].tax_ppm,
    )


def _terms(deal: Deal, sources: Sources) -> Terms:
    plan, facts = deal.plan, sources.versions[deal.version_id]
    fee, total = sources.rates[plan.id].fee, deal.lots * deal.price_minor
    conditions = _conditions(deal, sources)
    policy = conditions.policy
    assert policy.not_after is not None
    kind = PlanKind(plan.kind)
    lot_units = counted_units(plan.unit, plan.lot_units)
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
        unit=Unit(counted(plan.unit).unit),
        lot_units=lot_units,
        granted_units=_granted(kind, policy, deal.lots * lot_units),
        fee_ppm=fee.fee_ppm,
        shares=conditions.shares,
        fee=FeeTerm(
            schedule_id=fee.schedule_id,
            category=deal.listing.category,
            minimum_minor=fee.minimum_minor,
            cap_minor=fee.cap_minor,
            vat_ppm=fee.vat_ppm,
        ),
        intermediary=conditions.intermediary,
        tax=_tax(total, conditions.tax_ppm),
        resale=conditions.resale,
        policy=policy,
        formed_at=deal.traded_at,
        acceptance_due_at=deal.traded_at + timedelta(days=plan.acceptance_window_days),
        expires_at=policy.not_after,
    )


def _tax(total: int, rate_ppm: int) -> TaxTerm:
    taxed = contained(total, rate_ppm)
    return TaxTerm(rate_ppm=rate_ppm, without_tax_minor=taxed.without_tax, tax_minor=taxed.tax)


def _granted(kind: PlanKind, policy: Policy, units: int) -> int | None:
    # A license's meter counts deliveries; only a count clause bounds them.
    return units if kind is PlanKind.METERED else policy.count


def _sign(keys: Keyring, deal: Deal, template: _Template) -> Formed:
    # Validating and serializing whole terms per trade was a fifth of the engine's time; only
    # these differ between deals of one plan at one moment.
    total = deal.lots * deal.price_minor
    tax = _tax(total, template.tax_ppm)
    own: dict[str, object] = {
        "lots": deal.lots,
        "price_minor": deal.price_minor,
        "total_minor": total,
        "granted_units": _granted(
            template.terms.kind, template.terms.policy, deal.lots * template.terms.lot_units
        ),
    }
    objects = {
        "tax": tax,
        "agreement_id": deal.agreement_id,
        "trade_id": deal.trade_id,
        "buyer_id": deal.buyer_id,
        "seller_id": deal.seller_id,
    }
    shown = {
        "tax": tax.model_dump(mode="json"),
        "agreement_id": show("agr", deal.agreement_id),
        "trade_id": show("trd", deal.trade_id),
        "buyer_id": show("pty", deal.buyer_id),
        "seller_id": show("pty", deal.seller_id),
    }
    canonical = canonical_json({**template.stored, **own, **shown})
    digest = sha256_hex(canonical)
    jws = keys.sign(TYP, {"terms": orjson.Fragment(canonical), "terms_sha256": digest})
    terms = template.terms.model_copy(update={**own, **objects})
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
        *_NOTHING_LEFT_ESCROW,
    )


def _step_rows(made: Formed) -> list[tuple[Any, ...]]:
    terms = made.terms
    return [
        (new_id(), terms.agreement_id, status.value, "formed by a trade", terms.formed_at)
        for status in (AgreementStatus.FORMED, AgreementStatus.ACTIVE)
    ]


def _grant_row(made: Formed) -> tuple[Any, ...]:
    """A row in the order of ``sql.GRANT_COLUMNS``."""
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
        *_NEW_GRANT,
        None if made.deal.source is None else made.deal.source.terms.agreement_id,
    )
