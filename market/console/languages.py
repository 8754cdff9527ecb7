"""Which language a visitor reads: ``?lang=``, then the cookie, then Accept-Language (pure)."""

import re
from collections.abc import Mapping
from typing import Final

from market.console.messages import Language

LANGUAGE_COOKIE: Final = "market_language"
LANGUAGE_PARAM: Final = "lang"
LANGUAGE_COOKIE_S: Final = 365 * 86_400
# More entries than any browser sends; the rest of a longer header is not looked at.
RANGES_MAX: Final = 20

_QUALITY: Final = re.compile(r"^q=(0(\.\d{0,3})?|1(\.0{0,3})?)$")
_NAMES: Final = {"en": Language.EN, "zh": Language.ZH}


def asked(query: Mapping[str, str]) -> Language | None:
    """The language that ``?lang=`` names, if it names one of ours."""
    return _NAMES.get(query.get(LANGUAGE_PARAM, ""))


def short(language: Language) -> str:
    """What ``?lang=`` and the cookie call it."""
    return next(name for name, known in _NAMES.items() if known is language)


def negotiate(query: Mapping[str, str], cookies: Mapping[str, str], accept: str | None) -> Language:
    """The language of an answer; English when nothing else is wished."""
    chosen = asked(query) or _NAMES.get(cookies.get(LANGUAGE_COOKIE, ""))
    return chosen or _accepted(accept or "")


def _accepted(header: str) -> Language:
    """RFC 9110 §12.5.4: the best ``q`` wins, the earlier one at a tie."""
    best, language = 0.0, Language.EN
    for item in header.split(",")[:RANGES_MAX]:
        tag, _, parameter = item.partition(";")
        found = _NAMES.get(tag.strip().lower().partition("-")[0])
        quality = _quality(parameter.strip())
        if found is not None and quality > best:
            best, language = quality, found
    return language


def _quality(parameter: str) -> float:
    if not parameter:
        return 1.0
    match = _QUALITY.match(parameter)
    return float(match.group(1)) if match else 0.0
