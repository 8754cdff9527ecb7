"""What pages show, to whom, and what they never do with foreign text."""

import httpx
import pytest
from fastapi import FastAPI

from market.console.routes import CONTENT_POLICY
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.dispute_factories import Court, claim, in_review, opened, relate, text
from tests.contracts.factories import Trade, bearer, make_trade, mint
from tests.listings.factories import make_listing
from tests.market.console.browsing import Browser
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan

EVIL = "<script>alert('1')</script><img src=x onerror=alert(2)>"
ESCAPED = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;"
NOBODY = "0" * 32


@pytest.fixture(scope="module")
async def trade(kernel: Kernel) -> Trade:
    return await make_trade(kernel, lots=3)


@pytest.fixture(scope="module")
async def court(kernel: Kernel, client: httpx.AsyncClient) -> Court:
    return await in_review(kernel, client, assigned=False)


async def _signed_in(app: FastAPI, member: Member) -> Browser:
    browser = Browser.on(app)
    await browser.sign_in(member)
    return browser


async def test_every_answer_has_the_security_headers(app: FastAPI, court: Court) -> None:
    operator = await _signed_in(app, court.operator)
    for path, status in (
        ("/console", 200),
        ("/console/sign-in", 200),
        (f"/console/disputes/{court.dispute_id}", 200),
        ("/console/nothing", 404),
        ("/console/agreements/nonsense", 404),
        ("/console?category=nonsense", 422),
        ("/console?after=nonsense", 422),
    ):
        answer = await operator.http.get(path)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert CONTENT_POLICY.startswith(
        "default-src 'self'; frame-ancestors 'none'; form-action 'self'"
    )
    answer = await operator.http.delete("/console")
    assert answer.status_code == 405


async def test_assets_come_from_the_package_and_are_kept_by_browsers(app: FastAPI) -> None:
    browser = Browser.on(app)
    page = await browser.get("/console")
    urls = [part.split('"')[0] for part in page.split('="')[1:] if part.startswith("/console/st")]
    assert {url.rpartition("/")[2] for url in urls} == {
        "htmx.min.js",
        "console.js",
        "console.css",
        "icon.svg",
    }
    for url in urls:
        answer = await browser.http.get(url)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert b"htmx" in (await browser.http.get(urls[2])).content
    await browser.get("/console/static/0000000000000000/htmx.min.js", expect=404)
    await browser.get("/console/static/../messages.py", expect=404)


async def test_the_language_follows_the_link_the_cookie_and_the_browser(app: FastAPI) -> None:
    browser = Browser.on(app)
    assert '<html lang="en">' in await browser.get("/console")
    page = await browser.get("/console", headers={"Accept-Language": "zh-CN,en;q=0.5"})
    assert '<html lang="zh-Hans">' in page
    assert "数据目录" in page
    assert "Certified data products" not in page
    assert "数据目录" in await browser.get("/console?lang=zh")
    assert "数据目录" in await browser.get("/console", headers={"Accept-Language": "en"})
    assert "页面不存在" in await browser.get("/console/nothing", expect=404)
    page = await browser.get("/console?q=x&category=weather")
    assert 'href="/console?q=x&amp;category=weather&amp;lang=en"' in page
    assert "数据目录" not in await browser.get("/console?lang=en")


