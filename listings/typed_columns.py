"""Columns of a version as the filter and the query builder see them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from listings.columns import quoted


class Family(StrEnum):
    """What literals a column can be compared with."""

    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    TEXT = "text"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMP_UTC = "timestamp_utc"
    TIME = "time"
    OTHER = "other"


# Lowercase prefixes of DuckDB's and Arrow's type names; the first match wins, so the longer
# names of a family stand before the shorter ones that they start with.
_PREFIXES: tuple[tuple[str, Family], ...] = (
    ("interval", Family.OTHER),
    ("tinyint", Family.INTEGER),
    ("smallint", Family.INTEGER),
    ("integer", Family.INTEGER),
    ("bigint", Family.INTEGER),
    ("hugeint", Family.INTEGER),
    ("utinyint", Family.INTEGER),
    ("usmallint", Family.INTEGER),
    ("uinteger", Family.INTEGER),
    ("ubigint", Family.INTEGER),
    ("uhugeint", Family.INTEGER),
    ("uint", Family.INTEGER),
    ("int", Family.INTEGER),
    ("decimal", Family.DECIMAL),
    ("float", Family.FLOAT),
    ("double", Family.FLOAT),
    ("real", Family.FLOAT),
    ("halffloat", Family.FLOAT),
    ("varchar", Family.TEXT),
    ("large_string", Family.TEXT),
    ("string", Family.TEXT),
    ("utf8", Family.TEXT),
    ("text", Family.TEXT),
    ("bool", Family.BOOLEAN),
    ("timestamp with time zone", Family.TIMESTAMP_UTC),
    ("timestamptz", Family.TIMESTAMP_UTC),
    ("timestamp", Family.TIMESTAMP),
    ("datetime", Family.TIMESTAMP),
    ("date", Family.DATE),
    ("time", Family.TIME),
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its exact name and what it compares with."""

    name: str
    family: Family
    # DuckDB's TIMESTAMP_NS: 64 bits of nanoseconds reach from 1677 to 2262.
    nanoseconds: bool = False

    @property
    def sql(self) -> str:
        """The quoted identifier, qualified by the table alias ``t`` that every query uses."""
        return f"t.{quoted(self.name)}"

    @property
    def comparable(self) -> str:
        """What filters and orders compare: the column, with NaN as NULL.

        Parquet's statistics leave NaN out, so DuckDB 2.0 finds or misses NaN rows depending on
        whether a comparison reached the file scan; a page would lose rows.
        """
        if self.family is Family.FLOAT:
            return f"CASE WHEN isnan({self.sql}) THEN NULL ELSE {self.sql} END"
        return self.sql


def family_of(type_name: str) -> Family:
    """The family of a DuckDB or Arrow type name; nested and unknown types are ``OTHER``."""
    name = type_name.strip().lower()
    if name.endswith("]") and "[" in name and not name.startswith(("date", "time")):
        return Family.OTHER
    if name.endswith("[]"):
        return Family.OTHER
    if name.startswith("timestamp") and "tz=" in name:
        return Family.TIMESTAMP_UTC
    for prefix, family in _PREFIXES:
        if name.startswith(prefix):
            return family
    return Family.OTHER


def columns_of(stored: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Columns by name from a version's stored ``[{name, type, nullable}]``, in file order."""
    return {
        str(column["name"]): Column(
            str(column["name"]),
            family_of(str(column["type"])),
            nanoseconds=str(column["type"]).upper() == "TIMESTAMP_NS",
        )
        for column in stored
    }
