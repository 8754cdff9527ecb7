"""The route class of every console page: CSRF, one effect per form, HTML errors, headers.

A form posts to ``<page>/<act>`` with a hidden ``idempotency_key``, through the same IdempotentRoute
as the API; the stored answer becomes a redirect to ``<page>?done=<act>``, so that a form that was
sent twice has one effect and shows one result.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from fastapi import Request, Response
from fastapi.datastructures import FormData
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from market.console import languages, sessions
from market.console.errors import CsrfRefused, FormInvalid, PageNotFound, SignInNeeded
from market.console.rendering import Visit, address, render
from market.kernel.db import transient
from market.kernel.errors import Invalid, MarketError
from market.kernel.http import (
    Handler,
    IdempotentRoute,
    kernel_of,
    problem_body,
    request_id_of,
)
from market.kernel.idempotency import KeyInUse
from market.kernel.logging import get_logger

KEY_FIELD: Final = "idempotency_key"
SIGN_IN: Final = "/console/sign-in"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
CONTENT_POLICY: Final = (
    "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'; "
    "object-src 'none'"
)
# A double click sends the form again while the first still runs: wait for its answer, 3 s in all.
_PATIENCE_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)
_TRUSTED_SITES: Final = frozenset({None, "same-origin", "none"})

_log = get_logger("market.console")


class ConsoleRoute(IdempotentRoute):
    """See the module. Signing in and out opt out of keys by ``x-idempotent``, as in the API."""

    async def key_of(self, request: Request) -> str | None:
        value = (await request.form()).get(KEY_FIELD)
        return value if isinstance(value, str) else None

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                if request.method == "POST":
                    await _guard(request)
                response = await _patiently(handler, request)
            except SignInNeeded as needed:
                response = _to_sign_in(request, needed)
            except MarketError as refusal:
                response = _refused(request, refusal)
            except RequestValidationError as error:
                response = _refused(request, _invalid(error))
            except HTTPException as error:
                response = _refused(
                    request, PageNotFound() if error.status_code == 404 else FormInvalid()
                )
            except Exception as error:  # noqa: BLE001 - as the outermost middleware, but in HTML
                _log.exception("console_failed", path=request.url.path)
                response = _refused(request, transient(error) or MarketError())
            if request.method == "POST":
                response = _landed(request, response)
            return _finished(request, response)

        return page


def visit_of(request: Request) -> Visit:
    """The visit of a request, without its session."""
    language = languages.negotiate(
        request.query_params, request.cookies, request.headers.get("accept-language")
    )
    return Visit(kernel_of(request), request, language)


async def _guard(request: Request) -> None:
    """Refuse a form of another site or session, before anything else looks at it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise FormInvalid
    # Read first: the key's hash covers the bytes, and a parsed stream cannot be read again.
    await request.body()
    form: FormData = await request.form()
    if request.headers.get("sec-fetch-site") not in _TRUSTED_SITES:
        raise CsrfRefused
    settings = kernel_of(request).settings
    if request.url.path == SIGN_IN:
        cookie = request.cookies.get(sessions.seed_cookie(settings))
    else:
        cookie = request.cookies.get(sessions.session_cookie(settings))
        if not cookie:
            raise SignInNeeded
    sessions.check_csrf(cookie, form.get(sessions.CSRF_FIELD))


async def _patiently(handler: Handler, request: Request) -> Response:
    for pause_s in _PATIENCE_S:
        try:
            return await handler(request)
        except KeyInUse:
            await asyncio.sleep(pause_s)
    return await handler(request)


def _page_of(request: Request) -> str:
    """The page that a form belongs to."""
    path = request.url.path
    return path.rpartition("/")[0] if request.method == "POST" else path


def _landed(request: Request, response: Response) -> Response:
    """What the browser gets for the API's answer to a form."""
    kind = response.headers.get("content-type", "")
    if response.status_code < 300 and kind.startswith("application/json"):
        act = request.url.path.rpartition("/")[2]
        return RedirectResponse(address(_page_of(request), {"done": act}), status_code=303)
    if kind.startswith("application/problem+json"):
        return _problem_page(request, orjson.loads(bytes(response.body)))
    return response


def _to_sign_in(request: Request, needed: SignInNeeded) -> Response:
    target = _page_of(request)
    if request.method == "GET" and request.url.query and "hx-request" not in request.headers:
        target = f"{target}?{request.url.query}"
    if "hx-request" in request.headers:
        # The page around the part is what the visitor wants back.
        target = urlsplit(request.headers.get("hx-current-url", "")).path
    location = address(SIGN_IN, {"next": target, "ended": "1" if needed.ended else None})
    response: Response = RedirectResponse(location, status_code=303)
    if "hx-request" in request.headers:
        response = Response(status_code=401, headers={"HX-Redirect": location})
    settings = kernel_of(request).settings
    if needed.ended:
        sessions.drop_cookie(settings, response, sessions.session_cookie(settings))
    return response


def _refused(request: Request, refusal: MarketError) -> Response:
    response = _problem_page(request, orjson.loads(problem_body(refusal, request_id_of(request))))
    if "Retry-After" in refusal.headers:
        response.headers["Retry-After"] = refusal.headers["Retry-After"]
    return response


def _problem_page(request: Request, problem: dict[str, Any]) -> Response:
    visit: Visit = getattr(request.state, "visit", None) or visit_of(request)
    status = int(problem["status"])
    template = "_problem.html" if visit.partial else "problem.html"
    shown = {name: problem.get(name) for name in ("code", "detail", "hint", "param", "request_id")}
    return render(
        visit,
        template,
        status=status,
        problem_key=_title_key(status),
        back=_page_of(request) if request.method == "POST" else "/console",
        **shown,
    )


def _title_key(status: int) -> str:
    known = {400, 401, 403, 404, 409, 422, 429, 500, 503}
    near = {402: 409, 410: 409, 412: 409, 413: 422, 415: 422}
    return f"problem.{near.get(status, status if status in known else 500)}"


def _invalid(error: RequestValidationError) -> MarketError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    if location[0] == "path":
        return PageNotFound()
    return Invalid(str(first["msg"])[:300], param=".".join(location[1:])[:200] or location[0])


def _finished(request: Request, response: Response) -> Response:
    if "content-security-policy" not in response.headers:
        response.headers["Content-Security-Policy"] = CONTENT_POLICY
    chosen = languages.asked(request.query_params)
    if chosen is not None:
        sessions.set_cookie(
            kernel_of(request).settings,
            response,
            languages.LANGUAGE_COOKIE,
            languages.short(chosen),
            max_age_s=languages.LANGUAGE_COOKIE_S,
        )
    return response