async def test_the_catalog_searches_filters_and_pages(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    seller = await make_party(kernel, Role.SELLER, name=f"Bureau {EVIL}")
    title = {"en": f"Tide tables {EVIL}", "zh": "潮汐表"}
    made = await make_listing(kernel, seller, title=title, category="weather")
    plan = await make_plan(kernel, seller, made.listing_id, price_minor=1_234)
    order = {"plan_id": show("pln", plan.id), "side": "sell", "price_minor": 1_234, "lots": None}
    answer = await client.post("/v1/orders", json=order, headers=seller.headers())
    assert answer.status_code == 201
    browser = Browser.on(app)
    page = await browser.get("/console?q=tide&category=weather")
    assert "1 listings" in page
    assert "from 12.34 CNY per lot" in page
    assert "<script>alert" not in page
    assert ESCAPED in page
    assert "0 listings" in await browser.get("/console?q=tide&category=transport")
    assert "潮汐表" in await browser.get("/console?q=潮汐&lang=zh")
    await browser.get("/console?lang=en")
    part = await browser.get("/console?q=tide", headers={"HX-Request": "true"})
    assert part.lstrip().startswith('<div id="results"')
    assert "<html" not in part
    whole = await browser.get(
        "/console?q=tide", headers={"HX-Request": "true", "HX-History-Restore-Request": "true"}
    )
    assert "<html" in whole
    listing = f"/console/listings/{show('lst', made.listing_id)}"
    page = await browser.get(listing)
    assert ESCAPED in page
    assert "<script>alert" not in page
    for shown in ("BIGINT", "carrier", "Completeness", "12.34 CNY", "unlimited", "Sample"):
        assert shown in page
    book = await browser.get(f"/console/plans/{show('pln', plan.id)}/book")
    assert book.lstrip().startswith('<div class="book"')
    await browser.get(f"/console/listings/lst_{NOBODY}", expect=404)
    hidden = await make_listing(kernel, seller, live=False)
    await browser.get(f"/console/listings/{show('lst', hidden.listing_id)}", expect=404)


async def test_an_agreement_with_its_meter_and_receipts(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient, trade: Trade
) -> None:
    token = await mint(kernel, trade)
    answer = await client.get("/v1/delivery/rows?limit=750", headers=bearer(token))
    assert answer.status_code == 200
    buyer = await _signed_in(app, trade.buyer)
    page = f"/console/agreements/{trade.id}"
    assert page in await buyer.get("/console/agreements")
    shown = await buyer.get(page)
    assert 'aria-valuemax="3000" aria-valuenow="750"' in shown
    assert '<dd id="meter-remaining">2,250</dd>' in shown
    assert '<rect class="fill" x="0" width="250" height="12"/>' in shown
    assert 'hx-trigger="every 2s"' in shown
    assert answer.headers["receipt-id"] in shown
    assert "30.00 CNY" in shown
    part = await buyer.get(f"{page}/meter", headers={"HX-Request": "true"})
    assert part.lstrip().startswith('<div id="meter"')
    assert '<dd id="meter-settled">750</dd>' in part
    trace = await buyer.get(f"{page}/trace")
    assert trace.count("<details>") == 6
    assert "receipts_head" in trace


async def test_foreign_objects_do_not_exist(
    app: FastAPI, kernel: Kernel, trade: Trade, court: Court
) -> None:
    stranger = await _signed_in(app, await make_party(kernel, Role.BUYER))
    for path in (
        f"/console/agreements/{trade.id}",
        f"/console/agreements/{trade.id}/meter",
        f"/console/agreements/{trade.id}/trace",
        f"/console/agreements/agr_{NOBODY}",
        f"/console/disputes/{court.dispute_id}",
        f"/console/disputes/{court.dispute_id}/preview?buyer_ppm=1",
        f"/console/disputes/dsp_{NOBODY}",
    ):
        page = await stranger.get(path, expect=404)
        assert "There is no such page, or it is not yours" in page
    assert trade.id not in await stranger.get("/console/agreements")
    assert court.dispute_id not in await stranger.get("/console/disputes")
    part = await stranger.get(
        f"/console/agreements/{trade.id}/meter", expect=404, headers={"HX-Request": "true"}
    )
    assert part.startswith('<p class="notice bad" role="alert">')


async def test_pages_of_other_roles_are_refused(app: FastAPI, trade: Trade, court: Court) -> None:
    buyer = await _signed_in(app, trade.buyer)
    page = await buyer.get("/console")
    for path in ("/console/arbitration", "/console/reviews"):
        assert f'href="{path}"' not in page
        assert "role_required" in await buyer.get(path, expect=403)
    arbiter = await _signed_in(app, court.arbiters[0])
    await arbiter.get("/console/arbitration")
    await arbiter.get("/console/reviews", expect=403)
    listing = show("lst", trade.plan.listing_id)
    await arbiter.get(f"/console/reviews/listings/{listing}", expect=403)
    product = show("prd", trade.grant_id)
    await arbiter.get(f"/console/reviews/products/{product}", expect=403)
    regulator = await _signed_in(app, court.regulator)
    await regulator.get("/console/reviews")
    await regulator.get("/console/arbitration")
    page = await regulator.get(f"/console/disputes/{court.dispute_id}")
    assert 'method="post" action="/console/disputes/' not in page
    assert f"/console/agreements/{trade.id}" in await regulator.get("/console/agreements")


async def test_evidence_is_text_whatever_it_holds(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    case = await opened(kernel, client, claimed=claim(statement=f"Broken {EVIL}"))
    await case.post(case.buyer, "escalate", expect=200)
    piece = text(EVIL, title=f"Title {EVIL}", media_type="text/html")
    sent = await case.post(case.seller, "evidence", piece, expect=201)
    long = text("x" * 5_000, media_type="text/markdown")
    await case.post(case.seller, "evidence", long, expect=201)
    answer = await client.post(
        f"/v1/disputes/{case.dispute_id}/evidence/files?kind=sample&title=File",
        content=b"%PDF-1.7 <script>",
        headers={**case.seller.headers(), "Content-Type": "application/pdf"},
    )
    assert answer.status_code == 201, answer.text
    for member in (case.buyer, case.seller, case.arbiters[0], case.operator):
        page = await (await _signed_in(app, member)).get(f"/console/disputes/{case.dispute_id}")
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert page.count(ESCAPED) == 3
        assert f'<pre tabindex="0">{"x" * 4_000}</pre>' in page
        assert "application/pdf" in page
    browser = await _signed_in(app, case.buyer)
    file = await browser.http.get(
        f"/console/disputes/{case.dispute_id}/evidence/{sent.json()['id']}"
    )
    assert file.content.decode() == EVIL
    assert file.headers["content-type"] == "text/plain; charset=utf-8"
    assert file.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert file.headers["content-disposition"].startswith("attachment")


async def test_an_arbiter_with_a_conflict_reads_no_evidence(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    case = await in_review(kernel, client, assigned=False)
    biased = case.arbiters[1]
    await relate(case, biased.party_id, case.seller.party_id)
    browser = await _signed_in(app, biased)
    assert "conflict of interest" in await browser.get("/console/arbitration")
    page = await browser.get(f"/console/disputes/{case.dispute_id}")
    assert "you may not read its evidence" in page
    assert "rows missing" not in page
    assert f"/console/disputes/{case.dispute_id}/claim" not in page
    impartial = await _signed_in(app, case.arbiters[0])
    page = await impartial.get(f"/console/disputes/{case.dispute_id}")
    assert "rows missing" in page
    assert f"/console/disputes/{case.dispute_id}/claim" in page


async def test_the_queue_and_the_posting_preview(app: FastAPI, court: Court) -> None:
    arbiter = await _signed_in(app, court.arbiters[0])
    for show_, listed in (("review", 1), ("nobody", 1), ("all", 1), ("mine", 0)):
        page = await arbiter.get(f"/console/arbitration?show={show_}")
        assert page.count(f'href="/console/disputes/{court.dispute_id}"') == listed
    await arbiter.get("/console/arbitration?show=everything", expect=422)
    path = f"/console/disputes/{court.dispute_id}/preview"
    part = await arbiter.get(f"{path}?buyer_ppm=333333")
    assert "33.3333 %" in part
    assert '<td class="figure" id="preview-buyer">33.34 CNY</td>' in part
    assert '<td class="figure" id="preview-seller">63.34 CNY</td>' in part
    for wrong in ("", "?buyer_ppm=1000001", "?buyer_ppm=-1", "?buyer_ppm=x"):
        await arbiter.get(f"{path}{wrong}", expect=422)


async def test_what_fails_inside_is_a_page_too(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("market.console.catalog_pages.catalog.search_catalog", broken)
    page = await Browser.on(app).get("/console", expect=500)
    assert "Something failed on our side" in page
    assert "secret detail" not in page
