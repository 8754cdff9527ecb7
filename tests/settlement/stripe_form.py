"""Stripe's wire forms for the fake: nested form fields in, plain JSON out."""

import re
from typing import Any

Json = dict[str, Any]


def public(value: Any) -> Any:
    """Without the fake's own notes."""
    if isinstance(value, dict):
        return {name: public(item) for name, item in value.items() if not name.startswith("_")}
    return [public(item) for item in value] if isinstance(value, list) else value


def nest(pairs: list[tuple[str, str]]) -> Json:
    """``a[b][0]=c`` as nested dictionaries, list positions as keys."""
    made: Json = {}
    for name, value in pairs:
        first, *rest = re.findall(r"[^\[\]]+", name)
        place = made
        for part in [first, *rest][:-1]:
            place = place.setdefault(part, {})
        place[rest[-1] if rest else first] = value
    return made
