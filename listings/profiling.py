"""Facts about a converted file: per column and as a whole. Runs only inside the parsing process.

Everything here is counted, not judged; `listings.quality` turns the counts into scores.
"""

# ruff: noqa: S608 - the engine can reach one scratch file only; names pass `columns.quoted`.

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb

from listings.columns import literal, quoted
from listings.detectors import MASK, detect, mask_text
from listings.readers import COLUMNS_PER_QUERY, Columns, single_row

# Detection looks at rows spread evenly over the file; wide files get fewer of them, so that
# the number of inspected cells stays near 200,000 (about two seconds of regular expressions).
SAMPLE_CELLS = 200_000
SAMPLE_ROWS_MIN, SAMPLE_ROWS_MAX = 400, 5_000
# Exact duplicate search keeps one hash per row; beyond this it is estimated (HyperLogLog).
EXACT_ROWS_MAX = 5_000_000
PREVIEW_ROWS = 10
PREVIEW_CHARS_MAX = 200
BOUND_CHARS_MAX = 64
# Shorter whole numbers cannot be a phone, a card or an identity number.
IDENTIFIER_DIGITS_MIN = 11

_INTEGERS = ("BIGINT", "UBIGINT")
_FLOATS = ("FLOAT", "DOUBLE")
_TIMES = ("DATE", "TIMESTAMP")
# Text that stands for "no value" or was damaged on its way.
_PLACEHOLDERS = (
    "('n/a', 'na', 'nan', 'null', 'none', 'unknown', '?', '-', '--', '#n/a', '未知', '无')"
)
_DAMAGED = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x{FFFD}]"


def profile(
    engine: duckdb.DuckDBPyConnection, target: Path, columns: Columns, *, now: datetime
) -> dict[str, Any]:
    """Counts, bounds, detected identifiers and a masked preview of a Parquet file of ours."""
    relation = f"read_parquet({literal(str(target))})"
    rows = int(single_row(engine, f"SELECT count(*) FROM {relation}")[0])
    sensitive = _sensitive(engine, target, columns, rows)
    facts: list[dict[str, Any]] = []
    for start in range(0, len(columns), COLUMNS_PER_QUERY):
        facts += _facts(engine, relation, columns[start : start + COLUMNS_PER_QUERY], sensitive)
    _add_variants(engine, target, columns, rows, facts)
    return {
        "row_count": rows,
        "distinct_rows": _distinct_rows(engine, relation, rows),
        "columns": facts,
        "latest": _latest(engine, relation, columns, now),
        "preview": _preview(engine, relation, columns, sensitive),
    }


