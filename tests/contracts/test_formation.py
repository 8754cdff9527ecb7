"""Formation and the trace: what was agreed is frozen, signed and can be checked offline."""

import httpx
import orjson
import pytest
from sqlmodel import func, select

from contracts import formation, trace
from contracts.formation import Deal, Formed, form
from contracts.models import Agreement
from contracts.schemas import Terms
from listings import offers
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import InvalidToken, Role, canonical_json, sha256_hex, verify_with_jwks
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.market.parties.factories import make_party


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
