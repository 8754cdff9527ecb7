"""The console as people use it: a real Chromium against a real server, by mouse and keyboard.

Every page is watched: a request to another site, a script error or a violation of the content
policy fails the test that caused it.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from market import serving
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.parties.credentials import create_credential, revoke_credential
from market.parties.schemas import CredentialRequest
from tests.contracts.dispute_factories import in_review, opened, text
from tests.contracts.factories import bearer, make_trade, mint
from tests.e2e.chromium import VIEWPORT, Watch, chromium, rendered
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@dataclass(frozen=True)
class Desk:
    """A server and a browser."""

    url: str
    browser: Browser

    @asynccontextmanager
    async def page(
        self, member: Member | None = None, *, scripts: bool = True
    ) -> AsyncIterator[Page]:
        """A fresh window, signed in by keyboard; fails when something forbidden happened."""
        context = await self.browser.new_context(
            viewport=VIEWPORT, locale="en-US", java_script_enabled=scripts, base_url=self.url
        )
        watch = Watch(self.url)
        page = await context.new_page()
        watch.attach(page)
        if member is not None:
            await page.goto("/console/sign-in")
            # The first field has the focus; Tab leads to the second, Enter sends. A browser focuses
            # it with the first rendering, which may come after "load": keys before are lost.
            name, secret = page.get_by_label("Client id"), page.get_by_label("Client secret")
            await expect(name).to_be_focused()
            if scripts:
                await rendered(page)
            await page.keyboard.type(member.client_id)
            await expect(name).to_have_value(member.client_id)
            await page.keyboard.press("Tab")
            await expect(secret).to_be_focused()
            await page.keyboard.type(member.client_secret)
            await expect(secret).to_have_value(member.client_secret)
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"{self.url}/console")
        try:
            yield page
        finally:
            await context.close()
        assert watch.foreign == []
        assert watch.errors == []


@pytest.fixture(scope="module")
def url(settings: Settings, kernel: Kernel) -> Iterator[str]:
    listener = serving.bind("127.0.0.1", 0)
    with serving.in_thread(settings, listener) as served:
        yield served


@pytest.fixture(scope="module")
async def desk(url: str) -> AsyncIterator[Desk]:
    async with chromium() as browser:
        yield Desk(url, browser)


async def test_search_is_live_in_both_languages(desk: Desk, kernel: Kernel) -> None:
    seller = await make_party(kernel, Role.SELLER)
    for english, chinese, category in (
        ("Tide tables", "潮汐表", "weather"),
        ("Harbor arrivals", "港口到港记录", "transport"),
        ("Harbor weather", "港口气象", "weather"),
    ):
        made = await make_listing(
            kernel, seller, title={"en": english, "zh": chinese}, category=category
        )
        await make_plan(kernel, seller, made.listing_id)
    async with desk.page() as page:
        await page.goto("/console")
        hits = page.locator(".hits h2")
        await expect(hits).to_have_count(3)
        await rendered(page)
        await page.get_by_label("Search").press_sequentially("harbor", delay=20)
        await expect(page).to_have_url(re.compile(r"\?q=harbor$"))
        await expect(hits).to_have_count(2)
        # Not the link of the page for "harb", which has the same hits.
        weather = page.get_by_role("link", name=re.compile("^Weather"))
        await expect(weather).to_have_attribute("href", re.compile(r"q=harbor(&|$)"))
        await weather.click()
        await expect(hits).to_have_text(["Harbor weather"])
        # The chosen field stays while one goes on typing.
        await page.get_by_label("Search").fill("")
        await expect(hits).to_have_count(2)
        await page.go_back()
        await expect(page.get_by_label("Search")).to_have_value("harbor")
        await page.get_by_role("link", name="中文").click()
        await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
        await page.get_by_label("搜索").fill("港口")
        await expect(hits).to_have_text(["港口气象"])
        await page.get_by_role("link", name="港口气象").click()
        await expect(page.get_by_role("heading", name="样例")).to_be_visible()
        await expect(page.locator(".book")).to_have_count(1)


async def test_the_meter_moves_while_rows_are_delivered(
    desk: Desk, kernel: Kernel, url: str
) -> None:
    trade = await make_trade(kernel, lots=2, lot_units=1_000)
    token = await mint(kernel, trade)
    async with desk.page(trade.buyer) as page:
        await page.get_by_role("link", name="Agreements").click()
        await page.get_by_role("link", name="Flight delays").click()
        remaining, bar = page.locator("#meter-remaining"), page.locator("#meter rect.fill")
        await expect(remaining).to_have_text("2,000")
        await expect(bar).to_have_count(0)
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.get("/v1/delivery/rows?limit=500", headers=bearer(token))
            assert answer.status_code == 200
        await expect(remaining).to_have_text("1,500")
        await expect(bar).to_have_attribute("width", "250")
        await page.get_by_role("link", name="Open the signed trace").click()
        await page.get_by_text("Deliveries", exact=True).click()
        await expect(page.locator("details[open] pre")).to_contain_text('"units": 500')


async def test_an_arbiter_claims_previews_and_rules_once(
    desk: Desk, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client, assigned=False)
    async with desk.page(court.arbiters[0]) as page:
        await page.get_by_role("link", name="Arbitration").click()
        await page.get_by_role("link", name="incomplete").click()
        await page.get_by_role("button", name="Take this case").click()
        await expect(page.get_by_role("status")).to_have_text("The case is yours.")
        # The slider by keyboard: two steps of one percent down from everything.
        await rendered(page)
        await page.get_by_label("Buyer's part (slider)").focus()
        await page.keyboard.press("ArrowLeft")
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#preview-buyer")).to_have_text("98.01 CNY")
        await expect(page.locator("#ruling-ppm")).to_have_value("980000")
        await page.locator("#ppm").fill("333333")
        await expect(page.locator("#preview-buyer")).to_have_text("33.34 CNY")
        await expect(page.locator("#preview-seller")).to_have_text("63.34 CNY")
        await expect(page.locator("#ruling-ppm")).to_have_value("333333")
        await page.get_by_label("Access of the buyer").select_option("keep")
        await page.get_by_label("Reasons").fill("Two thirds were there.")
        await page.get_by_label("Clauses, one a line").fill("terms 3.1\nterms 4")
        await page.get_by_role("button", name="Issue the ruling").dblclick()
        await expect(page.get_by_role("status")).to_have_text("The ruling is on record.")
        await expect(page.locator("article.ruling")).to_have_count(1)
        await expect(page.locator("article.ruling")).to_contain_text("33.3333 % to the buyer")
    rulings = (await court.get(court.operator, "rulings")).json()["items"]
    assert [(r["buyer_ppm"], r["clauses"]) for r in rulings] == [
        (333_333, ["terms 3.1", "terms 4"])
    ]
    assert await court.status() == "ruled"


async def test_evidence_is_shown_and_never_run(
    desk: Desk, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    await court.post(court.buyer, "escalate", expect=200)
    piece = text(EVIL, title=f"T {EVIL}"[:200], media_type="text/html")
    await court.post(court.seller, "evidence", piece, expect=201)
    async with desk.page(court.buyer) as page:
        await page.goto(f"/console/disputes/{court.dispute_id}")
        await expect(page.locator(".side pre")).to_have_text(EVIL)
        assert await page.title() == "Dispute · Data Element Market"
        assert await page.locator("main script, main img").count() == 0
        async with page.expect_download() as download:
            await page.locator(".side").get_by_role("link", name="Download").click()
        file = await download.value
        assert file.suggested_filename.endswith(".txt")


async def test_an_operator_reviews_without_scripts(
    desk: Desk, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    operator = await make_party(kernel, Role.OPERATOR)
    made = await make_listing(kernel, seller, live=False, title={"en": "Buoys"})
    listing = show("lst", made.listing_id)
    await client.post(f"/v1/listings/{listing}/submit", headers=seller.headers())
    async with desk.page(operator, scripts=False) as page:
        await page.get_by_role("link", name="Reviews").click()
        await page.get_by_role("link", name="Buoys").click()
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("status")).to_have_text("Approved.")
        await page.goto("/console?q=buoys")
        await expect(page.locator(".hits h2")).to_have_text(["Buoys"])


async def test_a_session_ends_under_an_open_page(desk: Desk, kernel: Kernel) -> None:
    trade = await make_trade(kernel)
    await create_credential(kernel, trade.buyer.actor, CredentialRequest(label="second"))
    context = await desk.browser.new_context(base_url=desk.url)
    page = await context.new_page()
    await page.goto(f"/console/sign-in?next=/console/agreements/{trade.id}")
    await page.get_by_label("Client id").fill(trade.buyer.client_id)
    await page.get_by_label("Client secret").fill(trade.buyer.client_secret)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#meter-remaining")).to_have_text("1,000")
    await revoke_credential(kernel, trade.buyer.actor, trade.buyer.actor.credential_id)
    # The next refresh of the meter, within 2 s, leads to the sign-in page, and back afterwards.
    await page.wait_for_url(re.compile(r"/console/sign-in\?"))
    await expect(page.get_by_role("alert")).to_have_text("Your session has ended. Sign in again.")
    assert await page.locator("[name=next]").input_value() == f"/console/agreements/{trade.id}"
    await context.close()


async def test_pages_are_named_labeled_and_reachable_by_keyboard(
    desk: Desk, kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client)
    operator = court.operator
    paths = (
        "/console",
        "/console/agreements",
        f"/console/agreements/{court.trade.id}",
        f"/console/agreements/{court.trade.id}/trace",
        "/console/arbitration",
        "/console/disputes",
        f"/console/disputes/{court.dispute_id}",
        "/console/reviews",
        f"/console/listings/{show('lst', court.trade.plan.listing_id)}",
    )
    async with desk.page(operator) as page:
        for path in paths:
            await page.goto(path)
            assert await page.locator("h1").count() == 1, path
            await rendered(page)
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
            faults = await page.evaluate(_FAULTS)
            assert faults == [], path
            # Dense, but never wider than the window.
            assert await page.evaluate("document.documentElement.scrollWidth") <= 1280, path


# Fields without a label, links and buttons without a name, pictures without a text, repeated ids.
_FAULTS = """() => {
  const faults = [];
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!field.labels.length) faults.push(`no label: ${field.outerHTML}`);
  for (const item of document.querySelectorAll("a, button"))
    if (!item.textContent.trim()) faults.push(`no name: ${item.outerHTML}`);
  for (const image of document.querySelectorAll("img:not([alt]), svg:not([aria-label])"))
    faults.push(`no text: ${image.outerHTML}`);
  const seen = new Set();
  for (const { id } of document.querySelectorAll("[id]"))
    seen.has(id) ? faults.push(`repeated id: ${id}`) : seen.add(id);
  for (const item of document.querySelectorAll("[aria-labelledby]"))
    if (!seen.has(item.getAttribute("aria-labelledby"))) faults.push(item.outerHTML.slice(0, 99));
  return faults;
}"""
