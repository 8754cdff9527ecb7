"""Names of schemas in the API description that client generators can use.

Where two packages have a class of the same name, FastAPI names both after their modules and leaves
both their title; generators make classes from titles and drop the second one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

_PLACE = "#/components/schemas/"


def name_apart(document: dict[str, Any]) -> None:
    """Rename schemas that FastAPI named after modules to package and class, in place.

    ``pricing__models__Unit`` becomes ``PricingUnit``. Raises ValueError when one package has two
    classes of the same name.
    """
    schemas: dict[str, Any] = document["components"]["schemas"]
    renamed = {name: _readable(name) for name in schemas if "__" in name}
    taken = Counter([*renamed.values(), *(name for name in schemas if name not in renamed)])
    twice = sorted(name for name in renamed.values() if taken[name] > 1)
    if twice:
        raise ValueError(f"schemas of the same name in one package: {', '.join(twice)}")
    for old, new in renamed.items():
        schemas[new] = {**schemas.pop(old), "title": new}
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    _follow(document, {_PLACE + old: _PLACE + new for old, new in renamed.items()})


def _readable(name: str) -> str:
    *modules, own = name.split("__")
    package = modules[1] if modules[0] == "market" else modules[0]
    return package.title().replace("_", "") + own


def _follow(value: Any, moved: dict[str, str]) -> None:
    if isinstance(value, dict):
        place = value.get("$ref")
        if place in moved:
            value["$ref"] = moved[place]
        for key, held in value.items():
            if key == "mapping" and isinstance(held, dict):
                value[key] = {word: moved.get(at, at) for word, at in held.items()}
            else:
                _follow(held, moved)
    elif isinstance(value, list):
        for held in value:
            _follow(held, moved)
