"""Masks and row filters of a policy: whether a version can take them, and as DuckDB SQL. Pure.

Masks keep a column's type, so a masked copy has the schema that the version is certified with. A
row filter sees the values before they are masked; what a buyer filters and orders by are those
after.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from listings.columns import quoted
from listings.errors import FilterInvalid, MaskInvalid
from listings.mask_schemas import (
    HideMask,
    Mask,
    PrefixMask,
    PseudonymMask,
    RoundMask,
    TruncateMask,
)
from listings.row_filter import Condition, Parameter, compile_filter
from listings.typed_columns import columns_of

PSEUDONYM_DIGITS = 32
_WHOLE = re.compile(r"^(U?)(TINYINT|SMALLINT|INTEGER|BIGINT)$")
_DECIMAL = re.compile(r"^DECIMAL\((\d+),\s*(\d+)\)$")
_BYTES = {"TINYINT": 1, "SMALLINT": 2, "INTEGER": 4, "BIGINT": 8}
_HMAC_BLOCK_BYTES = 64
# From here on two neighbors of a double are at least one apart.
_DOUBLE_WHOLE = 2**53


@dataclass(frozen=True, slots=True)
class Masked:
    """The columns of a masked copy as a select list, with the values of its placeholders."""

    sql: str
    parameters: tuple[Parameter, ...]


def require_maskable(
    masks: Sequence[Mask], row_filter: str | None, columns: Sequence[Mapping[str, Any]]
) -> None:
    """``columns`` are a version's, with DuckDB's type names.

    Raises MaskInvalid (422) for a column that is not there or not of a kind's types, FilterInvalid
    (422, with ``position``).
    """
    types = {str(column["name"]): str(column["type"]) for column in columns}
    for place, mask in enumerate(masks):
        type_ = types.get(mask.column)
        if type_ is None:
            raise _invalid(place, f"There is no column {mask.column!r}.")
        if not _fits(mask, type_):
            raise _invalid(place, f"Column {mask.column!r} ({type_}) takes no {mask.kind} mask.")
        if isinstance(mask, RoundMask) and not _has_step(type_, Decimal(mask.step)):
            raise _invalid(place, f"Column {mask.column!r} ({type_}) has no {mask.step}.")
    rows_of(row_filter, columns)


def rows_of(row_filter: str | None, columns: Sequence[Mapping[str, Any]]) -> Condition:
    """The rows of a version that the policy sells. Raises FilterInvalid (422)."""
    try:
        return compile_filter(row_filter, columns_of(columns))
    except FilterInvalid as error:
        error.param = "policy.row_filter"
        raise


def masked_columns(
    masks: Sequence[Mask], columns: Sequence[Mapping[str, Any]], key: bytes
) -> Masked:
    """All columns of a version in their order, masked with ``key``.

    Only for masks that :func:`require_maskable` passed: type names become part of the SQL.
    """
    by_column = {mask.column: mask for mask in masks}
    parts: list[str] = []
    parameters: list[Parameter] = []
    for column in columns:
        name = quoted(str(column["name"]))
        mask = by_column.get(str(column["name"]))
        if mask is None:
            parts.append(f"t.{name}")
            continue
        sql, values = _expression(mask, f"t.{name}", str(column["type"]), key)
        parts.append(f"{sql} AS {name}")
        parameters += values
    return Masked(", ".join(parts), tuple(parameters))


def blurred(masks: Sequence[Mask]) -> frozenset[str]:
    """Columns in which values that differ may become equal."""
    return frozenset(mask.column for mask in masks if not isinstance(mask, PseudonymMask))


def _fits(mask: Mask, type_: str) -> bool:
    if isinstance(mask, HideMask):
        return True
    if isinstance(mask, PseudonymMask | PrefixMask):
        return type_ == "VARCHAR"
    if isinstance(mask, RoundMask):
        return (
            type_ in {"FLOAT", "DOUBLE"}
            or _WHOLE.match(type_) is not None
            or _DECIMAL.match(type_) is not None
        )
    return type_.startswith("TIMESTAMP") or (type_ == "DATE" and mask.to != "hour")


def _has_step(type_: str, step: Decimal) -> bool:
    places = max(0, -int(step.as_tuple().exponent))
    if (whole := _WHOLE.match(type_)) is not None:
        bits = 8 * _BYTES[whole[2]] - (0 if whole[1] else 1)
        return places == 0 and step < 2**bits
    if (decimal := _DECIMAL.match(type_)) is not None:
        width, scale = int(decimal[1]), int(decimal[2])
        return places <= scale and step < Decimal(10) ** (width - scale)
    return True


def _expression(mask: Mask, column: str, type_: str, key: bytes) -> tuple[str, list[Parameter]]:
    if isinstance(mask, HideMask):
        return f"CAST(NULL AS {type_})", []
    if isinstance(mask, PseudonymMask):
        return _pseudonym(column, key)
    if isinstance(mask, PrefixMask):
        return f"left({column}, ?)", [mask.characters]
    if isinstance(mask, RoundMask):
        return _rounded(column, type_, mask.step)
    return _truncated(column, type_, mask), []


def _pseudonym(column: str, key: bytes) -> tuple[str, list[Parameter]]:
    """HMAC-SHA-256 (RFC 2104) cut to 128 bits; DuckDB has the hash, but not the HMAC."""
    if len(key) > _HMAC_BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    block = key.ljust(_HMAC_BLOCK_BYTES, b"\0")
    inner, outer = bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)
    digest = f"sha256(?::BLOB || unhex(sha256(?::BLOB || encode({column}))))"
    return f"left({digest}, {PSEUDONYM_DIGITS})", [outer, inner]


def _rounded(column: str, type_: str, step: str) -> tuple[str, list[Parameter]]:
    if type_ not in {"FLOAT", "DOUBLE"}:
        # Towards zero no value of the type leaves its range.
        return f"CAST({column} - {column} % CAST(? AS {type_}) AS {type_})", [step]
    value = f"CAST({column} AS DOUBLE)"
    # Larger numbers are no finer than the step; infinities and NaN stay.
    coarse = f"NOT abs({value}) < ?"
    rounded = f"trunc({value} / ?) * ?"
    width = float(step)
    return (
        f"CAST(CASE WHEN {coarse} THEN {value} ELSE {rounded} END AS {type_})",
        [width * _DOUBLE_WHOLE, width, width],
    )


def _truncated(column: str, type_: str, mask: TruncateMask) -> str:
    if type_ == "TIMESTAMP WITH TIME ZONE":
        # DuckDB's own way takes the session's time zone.
        utc = f"make_timestamp(epoch_us({column}))"
        return f"make_timestamptz(epoch_us(date_trunc('{mask.to}', {utc})))"
    return f"CAST(date_trunc('{mask.to}', {column}) AS {type_})"


def _invalid(place: int, detail: str) -> MaskInvalid:
    return MaskInvalid(detail, param=f"policy.masks.{place}")
