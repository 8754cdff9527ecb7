"""Forms: whose they are, and that each has one effect."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from market.console.routes import KEY_FIELD
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.dispute_factories import Court, in_review, ruled
from tests.contracts.factories import make_trade
from tests.listings.factories import make_listing, make_product
from tests.market.console.browsing import Browser
from tests.market.parties.factories import Member, make_party


@pytest.fixture
async def court(kernel: Kernel, client: httpx.AsyncClient) -> Court:
    return await in_review(kernel, client, assigned=False)


async def _signed_in(app: FastAPI, member: Member) -> Browser:
    browser = Browser.on(app)
    await browser.sign_in(member)
    return browser


def _page(court: Court) -> str:
    return f"/console/disputes/{court.dispute_id}"


RULING = {"buyer_ppm": "300000", "access": "keep", "reasons": "Half was there.", "clauses": ""}


async def test_a_form_of_another_session_changes_nothing(app: FastAPI, court: Court) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    other = await _signed_in(app, court.arbiters[1])
    action = f"{_page(court)}/claim"
    filled = await browser.form(_page(court), action)
    foreign = await other.form(_page(court), action)
    before = await court.facts()
    without = {name: value for name, value in filled.items() if name != "csrf_token"}
    for fields in (
        without,
        {**filled, "csrf_token": ""},
        {**filled, "csrf_token": foreign["csrf_token"]},
        {**filled, "csrf_token": filled["csrf_token"][:-1] + "é"},
    ):
        answer = await browser.post(action, fields, expect=403)
        assert "csrf_refused" in answer.text
    await browser.post(action, filled, expect=403, headers={"Sec-Fetch-Site": "cross-site"})
    await browser.post(action, filled, expect=403, headers={"Sec-Fetch-Site": "same-site"})
    await Browser.on(app).post(action, filled)  # to the sign-in page
    answer = await browser.http.post(action, json=filled)
    assert answer.status_code == 400
    assert await court.facts() == before
    assert await court.status() == "under_review"


async def test_a_form_sent_twice_has_one_effect(app: FastAPI, court: Court) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    action = f"{_page(court)}/claim"
    filled = await browser.form(_page(court), action)
    first = await browser.post(action, filled)
    second = await browser.post(action, filled)
    assert first.headers["location"] == second.headers["location"] == f"{_page(court)}?done=claim"
    assert "The case is yours." in await browser.get(first.headers["location"])
    steps = (await court.get(court.operator, "timeline")).json()["items"]
    assert [step["kind"] for step in steps].count("assigned") == 1


async def test_a_double_click_has_one_effect(app: FastAPI, court: Court) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    await browser.submit(_page(court), "claim")
    action = f"{_page(court)}/rule"
    filled = await browser.form(_page(court), action, RULING)
    answers = await asyncio.gather(*(browser.post(action, filled) for _ in range(5)))
    assert {answer.headers["location"] for answer in answers} == {f"{_page(court)}?done=rule"}
    rulings = (await court.get(court.operator, "rulings")).json()["items"]
    assert [(r["buyer_ppm"], r["access"], r["reasons"]) for r in rulings] == [
        (300_000, "keep", "Half was there.")
    ]


async def test_a_key_belongs_to_one_body(app: FastAPI, court: Court) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    await browser.submit(_page(court), "claim")
    action = f"{_page(court)}/rule"
    filled = await browser.form(_page(court), action, RULING)
    await browser.post(action, filled)
    answer = await browser.post(action, {**filled, "buyer_ppm": "1000000"}, expect=422)
    assert "idempotency_key_reused" in answer.text
    without = {name: value for name, value in filled.items() if name != KEY_FIELD}
    answer = await browser.post(action, without, expect=422)
    assert KEY_FIELD in answer.text
    answer = await browser.post(action, {**filled, KEY_FIELD: "short"}, expect=400)
    assert "idempotency_key_required" in answer.text
    assert len((await court.get(court.operator, "rulings")).json()["items"]) == 1


async def test_a_refusal_is_remembered_as_a_page(app: FastAPI, court: Court) -> None:
    first = await _signed_in(app, court.arbiters[0])
    second = await _signed_in(app, court.arbiters[1])
    action = f"{_page(court)}/claim"
    filled = await first.form(_page(court), action)
    await second.submit(_page(court), "claim")
    refusals = [await first.post(action, filled, expect=409) for _ in range(2)]
    for refusal in refusals:
        assert refusal.headers["content-type"] == "text/html; charset=utf-8"
        assert "dispute_assigned" in refusal.text
        assert f'href="{_page(court)}"' in refusal.text


@pytest.mark.parametrize(
    "changes",
    [
        {"buyer_ppm": "1000001"},
        {"buyer_ppm": "-1"},
        {"buyer_ppm": "0.5"},
        {"buyer_ppm": "NaN"},
        {"access": "both"},
        {"reasons": " "},
        {"reasons": "x" * 10_001},
        {"reasons": "\x00"},
        {"clauses": "\r\n".join(["c"] * 21)},
        {"clauses": "c" * 201},
        {"unknown": "field"},
    ],
)
async def test_bad_fields_are_refused_in_html(
    app: FastAPI, court: Court, changes: dict[str, str]
) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    await browser.submit(_page(court), "claim")
    before = await court.facts()
    answer = await browser.submit(_page(court), "rule", {**RULING, **changes}, expect=422)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Something in the form is not right" in answer.text
    assert await court.facts() == before


async def test_clauses_are_lines_and_line_ends_are_plain(app: FastAPI, court: Court) -> None:
    browser = await _signed_in(app, court.arbiters[0])
    await browser.submit(_page(court), "claim")
    typed = {**RULING, "clauses": "terms 3.1\r\n\r\n terms 4 \r\n", "reasons": "one\r\ntwo"}
    await browser.submit(_page(court), "rule", typed)
    (ruling,) = (await court.get(court.operator, "rulings")).json()["items"]
    assert ruling["clauses"] == ["terms 3.1", "terms 4"]
    assert ruling["reasons"] == "one\ntwo"


async def test_both_sides_accept_and_money_moves(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    case = await ruled(kernel, client, buyer_ppm=1_000_000)
    for side in (case.buyer, case.seller):
        browser = await _signed_in(app, side)
        await browser.submit(_page(case), "accept-ruling")
        # Nobody accepts twice.
        assert f"{_page(case)}/accept-ruling" not in await browser.get(_page(case))
    assert await case.status() == "final"
    assert await case.money() == {"escrow": 0, "frozen": 0, "buyer": 10_001, "seller": 0}
    assert "ruling carried out" in await browser.get(_page(case))


@pytest.mark.parametrize(("decision", "status"), [("approve", "ruled"), ("reject", "under_review")])
async def test_a_second_arbiter_decides_large_cases(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient, decision: str, status: str
) -> None:
    case = await in_review(kernel, client, price_minor=10_000_001)
    author = await _signed_in(app, case.arbiters[0])
    page = await author.get(_page(case))
    assert "a second arbiter has to approve" in page
    await author.submit(_page(case), "rule", RULING)
    assert "awaits a second arbiter" in await author.get(_page(case))
    assert f'action="{_page(case)}/review-ruling"' not in await author.get(_page(case))
    second = await _signed_in(app, case.arbiters[1])
    await second.submit(_page(case), "review-ruling", {"decision": decision, "comment": "Read it."})
    assert await case.status() == status


async def test_a_buyer_accepts_a_license(app: FastAPI, kernel: Kernel) -> None:
    trade = await make_trade(kernel, kind="license")
    page = f"/console/agreements/{trade.id}"
    seller = await _signed_in(app, trade.seller)
    assert f"{page}/accept" not in await seller.get(page)
    buyer = await _signed_in(app, trade.buyer)
    filled = await buyer.form(page, f"{page}/accept")
    answer = await buyer.post(f"{page}/accept", filled)
    shown = await buyer.get(answer.headers["location"])
    assert "settled" in shown
    assert f"{page}/accept" not in shown
    # Closed: the meter no longer refreshes.
    assert "every 2s" not in shown


async def test_operators_approve_and_reject(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    operator = await _signed_in(app, await make_party(kernel, Role.OPERATOR))
    product_id, _ = await make_product(kernel, seller, certified=False)
    product = show("prd", product_id)
    await client.post(f"/v1/products/{product}/submit", headers=seller.headers())
    page = f"/console/reviews/products/{product}"
    assert page in await operator.get("/console/reviews")
    answer = await operator.submit(page, "approve")
    shown = await operator.get(answer.headers["location"])
    assert "Approved." in shown
    assert "Nothing of this waits for a decision." in shown
    assert page not in await operator.get("/console/reviews")

    made = await make_listing(kernel, seller, live=False)
    listing = show("lst", made.listing_id)
    await client.post(f"/v1/listings/{listing}/submit", headers=seller.headers())
    page = f"/console/reviews/listings/{listing}"
    await operator.submit(page, "reject", {"reason": ""}, expect=422)
    await operator.submit(page, "reject", {"reason": "No <b>territory</b> is named."})
    assert "No &lt;b&gt;territory&lt;/b&gt; is named." in await operator.get(page)
    answer = await client.get(f"/v1/listings/{listing}", headers=seller.headers())
    assert answer.json()["status"] == "rejected"


async def test_listings_go_live_and_products_go_back_by_form(
    app: FastAPI, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    operator = await _signed_in(app, await make_party(kernel, Role.OPERATOR))
    made = await make_listing(kernel, seller, live=False)
    listing = show("lst", made.listing_id)
    await client.post(f"/v1/listings/{listing}/submit", headers=seller.headers())
    await operator.submit(f"/console/reviews/listings/{listing}", "approve")
    await operator.get(f"/console/listings/{listing}")
    product_id, _ = await make_product(kernel, seller, certified=False)
    product = show("prd", product_id)
    await client.post(f"/v1/products/{product}/submit", headers=seller.headers())
    await operator.submit(f"/console/reviews/products/{product}", "reject", {"reason": "Unclear."})
    assert "Unclear." in await operator.get(f"/console/reviews/products/{product}")
