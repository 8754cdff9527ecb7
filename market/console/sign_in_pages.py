"""Signing in with a credential, and signing out."""

import re
import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import StringConstraints

from market.console import sessions
from market.console.forms import CsrfForm
from market.console.readings import party_names
from market.console.rendering import Visit, render
from market.console.routes import SIGN_IN, ConsoleRoute, visit_of
from market.kernel.errors import MarketError
from market.parties.access import ACCESS_TOKEN_TYP, actor_of
from market.parties.errors import ClientSuspended, InvalidClient, WrongEnvironment
from market.parties.oauth import TokenRequest
from market.parties.throttle import address_of
from market.parties.tokens import log_in

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)

HOME: Final = "/console"
# Only pages of the console: a sign-in link must not lead elsewhere.
_NEXT_FORM: Final = re.compile(r"^/console(/[A-Za-z0-9_-]+)*(\?[A-Za-z0-9_=&%.~+-]*)?$")
_NEXT_CHARS_MAX: Final = 1_000


class SignInForm(CsrfForm):
    """What the sign-in page sends; ``repr`` is off because it holds a secret."""

    client_id: Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
    client_secret: Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
    next: Annotated[str, StringConstraints(max_length=_NEXT_CHARS_MAX)] = HOME

    def __repr__(self) -> str:
        return "SignInForm(…)"


def _safe(target: str) -> str:
    return target if _NEXT_FORM.match(target) else HOME


@router.get(SIGN_IN)
async def show_sign_in(
    request: Request,
    next_: Annotated[str, Query(alias="next", max_length=_NEXT_CHARS_MAX)] = HOME,
    ended: bool = False,
) -> Response:
    """The form, bound to this browser by a fresh cookie."""
    return _page(visit_of(request), next_, notice="sign_in.ended" if ended else None)


@router.post(SIGN_IN, openapi_extra={"x-idempotent": False})
async def sign_in(request: Request, form: Annotated[SignInForm, Form()]) -> Response:
    """Start a session; refusals show the form again, throttled as the token endpoint is."""
    visit = visit_of(request)
    kernel = visit.kernel
    asked = TokenRequest(form.client_id, form.client_secret, frozenset())
    try:
        token = await log_in(kernel, asked, address=address_of(request))
    except MarketError as refusal:
        return _refused(visit, form, refusal)
    claims = kernel.keys.verify(
        ACCESS_TOKEN_TYP, token.access_token, audience=kernel.settings.audience
    )
    actor = await actor_of(kernel, claims)
    names = await party_names(kernel, [actor.party_id])
    response = RedirectResponse(_safe(form.next), status_code=303)
    sessions.start(kernel, response, actor, name=names[actor.party_id])
    return response


@router.post("/console/sign-out", openapi_extra={"x-idempotent": False})
async def sign_out(request: Request) -> Response:
    """End the session, also for copies of its cookie."""
    response = RedirectResponse(HOME, status_code=303)
    await sessions.end(visit_of(request).kernel, request, response)
    return response


def _refused(visit: Visit, form: SignInForm, refusal: MarketError) -> Response:
    keys = {
        ClientSuspended.code: "sign_in.suspended",
        WrongEnvironment.code: "sign_in.wrong_environment",
        InvalidClient.code: "sign_in.failed",
    }
    fallback = "sign_in.too_many" if refusal.status == 429 else "sign_in.closed"
    response = _page(
        visit,
        form.next,
        notice=keys.get(refusal.code, fallback),
        client_id=form.client_id,
        status=refusal.status,
    )
    if "Retry-After" in refusal.headers:
        response.headers["Retry-After"] = refusal.headers["Retry-After"]
    return response


def _page(
    visit: Visit, target: str, *, notice: str | None, client_id: str = "", status: int = 200
) -> Response:
    settings = visit.kernel.settings
    seed = visit.request.cookies.get(sessions.seed_cookie(settings)) or secrets.token_urlsafe(32)
    response = render(
        visit,
        "sign_in.html",
        status=status,
        csrf=sessions.csrf_of(seed),
        target=_safe(target),
        notice=notice,
        client_id=client_id,
    )
    name = sessions.seed_cookie(settings)
    sessions.set_cookie(settings, response, name, seed, max_age_s=sessions.SEED_TTL_S)
    return response
