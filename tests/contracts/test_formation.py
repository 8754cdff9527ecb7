"""Formation and the trace: what was agreed is frozen, signed and can be checked offline."""

import httpx
import orjson
import pytest
from sqlmodel import func, select

from contracts import formation, trace
from contracts.formation import Deal, Formed, form
from contracts.models import Agreement
from contracts.schemas import ShareTerm, Terms
from listings import offers
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import InvalidToken, Role, canonical_json, sha256_hex, verify_with_jwks
from pricing.billing_schemas import IntermediaryInput, TaxDeclarationInput
from pricing.intermediaries import set_intermediary
from pricing.taxes import declare_tax
from settlement.billing_schemas import FeeScheduleInput
from settlement.fees import set_fee
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.listings.factories import make_listing
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan


@pytest.fixture(scope="module")
async def trade(kernel: Kernel) -> Trade:
    return await make_trade(kernel, lots=2, lot_units=50, price_minor=300)


async def test_the_terms_are_signed_and_complete(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    answer = await client.get(f"/v1/agreements/{trade.id}", headers=trade.seller.headers())
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    payload = verify_with_jwks(formation.TYP, shown["jws"], kernel.keys.jwks())
    assert payload["terms"] == shown["terms"]
    digest = sha256_hex(canonical_json(shown["terms"]))
    assert digest == shown["terms_sha256"] == payload["terms_sha256"]
    terms = shown["terms"]
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, trade.agreement.version_id)
        certificate = await offers.get_certificate_for(uow, trade.agreement.version_id)
    assert terms["data_sha256"] == version.sha256
    assert terms["certificate_id"] == show("crt", certificate.id)
    assert (terms["granted_units"], terms["total_minor"], terms["fee_ppm"]) == (100, 600, 50_000)
    assert terms["policy"]["territory"] == ["CN"]
    assert terms["policy"]["not_after"] == terms["expires_at"]
    assert shown["status"] == "active"
    assert (shown["escrow_minor"], shown["settled_units"]) == (600, 0)
    assert shown["grant_id"] == trade.grant


async def test_a_batch_forms_in_order_or_not_at_all(kernel: Kernel, trade: Trade) -> None:
    async def form_batch(buyers: list[object]) -> list[Formed]:
        async with kernel.unit_of_work() as uow:
            listing = await offers.get_listing(uow, trade.plan.listing_id)
            deals = [
                Deal(
                    agreement_id=new_id(),
                    trade_id=new_id(),
                    plan=trade.plan,
                    listing=listing,
                    version_id=listing.version_id,
                    buyer_id=new_id() if buyer is None else trade.seller.party_id,
                    seller_id=trade.seller.party_id,
                    lots=1 + n,
                    price_minor=300,
                    currency="CNY",
                    traded_at=uow.now,
                )
                for n, buyer in enumerate(buyers)
            ]
            return await form(uow, kernel, deals)

    formed = await form_batch([None] * 50)
    assert [made.terms.lots for made in formed] == list(range(1, 51))
    for made in formed:
        # Terms of a batch share a template: each must still be its own deal's, and whole.
        deal, terms = made.deal, made.terms
        assert terms == Terms.model_validate(terms.model_dump())
        assert orjson.loads(made.terms_json) == terms.model_dump(mode="json")
        assert (terms.agreement_id, terms.trade_id) == (deal.agreement_id, deal.trade_id)
        assert (terms.buyer_id, terms.seller_id) == (deal.buyer_id, deal.seller_id)
        assert (terms.total_minor, terms.granted_units) == (300 * deal.lots, 50 * deal.lots)
        signed = verify_with_jwks(formation.TYP, made.jws, kernel.keys.jwks())
        assert signed["terms"] == orjson.loads(made.terms_json)
    assert await form_batch([]) == []
    before = await count(kernel)
    with pytest.raises(Exception, match="agreement_two_parties"):
        await form_batch([None, "seller", None])
    assert await count(kernel) == before


