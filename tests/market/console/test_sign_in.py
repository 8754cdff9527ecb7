"""Sessions: who gets one, what it is worth, what ends it."""

from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

import jwt
import pytest
from fastapi import FastAPI, Request, Response

from market.console import sessions
from market.console.sessions import SESSION_TTL_S
from market.kernel.context import Kernel
from market.kernel.redis import open_redis
from market.kernel.security import Role
from market.parties.credentials import create_credential, revoke_credential
from market.parties.schemas import CredentialRequest, Suspension
from market.parties.throttle import LOGINS_PER_CLIENT_MINUTE
from market.parties.verification import suspend_party
from tests.listings.factories import any_operator
from tests.market.console.browsing import Browser
from tests.market.parties.factories import make_party
from tests.settlement.factories import move_clock

HOME = "/console/agreements"


async def test_a_credential_opens_a_session(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER, name="Quiet Harbor Insurance")
    browser = Browser.on(app)
    assert "Sign in" in await browser.get("/console")
    answer = await browser.sign_in(buyer)
    assert answer.headers["location"] == "/console"
    cookie = next(c for c in answer.headers.get_list("set-cookie") if "market_session=" in c)
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly",
        f"Max-Age={SESSION_TTL_S}",
        "Path=/",
        "SameSite=strict",
    }
    page = await browser.get(HOME)
    assert "Quiet Harbor Insurance" in page
    assert "Sign out" in page


async def test_without_a_session_pages_lead_to_the_sign_in_and_back(
    app: FastAPI, kernel: Kernel
) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    answer = await browser.http.get(f"{HOME}?status=active")
    assert answer.status_code == 303
    target = f"/console/sign-in?next={quote(HOME, safe='')}%3Fstatus%3Dactive"
    assert answer.headers["location"] == target
    page = await browser.get(target)
    assert f'value="{HOME}?status=active"' in page
    answer = await browser.sign_in(buyer, next=f"{HOME}?status=active")
    assert answer.headers["location"] == f"{HOME}?status=active"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/console",
        "/console//evil.example",
        "/console\\evil",
        "/v1/parties",
        "javascript:alert(1)",
        "/console/../v1",
        "/console\r\nSet-Cookie: a=b",
    ],
)
async def test_the_way_back_stays_in_the_console(app: FastAPI, kernel: Kernel, target: str) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    answer = await Browser.on(app).sign_in(buyer, next=target)
    assert answer.headers["location"] == "/console"


