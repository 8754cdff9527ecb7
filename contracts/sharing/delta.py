"""Tables in Delta's words: types, schema, and the protocol's lines. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from listings.columns import quoted

NDJSON = "application/x-ndjson; charset=utf-8"
VERSION_HEADER = "delta-table-version"
CAPABILITIES_HEADER = "delta-sharing-capabilities"
CAPABILITIES = "responseformat=parquet"

# DuckDB's type → Delta's type, and what the column is cast to for it (None: as it is).
_TYPES: dict[str, tuple[str, str | None]] = {
    "BOOLEAN": ("boolean", None),
    "TINYINT": ("byte", None),
    "SMALLINT": ("short", None),
    "INTEGER": ("integer", None),
    "BIGINT": ("long", None),
    "UTINYINT": ("short", "SMALLINT"),
    "USMALLINT": ("integer", "INTEGER"),
    "UINTEGER": ("long", "BIGINT"),
    "UBIGINT": ("decimal(20,0)", "DECIMAL(20,0)"),
    "HUGEINT": ("decimal(38,0)", "DECIMAL(38,0)"),
    "FLOAT": ("float", None),
    "DOUBLE": ("double", None),
    "VARCHAR": ("string", None),
    "DATE": ("date", None),
    "TIMESTAMP": ("timestamp", None),
    "TIMESTAMP_S": ("timestamp", "TIMESTAMP"),
    "TIMESTAMP_MS": ("timestamp", "TIMESTAMP"),
    "TIMESTAMP_NS": ("timestamp", "TIMESTAMP"),
    "TIMESTAMP WITH TIME ZONE": ("timestamp", None),
}
_DECIMAL = re.compile(r"^DECIMAL\(([0-9]{1,2}),\s*([0-9]{1,2})\)$")


@dataclass(frozen=True, slots=True)
class Field:
    """A column as Delta shows it. ``cast`` None: the stored values have the type already."""

    name: str
    type: str
    cast: str | None

    @property
    def sql(self) -> str:
        """The column in a query over the table alias ``t``."""
        column = f"t.{quoted(self.name)}"
        return column if self.cast is None else f"CAST({column} AS {self.cast}) AS {self.quoted}"

    @property
    def quoted(self) -> str:
        """The quoted identifier."""
        return quoted(self.name)


def fields_of(stored: Sequence[Mapping[str, Any]]) -> list[Field]:
    """Fields of a version's stored ``[{name, type, nullable}]``; types Delta lacks become text.

    ``timestamp_ntz`` is never used: the official Python client cannot read it (delivery.md §4).
    """
    return [_field(str(column["name"]), str(column["type"]).upper()) for column in stored]


def _field(name: str, type_: str) -> Field:
    decimal = _DECIMAL.match(type_)
    if decimal is not None:
        return Field(name, f"decimal({decimal[1]},{decimal[2]})", None)
    known, cast = _TYPES.get(type_, ("string", "VARCHAR"))
    return Field(name, known, cast)


def schema_string(fields: Iterable[Field]) -> str:
    """Delta's ``schemaString``: JSON in a JSON string."""
    members = [
        {"name": field.name, "type": field.type, "nullable": True, "metadata": {}}
        for field in fields
    ]
    return json.dumps({"type": "struct", "fields": members})


def head(*, table_id: str, name: str, fields: Iterable[Field]) -> list[dict[str, Any]]:
    """The lines ``protocol`` and ``metaData``, which open every answer about a table."""
    metadata = {
        "id": table_id,
        "name": name,
        "format": {"provider": "parquet"},
        "schemaString": schema_string(fields),
        "partitionColumns": [],
        "configuration": {},
    }
    return [{"protocol": {"minReaderVersion": 1}}, {"metaData": metadata}]


def lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """One object per physical line, in ASCII: clients split lines at U+2028 too."""
    return "".join(json.dumps(each, ensure_ascii=True) + "\n" for each in objects).encode()