async def test_each_deal_of_a_batch_has_its_own_plan_s_rates_and_its_own_tax(
    kernel: Kernel, trade: Trade
) -> None:
    seller = trade.seller
    listing_id = (await make_listing(kernel, seller)).listing_id
    plain, taxed = [await make_plan(kernel, seller, listing_id, currency="USD") for _ in "12"]
    operator, broker = [await make_party(kernel, role) for role in (Role.OPERATOR, Role.SELLER)]
    await set_fee(
        kernel,
        operator.actor,
        FeeScheduleInput(
            currency="USD",
            fee_ppm=70_000,
            minimum_minor=30,
            cap_minor=900,
            vat_ppm=60_000,
            reason="test",
        ),
    )
    await declare_tax(kernel, seller.actor, TaxDeclarationInput(rate_ppm=60_000))
    await declare_tax(kernel, seller.actor, TaxDeclarationInput(plan_id=taxed.id, rate_ppm=130_000))
    commission = IntermediaryInput(party_id=broker.party_id, ppm=50_000)
    await set_intermediary(kernel, seller.actor, listing_id, commission, expected_version=0)
    async with kernel.unit_of_work() as uow:
        listings = {
            one: await offers.get_listing(uow, one) for one in (listing_id, trade.plan.listing_id)
        }
        deals = [
            Deal(
                agreement_id=new_id(),
                trade_id=new_id(),
                plan=plan,
                listing=listings[plan.listing_id],
                version_id=listings[plan.listing_id].version_id,
                buyer_id=new_id(),
                seller_id=seller.party_id,
                lots=lots,
                price_minor=price,
                currency=plan.currency,
                traded_at=uow.now,
            )
            for plan, lots, price in (
                (plain, 1, 106), (taxed, 1, 113), (trade.plan, 3, 106),
                (taxed, 2, 226), (plain, 5, 101),
            )
        ]  # fmt: skip
        formed = await form(uow, kernel, deals)
    taxes = [made.terms.tax and tuple(made.terms.tax.model_dump().values()) for made in formed]
    assert taxes == [
        (60_000, True, 100, 6),
        (130_000, True, 100, 13),
        (60_000, True, 300, 18),
        (130_000, True, 400, 52),
        (60_000, True, 476, 29),
    ]
    for made, deal in zip(formed, deals, strict=True):
        terms = made.terms
        assert terms == Terms.model_validate(terms.model_dump())
        assert orjson.loads(made.terms_json) == terms.model_dump(mode="json")
        assert terms.plan_id == deal.plan.id
        assert terms.fee is not None
        bounds = terms.fee.minimum_minor, terms.fee.cap_minor, terms.fee.vat_ppm
        frozen = terms.fee_ppm, bounds, terms.intermediary
        if deal.currency == "USD":
            broker_term = ShareTerm(party_id=broker.party_id, ppm=50_000)
            assert frozen == (70_000, (30, 900, 60_000), broker_term)
        else:
            assert frozen == (50_000, (0, None, kernel.settings.platform_vat_ppm), None)


async def count(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        return (await uow.session.exec(select(func.count()).select_from(Agreement))).one()


async def test_the_trace_is_one_signed_chain(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    token = await mint(kernel, trade)
    read = await client.get("/v1/delivery/rows", params={"limit": 5}, headers=bearer(token))
    assert read.status_code == 200
    path = f"/v1/agreements/{trade.id}/trace"
    overseers = [await make_party(kernel, role) for role in (Role.REGULATOR, Role.ARBITER)]
    for reader in (trade.buyer, trade.seller, *overseers):
        answer = await client.get(path, headers=reader.headers())
        assert answer.status_code == 200, answer.text
    shown = answer.json()
    sections = [link["section"] for link in shown["links"]]
    assert sections[:5] == ["listing", "certificate", "agreement", "access", "deliveries"]
    assert "ledger" in sections
    payload = trace.verify_trace(shown, kernel.keys.jwks())
    assert payload["head"] == shown["head_sha256"] == shown["links"][-1]["sha256"]
    data = {link["section"]: link["data"] for link in shown["links"]}
    assert data["deliveries"]["units"] == 5
    assert data["deliveries"]["receipts"][0]["receipt_id"] == read.headers["receipt-id"]
    assert data["agreement"]["buy_order_id"].startswith("ord_")
    (paid_in,) = data["ledger"]
    assert sorted(leg["amount_minor"] for leg in paid_in["postings"]) == [-600, 600]
    assert token not in answer.text
    forged = {**shown, "links": [*shown["links"]]}
    forged["links"][0] = {**forged["links"][0], "data": {"title": "other"}}
    with pytest.raises(ValueError, match="does not match"):
        trace.verify_trace(forged, kernel.keys.jwks())
    with pytest.raises(InvalidToken):
        trace.verify_trace({**shown, "jws": trade.agreement.jws}, kernel.keys.jwks())


async def test_lists_page_and_filter(client: httpx.AsyncClient, trade: Trade) -> None:
    for member in (trade.buyer, trade.seller):
        first = await client.get(
            "/v1/agreements", params={"limit": 1, "status": "active"}, headers=member.headers()
        )
        assert first.status_code == 200
    assert first.json()["has_more"] is True
    second = await client.get(
        "/v1/agreements",
        params={"limit": 1, "after": first.json()["next_after"]},
        headers=trade.seller.headers(),
    )
    assert second.json()["items"][0]["id"] < first.json()["items"][0]["id"]
    none = await client.get(
        "/v1/agreements", params={"status": "settled"}, headers=trade.seller.headers()
    )
    assert none.json()["items"] == []
    granted = await client.get("/v1/grants", params={"limit": 1}, headers=trade.buyer.headers())
    assert [item["id"] for item in granted.json()["items"]] == [trade.grant]
