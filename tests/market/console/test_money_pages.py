"""The pages where payment providers send people back to."""

import httpx
from fastapi import FastAPI

from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.market.console.browsing import Browser
from tests.market.parties.factories import Member, make_party


async def signed_in(app: FastAPI, member: Member) -> Browser:
    browser = Browser.on(app)
    await browser.sign_in(member)
    return browser


async def test_a_payer_sees_how_far_the_payment_is(
    app: FastAPI, client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.BUYER)
    made = {}
    for card in ("tok_success", "tok_delayed"):
        body = {"money": {"amount_minor": 1_250, "currency": "CNY"}, "card": card}
        answer = await client.post("/v1/top-ups", json=body, headers=member.headers())
        made[card] = f"/console/top-ups/{answer.json()['id']}"
    browser = await signed_in(app, member)
    page = await browser.get(made["tok_success"])
    assert "12.50 CNY" in page
    assert "paid" in page
    assert "has not confirmed yet" not in page
    assert "has not confirmed yet" in await browser.get(made["tok_delayed"])
    assert "等待支付机构确认" in await browser.get(f"{made['tok_delayed']}?lang=zh")
    stranger = await signed_in(app, await make_party(kernel, Role.BUYER))
    await stranger.get(made["tok_success"], expect=404)
    visitor = Browser.on(app)
    answer = await visitor.http.get(made["tok_success"])
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (
        303,
        "/console/sign-in",
    )


async def test_a_seller_sees_what_the_provider_asks_for(
    app: FastAPI, client: httpx.AsyncClient, kernel: Kernel
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    browser = await signed_in(app, seller)
    assert "There is no payout account yet" in await browser.get("/console/payout-account")
    await client.post("/v1/payout-accounts", headers=seller.headers())
    page = await browser.get("/console/payout-account")
    assert f"acct_sandbox_{seller.party_id.hex}" in page
    assert "收款账户" in await browser.get("/console/payout-account?lang=zh")
    buyer = await signed_in(app, await make_party(kernel, Role.BUYER))
    await buyer.get("/console/payout-account", expect=403)
