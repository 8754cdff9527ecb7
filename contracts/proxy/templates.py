"""From an operation and its parameters to one request of an upstream. Pure.

Parameters that the path names go there, the others into the query (GET) or a JSON body (POST).
A value can never leave its place: path values are encoded whole and may not be dots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from contracts.outbound.base_urls import DOTS, PATH_PIECE
from contracts.proxy.errors import OperationInvalid, ParametersInvalid

# What every request says of itself; of the buyer's headers none passes.
USER_AGENT: Final = "data-element-market-proxy"
URL_MAX_CHARS: Final = 8_000
BODY_MAX_BYTES: Final = 256 << 10
_HOLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")
_TEMPLATE: Final = re.compile(rf"(/({PATH_PIECE}|{_HOLE.pattern})*)+")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request to an upstream. ``url`` has no fragment and no user."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Injected:
    """A secret and its place; ``bare`` is it without its prefix."""

    place: str
    name: str
    value: str
    bare: str


def checked_path(path: str, parameters: Mapping[str, Any], *, param: str) -> str:
    """The path template. Raises OperationInvalid (422).

    Each ``{name}`` must be a required property of the operation's parameters.
    """
    if not _TEMPLATE.fullmatch(path):
        raise OperationInvalid("The path is not a template like /v1/items/{id}.", param=param)
    if DOTS & set(path.split("/")) or "%2e" in path.lower():
        raise OperationInvalid("The path may not climb.", param=param)
    properties, required = parameters.get("properties"), parameters.get("required")
    known = set(properties) if isinstance(properties, dict) else set()
    known &= set(required) if isinstance(required, list) else set()
    for name in holes(path):
        if name not in known:
            raise OperationInvalid(
                f"{{{name}}} must be a required property of the parameters.", param=param
            )
    return path


def holes(path: str) -> list[str]:
    """The names in a path template, in order."""
    return _HOLE.findall(path)


def render(
    base: str,
    method: str,
    path: str,
    parameters: Mapping[str, Any],
    *,
    accept: str,
    delivery: str,
    secret: Injected | None,
) -> Outgoing:
    """The request. Raises ParametersInvalid (422) for a value that has no place."""
    named = set(holes(path))
    filled = _HOLE.sub(lambda hole: _segment(hole.group(1), parameters), path)
    if DOTS & set(filled.split("/")):
        raise ParametersInvalid("A path value may not be dots only.", param="parameters")
    rest = {name: value for name, value in parameters.items() if name not in named}
    headers = [
        ("Accept", accept),
        ("Accept-Encoding", "gzip"),
        ("Delivery-Id", delivery),
        ("User-Agent", USER_AGENT),
    ]
    pairs: list[tuple[str, str]] = []
    body = None
    if method == "GET":
        pairs = [pair for name, value in sorted(rest.items()) for pair in _query(name, value)]
    else:
        body = orjson.dumps(rest)
        headers.append(("Content-Type", "application/json"))
    if secret is not None and secret.place == "query":
        pairs = [pair for pair in pairs if pair[0] != secret.name]
        pairs.append((secret.name, secret.value))
    elif secret is not None:
        headers.append((secret.name, secret.value))
    url = base + filled + ("?" + urlencode(pairs, quote_via=quote) if pairs else "")
    if len(url) > URL_MAX_CHARS or len(body or b"") > BODY_MAX_BYTES:
        raise ParametersInvalid("The parameters are too long.", param="parameters")
    return Outgoing(method, url, tuple(headers), body)


def _segment(name: str, parameters: Mapping[str, Any]) -> str:
    value = parameters.get(name)
    text = None if value is None else _scalar(value)
    if not text:
        raise ParametersInvalid("It names a place in the path.", param=f"parameters.{name}")
    return quote(text, safe="")


def _query(name: str, value: object) -> list[tuple[str, str]]:
    parts = value if isinstance(value, list) else [value]
    pairs = []
    for part in parts:
        text = _scalar(part)
        if text is None:
            raise ParametersInvalid(
                "A query takes texts, numbers, booleans and lists of them.",
                param=f"parameters.{name}",
            )
        pairs.append((name, text))
    return pairs


def _scalar(value: object) -> str | None:
    """The text of a plain value, None for null, objects and lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return orjson.dumps(value).decode()
    return None
