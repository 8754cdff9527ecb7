"""The committed API description: ``openapi/market.json`` and one file per service.

A service is the package whose endpoint answers, so the files follow the code, not the tags.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

FOLDER = Path(__file__).resolve().parents[1] / "openapi"
WHOLE = "market.json"
SERVICES = {
    "parties": "market.parties",
    "listings": "listings",
    "pricing": "pricing",
    "matching": "market.matching",
    "demand": "market.demand",
    "auctions": "market.auctions",
    "contracts": "contracts",
    "settlement": "settlement",
}
METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options"})
DIFF_LINES_MAX = 200


def documents(app: FastAPI) -> dict[str, str]:
    """File name → file text: two-space JSON, sorted keys, so equal APIs give equal bytes."""
    whole = app.openapi()
    modules = {
        (route.path_format, method.lower()): route.endpoint.__module__
        for route in iter_route_contexts(app.routes)
        if route.endpoint is not None and route.path_format is not None
        for method in route.methods or ()
    }
    made = {WHOLE: _text(whole)}
    for service, package in SERVICES.items():
        paths = {
            path: kept
            for path, item in whole["paths"].items()
            if (kept := _of_package(path, item, package, modules))
        }
        made[f"{service}.json"] = _text(_part(whole, paths, service))
    return made


def write(app: FastAPI) -> list[str]:
    """Write the files that differ; return their names."""
    FOLDER.mkdir(exist_ok=True)
    changed = []
    for name, text in documents(app).items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
    return changed


def differences(app: FastAPI) -> str:
    """A unified diff from the committed files to this code's API; empty when equal."""
    lines: list[str] = []
    for name, text in documents(app).items():
        path = FOLDER / name
        committed = path.read_text() if path.exists() else ""
        lines += difflib.unified_diff(
            committed.splitlines(),
            text.splitlines(),
            f"openapi/{name} (committed)",
            f"openapi/{name} (code)",
            lineterm="",
        )
    if len(lines) > DIFF_LINES_MAX:
        lines[DIFF_LINES_MAX:] = [f"… {len(lines) - DIFF_LINES_MAX} more lines"]
    return "\n".join(lines)


def _of_package(
    path: str, item: dict[str, Any], package: str, modules: dict[tuple[str, str], str]
) -> dict[str, Any]:
    """The operations of one path that ``package`` answers; empty if none."""

    def ours(method: str) -> bool:
        module = modules.get((path, method), "")
        return module == package or module.startswith(f"{package}.")

    operations = {method: value for method, value in item.items() if method in METHODS}
    kept = {method: value for method, value in operations.items() if ours(method)}
    shared = {key: value for key, value in item.items() if key not in METHODS}
    return {**shared, **kept} if kept else {}


def _part(whole: dict[str, Any], paths: dict[str, Any], service: str) -> dict[str, Any]:
    """A complete document for ``paths``: with the components they reach, and no others."""
    part: dict[str, Any] = {
        **{key: value for key, value in whole.items() if key not in ("paths", "components")},
        "info": {**whole["info"], "title": f"{whole['info']['title']}: {service}"},
        "paths": paths,
    }
    components: dict[str, Any] = whole.get("components", {})
    kept: dict[str, dict[str, Any]] = {}
    waiting = [*_references(paths), *_security(whole, paths)]
    while waiting:
        kind, name = waiting.pop()
        if name in kept.get(kind, {}):
            continue
        value = components[kind][name]
        kept.setdefault(kind, {})[name] = value
        waiting += _references(value)
    if kept:
        part["components"] = kept
    return part


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """Every (kind, name) that ``#/components/<kind>/<name>`` names inside ``value``."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                _, _, kind, name = inner.split("/")
                yield kind, name
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _security(whole: dict[str, Any], paths: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The security schemes that the operations (or the whole document) require by name."""
    requirements = list(whole.get("security", []))
    for item in paths.values():
        for method in METHODS & item.keys():
            requirements += item[method].get("security", [])
    for requirement in requirements:
        for name in requirement:
            yield "securitySchemes", name


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