def _stride(rows: int, wanted: int) -> int:
    return max(1, -(-rows // wanted))


def _spread(target: Path, stride: int) -> str:
    return (
        f"read_parquet({literal(str(target))}, file_row_number = true) "
        f"WHERE file_row_number % {stride} = 0"
    )


def _sensitive(
    engine: duckdb.DuckDBPyConnection, target: Path, columns: Columns, rows: int
) -> dict[str, str]:
    wanted = min(max(SAMPLE_CELLS // len(columns), SAMPLE_ROWS_MIN), SAMPLE_ROWS_MAX)
    source = _spread(target, _stride(rows, wanted))
    found: dict[str, str] = {}
    for name, type_ in columns:
        whole = type_ in _INTEGERS or (type_.startswith("DECIMAL") and type_.endswith(",0)"))
        if type_ != "VARCHAR" and not whole:
            continue
        column = quoted(name)
        text = f"CAST({column} AS VARCHAR)[:2000]"
        values = [
            str(row[0])
            for row in engine.execute(
                f"SELECT {text} FROM {source} AND {column} IS NOT NULL LIMIT {wanted}"
            ).fetchall()
        ]
        if whole:
            long = [value for value in values if len(value) >= IDENTIFIER_DIGITS_MIN]
            values = values if len(long) * 2 >= len(values) else long
        kind = detect(name, values)
        if kind is not None:
            found[name] = str(kind)
    return found


def _facts(
    engine: duckdb.DuckDBPyConnection, relation: str, batch: Columns, sensitive: dict[str, str]
) -> list[dict[str, Any]]:
    parts: list[str] = []
    for name, type_ in batch:
        column = quoted(name)
        parts.append(f"count(*) - count({column})")
        parts.append(f"approx_count_distinct({column})")
        parts.append(f"count(*) FILTER (WHERE {_invalid(column, type_)})")
        bound = f"CAST({{}}({column}) AS VARCHAR)[:{BOUND_CHARS_MAX}]"
        shown = name not in sensitive
        parts += [bound.format(each) if shown else "NULL" for each in ("min", "max")]
    row = single_row(engine, f"SELECT {', '.join(parts)} FROM {relation}")
    return [
        {
            "name": name,
            "type": type_,
            "null_count": int(row[at]),
            "approx_distinct": int(row[at + 1]),
            "invalid_count": int(row[at + 2]),
            "min": _clean(row[at + 3]),
            "max": _clean(row[at + 4]),
            "sensitive": sensitive.get(name),
            "spellings": None,
            "canonical_spellings": None,
        }
        for at, (name, type_) in zip(range(0, len(batch) * 5, 5), batch, strict=True)
    ]


def _invalid(column: str, type_: str) -> str:
    if type_ == "VARCHAR":
        return (
            f"trim({column}) = '' OR lower(trim({column})) IN {_PLACEHOLDERS} "
            f"OR regexp_matches({column}, {literal(_DAMAGED)})"
        )
    if type_ in _FLOATS:
        return f"NOT isfinite({column})"
    if type_.startswith(_TIMES):
        return f"{column} < '1800-01-01' OR {column} >= '2200-01-01'"
    return "false"


def _add_variants(
    engine: duckdb.DuckDBPyConnection,
    target: Path,
    columns: Columns,
    rows: int,
    facts: Sequence[dict[str, Any]],
) -> None:
    """How many spellings a text column has, and how many are left after trim and case folding."""
    source = _spread(target, _stride(rows, SAMPLE_CELLS // 4))
    texts = [at for at, (_, type_) in enumerate(columns) if type_ == "VARCHAR"]
    for start in range(0, len(texts), COLUMNS_PER_QUERY):
        batch = texts[start : start + COLUMNS_PER_QUERY]
        parts: list[str] = []
        for at in batch:
            column = quoted(columns[at][0])
            parts.append(f"count(DISTINCT {column})")
            parts.append(f"count(DISTINCT lower(trim(nfc_normalize({column}))))")
        row = single_row(engine, f"SELECT {', '.join(parts)} FROM {source}")
        for position, at in enumerate(batch):
            facts[at]["spellings"] = int(row[position * 2])
            facts[at]["canonical_spellings"] = int(row[position * 2 + 1])


def _distinct_rows(engine: duckdb.DuckDBPyConnection, relation: str, rows: int) -> int:
    count = "count(DISTINCT h)" if rows <= EXACT_ROWS_MAX else "approx_count_distinct(h)"
    query = f"SELECT {count} FROM (SELECT hash(t) AS h FROM {relation} AS t)"
    return min(rows, int(single_row(engine, query)[0]))


def _latest(
    engine: duckdb.DuckDBPyConnection, relation: str, columns: Columns, now: datetime
) -> str | None:
    """The newest date or time stamp in any column that is not in the future (RFC 3339)."""
    moments = [quoted(name) for name, type_ in columns if type_.startswith(_TIMES)]
    if not moments:
        return None
    limit = literal(now.isoformat())
    parts = [
        f"epoch_ms(max({column}) FILTER (WHERE CAST({column} AS TIMESTAMPTZ) <= {limit}))"
        for column in moments
    ]
    row = single_row(engine, f"SELECT {', '.join(parts)} FROM {relation}")
    newest_ms = max((int(each) for each in row if each is not None), default=None)
    if newest_ms is None:
        return None
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=newest_ms)).isoformat()


def _preview(
    engine: duckdb.DuckDBPyConnection, relation: str, columns: Columns, sensitive: dict[str, str]
) -> list[list[Any]]:
    """The first rows, in file order; sensitive columns and identifiers inside text are masked."""
    # Fetching a TIMESTAMPTZ into Python would need pytz; the session's zone is UTC.
    shown = ", ".join(
        f"strftime(CAST({quoted(name)} AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%fZ')"
        if type_ == "TIMESTAMP WITH TIME ZONE"
        else quoted(name)
        for name, type_ in columns
    )
    rows = engine.execute(f"SELECT {shown} FROM {relation} LIMIT {PREVIEW_ROWS}").fetchall()
    hidden = [name in sensitive for name, _ in columns]
    return [
        [
            MASK if mask and value is not None else _json_value(value)
            for value, mask in zip(row, hidden, strict=True)
        ]
        for row in rows
    ]


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Beyond 2**53 a JSON reader that uses doubles would change the number.
        return value if abs(value) < 1 << 53 else str(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    return _clean(mask_text(str(value))[:PREVIEW_CHARS_MAX])


def _clean(text: str | None) -> str | None:
    """Without control characters: jsonb cannot hold NUL, and terminals obey the others."""
    if text is None:
        return None
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
