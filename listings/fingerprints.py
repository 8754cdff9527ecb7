"""Which columns of a version may carry a buyer's marks, and which may tell its rows apart. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from listings.errors import FingerprintInvalid
from listings.policy_schemas import FingerprintClause

_WHOLE = re.compile(r"^U?(?:TINYINT|SMALLINT|INTEGER|BIGINT)$")
_DECIMAL = re.compile(r"^DECIMAL\((\d+),\s*(\d+)\)$")
_KEY = re.compile(r"^(?:VARCHAR|DATE|TIMESTAMP.*|BOOLEAN|UUID)$")


def require_markable(clause: FingerprintClause, columns: Sequence[Mapping[str, Any]]) -> None:
    """``columns`` are a version's, with DuckDB's type names. Raises FingerprintInvalid (422)."""
    types = {str(column["name"]): str(column["type"]) for column in columns}
    for name in (*clause.keys, *(column.name for column in clause.columns)):
        if name not in types:
            raise _invalid(f"There is no column {name!r}.")
    for name in clause.keys:
        if not any(form.match(types[name]) for form in (_WHOLE, _DECIMAL, _KEY)):
            raise _invalid(f"Column {name!r} ({types[name]}) cannot tell rows apart.")
    for column in clause.columns:
        _require_room(column.name, types[column.name], Decimal(column.tolerance))


def _require_room(name: str, type_: str, step: Decimal) -> None:
    decimal = _DECIMAL.match(type_)
    if _WHOLE.match(type_):
        digits = 0
    elif decimal is not None:
        digits = int(decimal[2])
    elif type_ == "DOUBLE":
        return
    else:
        raise _invalid(f"Column {name!r} ({type_}) is not a number that can be marked.")
    if -int(step.as_tuple().exponent) > digits:
        raise _invalid(f"Column {name!r} ({type_}) has no {step}.")


def _invalid(detail: str) -> FingerprintInvalid:
    return FingerprintInvalid(detail, param="policy.fingerprint")
