"""Predicate hints as a filter of ours: JSON trees and simple SQL comparisons. Pure.

Hints may be ignored (PROTOCOL.md); one that is understood is applied exactly, so that its buyer
pays for the rows it selects and for no others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from contracts.errors import TokenFieldRefused
from listings.columns import quoted
from listings.errors import FilterInvalid
from listings.row_filter import ALWAYS, FILTER_MAX_CHARS, Condition, compile_filter
from listings.typed_columns import Column

_COMPARISONS = {
    "equal": "=",
    "lessThan": "<",
    "lessThanOrEqual": "<=",
    "greaterThan": ">",
    "greaterThanOrEqual": ">=",
}
_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NUMBERS = frozenset({"int", "integer", "long", "float", "double", "short", "byte", "bool"})
_DEPTH_MAX = 20


class _Unknown(ValueError):
    """The hint says something that has no counterpart."""


def condition_of(
    json_hint: str | None, sql_hints: Sequence[str], columns: Mapping[str, Column]
) -> tuple[Condition, str]:
    """The condition that the hints mean and its text; everything, if they are not understood.

    The JSON hint counts if there is one, else those SQL hints that our filter language knows.
    """
    if json_hint is not None:
        texts = _json_texts(json_hint, columns)
    else:
        texts = [text for text in sql_hints if _compiled(text, columns) is not None]
    text = " and ".join(f"({each})" for each in texts if each.strip())
    found = _compiled(text, columns) if text else None
    return (ALWAYS, "") if found is None else (found, text)


def _compiled(text: str, columns: Mapping[str, Column]) -> Condition | None:
    try:
        return compile_filter(text, columns)
    except (FilterInvalid, TokenFieldRefused):
        # For the token, the table has no such column.
        return None


def _json_texts(hint: str, columns: Mapping[str, Column]) -> list[str]:
    if len(hint) > FILTER_MAX_CHARS * 4:
        return []
    names = {name.lower(): name for name in columns}
    try:
        return [_expression(json.loads(hint), names, 0)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _expression(node: Any, names: Mapping[str, str], depth: int) -> str:
    operator = str(node["op"])
    children = node.get("children", [])
    if depth > _DEPTH_MAX or not isinstance(children, list):
        raise _Unknown
    if operator in ("and", "or") and children:
        inner = [_expression(child, names, depth + 1) for child in children]
        return "(" + f" {operator} ".join(inner) + ")"
    if operator == "not" and len(children) == 1:
        return f"(not {_expression(children[0], names, depth + 1)})"
    if operator == "isNull" and len(children) == 1:
        return f"{_column(children[0], names)} is null"
    if operator == "in" and len(children) > 1:
        literals = ", ".join(_literal(child) for child in children[1:])
        return f"{_column(children[0], names)} in ({literals})"
    if operator in _COMPARISONS and len(children) == 2:
        return _comparison(_COMPARISONS[operator], children[0], children[1], names)
    raise _Unknown(operator)


def _comparison(sign: str, left: Any, right: Any, names: Mapping[str, str]) -> str:
    if left["op"] == "literal":
        left, right, sign = right, left, _MIRRORED[sign]
    return f"{_column(left, names)} {sign} {_literal(right)}"


def _column(node: Any, names: Mapping[str, str]) -> str:
    if node["op"] != "column":
        raise _Unknown
    return quoted(names[str(node["name"]).lower()])


def _literal(node: Any) -> str:
    if node["op"] != "literal" or node.get("value") is None:
        raise _Unknown
    value, kind = str(node["value"]), str(node.get("valueType", "string")).lower()
    if kind not in _NUMBERS:
        return "'" + value.replace("'", "''") + "'"
    if value.lower() in ("true", "false"):
        return value.lower()
    if not math.isfinite(float(value)):
        raise _Unknown
    return value
