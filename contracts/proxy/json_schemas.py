"""JSON Schemas that sellers write: bounded before they are kept, and run without surprises.

They are foreign programs. References are refused (a schema can then neither fetch anything nor
call itself), they run in a process of their own (:mod:`contracts.proxy.schema_process`), and
messages never quote a value.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from contracts.proxy import checkers
from contracts.proxy.checkers import Late, TooCostly
from contracts.proxy.errors import SchemaInvalid

SCHEMA_MAX_BYTES: Final = 32 << 10
# For one schema or one set of parameters; wide, for machines that are busy otherwise.
CHECK_S: Final = 20.0
_REFERENCES: Final = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor", "$schema"}
)

Schema = Mapping[str, Any]


class NotJson(Exception):
    """The value cannot be read as JSON, or JSON cannot carry it."""


async def checked(schema: Schema, *, param: str, deadline: float | None = None) -> dict[str, Any]:
    """The schema as it will be stored. Raises SchemaInvalid (422) naming ``param``.

    ``deadline`` in monotonic seconds, by default in CHECK_S.
    """
    try:
        text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise SchemaInvalid("It holds what JSON cannot carry.", param=param) from error
    if len(text) > SCHEMA_MAX_BYTES:
        raise SchemaInvalid(f"It has more than {SCHEMA_MAX_BYTES} bytes.", param=param)
    # Postgres cannot store it, and no name or pattern needs it.
    if b"\\u0000" in text:
        raise SchemaInvalid("It holds a NUL character.", param=param)
    kept: dict[str, Any] = orjson.loads(text)
    found = next(_references(kept), None)
    if found is not None:
        raise SchemaInvalid(f"{found} is not supported: write the schema out.", param=param)
    try:
        said = await checkers.ask(text, b"null", deadline=_until(deadline))
    except (Late, TooCostly) as error:
        raise SchemaInvalid("It costs too much time or memory.", param=param) from error
    if "invalid_schema" in said:
        raise SchemaInvalid(said["invalid_schema"], param=param)
    return kept


async def errors_of(
    schema: Schema | None, body: bytes, *, deadline: float | None = None
) -> list[dict[str, str]]:
    """Where JSON text breaks a checked schema: up to 10 paths and messages, no values.

    Of more than 64 KiB only the first finding. No schema allows all JSON. ``deadline`` in
    monotonic seconds, by default in CHECK_S. Raises NotJson, TooCostly, Late, and SchemaInvalid
    (422) for a schema that was never checked.
    """
    text = b"true" if schema is None else orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    said = await checkers.ask(text, body, deadline=_until(deadline))
    if "invalid_schema" in said:
        raise SchemaInvalid(said["invalid_schema"])
    if "not_json" in said:
        raise NotJson
    findings: list[dict[str, str]] = said["findings"]
    return findings


def json_of(value: object) -> bytes:
    """The value as JSON text. Raises NotJson."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise NotJson from error


def _until(deadline: float | None) -> float:
    return time.monotonic() + CHECK_S if deadline is None else deadline


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        # A property may be called "$ref"; forbidding that too is simpler than telling them apart.
        yield from (key for key in value if key in _REFERENCES)
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)
