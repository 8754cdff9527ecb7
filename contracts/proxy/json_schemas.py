"""JSON Schemas that sellers write: bounded before they are kept, and run without surprises.

They are foreign programs. References are refused (a schema can then neither fetch anything nor
call itself), patterns run on an engine of linear time, and messages never quote a value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from contracts.proxy.errors import SchemaInvalid
from market.kernel.security import sha256_hex

SCHEMA_MAX_BYTES: Final = 32 << 10
ERRORS_MAX: Final = 10
_MESSAGE_MAX: Final = 200
_PATTERN_MAX_BYTES: Final = 1 << 20
_COMPILED_MAX: Final = 1_000
_REFERENCES: Final = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor", "$schema"}
)
_MASK: Final = "(value)"

Schema = Mapping[str, Any]

_compiled: OrderedDict[bytes, Draft202012Validator] = OrderedDict()


def checked(schema: Schema, *, param: str) -> dict[str, Any]:
    """The schema as it will be stored. Raises SchemaInvalid (422) naming ``param``."""
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
        _validator(text)
    except (ValidationError, ValueError) as error:
        message = getattr(error, "message", "")
        raise SchemaInvalid(_plain(str(message)), param=param) from error
    return kept


def errors_of(schema: Schema, value: object) -> list[dict[str, str]]:
    """Where ``value`` breaks a checked schema: up to ERRORS_MAX paths and messages, no values."""
    validator = _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    return [
        {
            "path": _plain("/".join(["", *(str(part) for part in error.instance_path)])),
            "message": _plain(error.message),
            "rule": _plain("/".join(["", *(str(part) for part in error.schema_path)])),
        }
        for error in islice(validator.iter_errors(value), ERRORS_MAX)
    ]


def digest(schema: Schema) -> str:
    """SHA-256 of the schema's canonical form."""
    return sha256_hex(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))


def _validator(text: bytes) -> Draft202012Validator:
    known = _compiled.get(text)
    if known is None:
        known = _compiled[text] = Draft202012Validator(
            orjson.loads(text),
            mask=_MASK,
            offline=True,
            pattern_options=RegexOptions(size_limit=_PATTERN_MAX_BYTES),
        )
        if len(_compiled) > _COMPILED_MAX:
            _compiled.popitem(last=False)
    _compiled.move_to_end(text)
    return known


def _references(value: object) -> Any:
    if isinstance(value, dict):
        # A property may be called "$ref"; forbidding that too is simpler than telling them apart.
        yield from (key for key in value if key in _REFERENCES)
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _plain(text: str) -> str:
    """Printable, short: names in an answer are the upstream's, and end up in logs and pages."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MESSAGE_MAX])
