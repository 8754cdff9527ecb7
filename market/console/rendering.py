"""Pages from templates: everything escaped, undefined names refused, texts from the catalog."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from market.console import languages
from market.console.assets import asset_url
from market.console.messages import CATALOG, Language, say, word
from market.console.sessions import VISITOR, Session
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.money import display
from market.kernel.schemas import LocalizedText
from market.kernel.security import Actor

_PPM_PER_PERCENT: Final = 10_000
_BAR_UNITS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to the console: who, in which language."""

    kernel: Kernel
    request: Request
    language: Language
    session: Session | None = None

    @property
    def actor(self) -> Actor:
        """Who is signed in; for visitors, an actor without any right."""
        return VISITOR if self.session is None else self.session.actor

    @property
    def partial(self) -> bool:
        """Whether htmx asks for a part of the page only."""
        headers = self.request.headers
        return "hx-request" in headers and "hx-history-restore-request" not in headers


def money(amount_minor: int, currency: str) -> str:
    """``12.50 CNY``."""
    return display(amount_minor, currency)


def number(value: int) -> str:
    """``336,776``."""
    return f"{value:,}"


def percent(ppm: int) -> str:
    """Exact: ``30 %`` for 300,000 ppm, ``33.3333 %`` for 333,333."""
    whole, rest = divmod(ppm, _PPM_PER_PERCENT)
    digits = f"{rest:04d}".rstrip("0")
    return f"{whole}.{digits} %" if digits else f"{whole} %"


def score(value: str) -> str:
    """A quality score ``0.9731`` as ``97.31 %``."""
    return percent(int(value.replace(".", "")) * 100)


def moment(value: datetime | str) -> str:
    """``2026-11-22 15:07:31 UTC``."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def bar(part: int, whole: int) -> int:
    """The width of a bar in thousandths; something that is not nothing is never invisible."""
    if whole <= 0 or part <= 0:
        return 0
    return max(4, min(_BAR_UNITS, part * _BAR_UNITS // whole))


def localized(language: Language, text: LocalizedText | Mapping[str, Any]) -> str:
    """A title in the visitor's language, else in English."""
    found = text if isinstance(text, LocalizedText) else LocalizedText.model_validate(text)
    return found.zh or found.en if language is Language.ZH else found.en


def span(language: Language, seconds: int) -> str:
    """A length of time, as ``3 d 4 h`` or ``4 h 5 min``."""
    minutes = abs(seconds) // 60
    days, hours = minutes // 1_440, minutes // 60 % 24
    if days:
        return say(language, "time.days", days=days, hours=hours)
    return say(language, "time.hours", hours=hours, minutes=minutes % 60)


def address(path: str, parameters: Mapping[str, object], **changes: object) -> str:
    """``path`` with a query string; None and empty values are left out."""
    merged = {**parameters, **changes}
    query = urlencode({name: value for name, value in merged.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def identifier(value: UUID, prefix: str) -> str:
    """The wire form of an id, as a filter."""
    return show(prefix, value)


def new_form_key() -> str:
    """A fresh Idempotency-Key for one rendered form."""
    return secrets.token_urlsafe(24)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("market.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bar": bar,
        "identifier": identifier,
        "moment": moment,
        "number": number,
        "percent": percent,
        "score": score,
    }
    made.globals |= {
        "known": CATALOG,
        "address": address,
        "asset_url": asset_url,
        "money": money,
        "new_form_key": new_form_key,
    }
    return made


ENVIRONMENT: Final = _environment()


def render(visit: Visit, template: str, /, *, status: int = 200, **context: object) -> HTMLResponse:
    """A page or a part of one."""
    language = visit.language
    url = visit.request.url
    # After a form was refused, the links of the page lead to where it came from.
    here = url.path if visit.request.method == "GET" else url.path.rpartition("/")[0]
    query = dict(visit.request.query_params) if visit.request.method == "GET" else {}
    html = ENVIRONMENT.get_template(template).render(
        t=partial(say, language),
        word=partial(word, language),
        text=partial(localized, language),
        span=partial(span, language),
        language=language,
        language_links=[
            (languages.short(known), address(here, query, lang=languages.short(known)))
            for known in Language
        ],
        session=visit.session,
        actor=visit.actor,
        roles=sorted(role.value for role in visit.actor.roles),
        here=here,
        done=visit.request.query_params.get("done", ""),
        **context,
    )
    return HTMLResponse(html, status_code=status)