async def test_wrong_secrets_get_one_text_and_no_session(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    other = await make_party(kernel, Role.BUYER)
    texts = set()
    for fields in (
        {"client_secret": other.client_secret},
        {"client_secret": "nonsense"},
        {"client_id": "crd_" + "0" * 32},
        {"client_id": '"><script>alert(1)</script>'},
    ):
        browser = Browser.on(app)
        answer = await browser.sign_in(buyer, expect=401, **fields)
        assert "market_session" not in answer.headers.get("set-cookie", "")
        assert "<script>alert" not in answer.text
        assert buyer.client_secret not in answer.text
        assert other.client_secret not in answer.text
        texts.add(answer.text.split('role="alert">')[1].split("<")[0])
    assert texts == {"The client id or the client secret is wrong."}


async def test_signing_in_is_throttled(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    for _ in range(LOGINS_PER_CLIENT_MINUTE):
        await kernel.limits.hit(
            "login_client", buyer.actor.credential_id.hex, limit=LOGINS_PER_CLIENT_MINUTE
        )
    answer = await browser.sign_in(buyer, expect=429)
    assert int(answer.headers["retry-after"]) >= 1
    assert "Too many attempts" in answer.text
    assert "market_session" not in answer.headers.get("set-cookie", "")


async def test_the_sign_in_form_belongs_to_its_browser(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    first, second = Browser.on(app), Browser.on(app)
    filled = await first.form(
        "/console/sign-in",
        "/console/sign-in",
        {"client_id": buyer.client_id, "client_secret": buyer.client_secret},
    )
    await second.get("/console/sign-in")
    answer = await second.post("/console/sign-in", filled, expect=403)
    assert "csrf_refused" in answer.text
    assert "set-cookie" not in answer.headers
    await Browser.on(app).post("/console/sign-in", filled, expect=403)
    await first.post("/console/sign-in", filled)


async def test_a_revoked_credential_ends_its_session_at_once(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    await create_credential(kernel, buyer.actor, CredentialRequest(label="second"))
    browser = Browser.on(app)
    await browser.sign_in(buyer)
    await browser.get(HOME)
    await revoke_credential(kernel, buyer.actor, buyer.actor.credential_id)
    answer = await browser.http.get(HOME)
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("ended=1")
    assert 'market_session=""; ' in answer.headers["set-cookie"]
    assert "Your session has ended" in await browser.get(answer.headers["location"])
    assert "Sign in" in await browser.get("/console")


async def test_a_suspended_party_is_out_at_once(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    await browser.sign_in(buyer)
    await suspend_party(kernel, any_operator(), buyer.party_id, Suspension(reason="test"))
    part = await browser.http.get(HOME, headers={"HX-Request": "true"})
    assert part.status_code == 401
    assert part.headers["hx-redirect"].startswith("/console/sign-in?")
    answer = await Browser.on(app).sign_in(buyer, expect=401)
    assert "This organization is suspended" in answer.text


async def test_signing_out_also_ends_copies_of_the_cookie(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser, thief = Browser.on(app), Browser.on(app)
    await browser.sign_in(buyer)
    cookie = browser.http.cookies["market_session"]
    thief.http.cookies.set("market_session", cookie)
    await thief.get(HOME)
    filled = await browser.form(HOME, "/console/sign-out")
    await browser.post("/console/sign-out", {"csrf_token": "0" * 64}, expect=403)
    await thief.get(HOME)
    answer = await browser.post("/console/sign-out", filled)
    assert 'market_session=""; ' in answer.headers["set-cookie"]
    await thief.get(HOME, expect=303)
    await browser.get(HOME, expect=303)


async def test_a_session_is_no_token_and_a_token_no_session(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    await browser.sign_in(buyer)
    session = browser.http.cookies["market_session"]
    api = Browser.on(app)
    for header in (session, f"{session}x"):
        answer = await api.http.get("/v1/agreements", headers={"Authorization": f"Bearer {header}"})
        assert answer.status_code == 401
    for forged in (buyer.token, session[:-2], jwt.encode({"sub": buyer.id}, "k" * 32)):
        visitor = Browser.on(app)
        visitor.http.cookies.set("market_session", forged)
        await visitor.get(HOME, expect=303)


async def test_a_session_is_bounded(app: FastAPI, kernel: Kernel) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    await browser.sign_in(buyer)
    await move_clock(kernel, timedelta(seconds=SESSION_TTL_S - 60))
    await browser.get(HOME)
    await move_clock(kernel, timedelta(seconds=120))
    async with kernel.unit_of_work():
        pass
    await browser.get(HOME, expect=303)


def test_over_https_the_cookie_is_secure_and_bound_to_the_host(kernel: Kernel) -> None:
    settings = kernel.settings.model_copy(update={"public_url": "https://market.example"})
    assert sessions.session_cookie(settings) == "__Host-market_session"
    response = Response()
    sessions.set_cookie(settings, response, "__Host-a", "b", max_age_s=5)
    assert "Secure" in response.headers["set-cookie"]
    assert not sessions.secure(kernel.settings)


async def test_without_the_cache_sessions_go_on_and_signing_out_still_forgets(
    app: FastAPI, kernel: Kernel
) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    browser = Browser.on(app)
    await browser.sign_in(buyer)
    away = replace(kernel, redis=open_redis("redis://127.0.0.1:1/0"))
    cookie = f"market_session={browser.http.cookies['market_session']}".encode()
    request = Request({"type": "http", "method": "GET", "headers": [(b"cookie", cookie)]})
    found = await sessions.find(away, request)
    assert found is not None
    assert found.actor.party_id == buyer.party_id
    response = Response()
    await sessions.end(away, request, response)
    assert 'market_session=""; ' in response.headers["set-cookie"]
    nobody = Request({"type": "http", "method": "GET", "headers": []})
    assert await sessions.find(away, nobody) is None
    await sessions.end(kernel, nobody, Response())
    await browser.get(HOME)
