"""CSV and Parquet in, one plain Parquet file out. Runs only inside the parsing process.

Nothing a file declares about itself is trusted: sizes come from decoding it under the process's
memory, time and file limits (operations.md row 47: 12 kB of Parquet that decode to 50 GB).
"""

# ruff: noqa: S608 - the engine can reach one scratch folder only; names pass `columns.quoted`.

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from listings.columns import COLUMNS_MAX, check_names, check_types, is_flat, literal, quoted
from listings.errors import (
    FileTooExpansive,
    FileUnreadable,
    TooManyColumns,
    TooManyRows,
    UploadEmpty,
)

ROWS_MAX = 20_000_000
# What all values may decode to. The delivered pages are cut from this, so it bounds their work.
DECODED_BYTES_MAX = 8 << 30
VALUE_BYTES_MAX = 1 << 20
HEADER_BYTES_MAX = 1 << 20
# Aggregates per query: a 512-column file must not make one statement of thousands of them.
COLUMNS_PER_QUERY = 64

# Markers that mean "no value" when the rest of the column is numeric or temporal.
NULL_MARKERS = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "-", "--", "\\N")
_WIDTHS = {"BOOLEAN": 1, "TINYINT": 1, "UTINYINT": 1, "SMALLINT": 2, "USMALLINT": 2, "UUID": 16}
_WIDTH_DEFAULT = 8

Columns = list[tuple[str, str]]
EngineError = duckdb.Error
EngineOutOfMemory = duckdb.OutOfMemoryException


def open_engine(work: Path, *, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """DuckDB that can touch only ``work``, with bounded memory and spill."""
    engine = duckdb.connect(
        config={
            "threads": 2,
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(work / "spill"),
            "max_temp_directory_size": "4GB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
    )
    engine.execute(f"SET allowed_directories = [{literal(str(work))}]")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET TimeZone = 'UTC'")
    engine.execute("SET lock_configuration = true")
    return engine


def single_row(engine: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The one row of an aggregate query (fetched to its end: DuckDB 2 holds the result open)."""
    rows = engine.execute(query).fetchall()
    if len(rows) != 1:
        raise FileUnreadable("The file could not be recognized.")
    row: tuple[Any, ...] = rows[0]
    return row


def describe(engine: duckdb.DuckDBPyConnection, relation: str) -> Columns:
    """Names and DuckDB types of a relation's columns."""
    rows = engine.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return [(str(row[0]), str(row[1])) for row in rows]


def convert_parquet(engine: duckdb.DuckDBPyConnection, source: Path, target: Path) -> Columns:
    """Rewrite an uploaded Parquet file, so that only our own writer's bytes are ever delivered.

    Raises the refusals of this module and of `listings.columns`; duckdb.Error for broken files.
    """
    path = literal(str(source))
    found = single_row(engine, f"SELECT sum(num_rows) FROM parquet_file_metadata({path})")
    if found[0] is None:
        raise FileUnreadable("The Parquet file has no footer.")
    if int(found[0]) > ROWS_MAX:
        raise TooManyRows(f"The file declares {found[0]} rows, the limit is {ROWS_MAX}.")
    _check_parquet_names(engine, path)
    relation = f"read_parquet({path}, hive_partitioning = false)"
    columns = describe(engine, relation)
    check_types(columns)
    check_decoded_size(engine, relation, columns)
    _write(engine, f"SELECT * FROM {relation}", target)
    return describe(engine, f"read_parquet({literal(str(target))})")


def _check_parquet_names(engine: duckdb.DuckDBPyConnection, path: str) -> None:
    # The raw schema, not DESCRIBE: the reader renames duplicates silently. Row one is the root,
    # whose children are the columns; a nested column is refused by its type afterwards.
    rows = engine.execute(
        f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({path}) "
        f"LIMIT {COLUMNS_MAX * 8}"
    ).fetchall()
    if len(rows) < 2:
        raise FileUnreadable("The Parquet file has no columns.")
    if int(rows[0][1]) > COLUMNS_MAX:
        raise TooManyColumns(f"The file has {rows[0][1]} columns, the limit is {COLUMNS_MAX}.")
    names: list[str] = []
    pending = 0
    for name, children in rows[1:]:
        if pending == 0:
            names.append(str(name))
        else:
            pending -= 1
        pending += int(children)
    check_names(names)


def check_decoded_size(engine: duckdb.DuckDBPyConnection, relation: str, columns: Columns) -> int:
    """Decode everything once, keep nothing, and return the number of rows.

    Raises TooManyRows and FileTooExpansive when a value, or all values together, decode to more
    than the limits above.
    """
    rows_total = bytes_total = 0
    for start in range(0, len(columns), COLUMNS_PER_QUERY):
        batch = columns[start : start + COLUMNS_PER_QUERY]
        parts = ["count(*)"]
        for name, type_ in batch:
            column = quoted(name)
            if type_ == "VARCHAR":
                parts.append(f"coalesce(sum(strlen({column})), 0)")
                parts.append(f"coalesce(max(strlen({column})), 0)")
            else:
                width = _WIDTHS.get(type_, _WIDTH_DEFAULT)
                parts.append(f"count({column}) * {width}")
                parts.append("0")
        row = single_row(engine, f"SELECT {', '.join(parts)} FROM {relation}")
        rows_total = int(row[0])
        bytes_total += sum(int(each) for each in row[1::2])
        if rows_total > ROWS_MAX:
            raise TooManyRows(f"The file has {rows_total} rows, the limit is {ROWS_MAX}.")
        largest = max(int(each) for each in row[2::2])
        if largest > VALUE_BYTES_MAX:
            raise FileTooExpansive(f"A value has {largest} bytes, the limit is {VALUE_BYTES_MAX}.")
        if bytes_total > DECODED_BYTES_MAX:
            raise FileTooExpansive(
                f"The file decodes to more than {DECODED_BYTES_MAX} bytes.", limit=DECODED_BYTES_MAX
            )
    return rows_total


def convert_csv(engine: duckdb.DuckDBPyConnection, source: Path, target: Path) -> Columns:
    """Convert a UTF-8 CSV file with a header line; types are inferred from all rows.

    Inference never changes a value: columns with leading zeros or with whole numbers beyond
    double precision stay text, and null markers count as null only where every other value is a
    number or a time. Raises the refusals of this module and duckdb.Error for broken files.
    """
    dialect = _sniff(engine, source)
    names = _header(source, dialect)
    if len(names) == 1 and re.search(r"[,;|\t]", names[0]):
        raise FileUnreadable("The rows do not have the same number of fields as the header.")
    check_names(names)
    typed = describe(engine, _csv(source, dialect))
    kept, healed = _lossless(engine, source, dialect, typed)
    kept += [name for name, type_ in typed if not is_flat(type_)]
    expressions = []
    for name, _type in typed:
        column = quoted(name)
        if name in healed:
            markers = ", ".join(literal(marker) for marker in NULL_MARKERS)
            value = f"CASE WHEN {column} IN ({markers}) THEN NULL ELSE {column} END"
            expressions.append(f"CAST({value} AS {healed[name]}) AS {column}")
        else:
            expressions.append(column)
    relation = _csv(source, dialect, text=kept)
    _write(engine, f"SELECT {', '.join(expressions)} FROM {relation}", target)
    written = f"read_parquet({literal(str(target))})"
    columns = describe(engine, written)
    check_decoded_size(engine, written, columns)
    return columns


def _sniff(engine: duckdb.DuckDBPyConnection, source: Path) -> tuple[str, str, str]:
    row = single_row(
        engine,
        "SELECT Delimiter, Quote, Escape FROM sniff_csv("
        f"{literal(str(source))}, header = true, skip = 0, comment = '', compression = 'none')",
    )
    delimiter, quote, escape = ("" if part in ("(empty)", "\x00") else str(part) for part in row)
    # A single column has no delimiter to find, a file without quotes none to show.
    return delimiter or ",", quote or '"', escape or '"'


def _header(source: Path, dialect: tuple[str, str, str]) -> list[str]:
    """The first record, read with the sniffed dialect (DuckDB would rename duplicates)."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        head = file.read(HEADER_BYTES_MAX)
    if not head.strip():
        raise FileUnreadable("The CSV file is empty.")
    reader = csv.reader(head.splitlines(keepends=True), delimiter=dialect[0], quotechar=dialect[1])
    try:
        return next(reader)
    except (csv.Error, StopIteration) as error:
        raise FileUnreadable("The CSV header line could not be read.") from error


def _csv(
    source: Path,
    dialect: tuple[str, str, str],
    *,
    nulls: Sequence[str] = ("",),
    text: Sequence[str] = (),
    all_text: bool = False,
) -> str:
    delimiter, quote, escape = dialect
    options = [
        f"delim = {literal(delimiter)}",
        f"quote = {literal(quote)}",
        f"escape = {literal(escape)}",
        "header = true, skip = 0, comment = '', compression = 'none', sample_size = -1",
        "null_padding = false, ignore_errors = false, strict_mode = true",
        f"nullstr = [{', '.join(literal(each) for each in nulls)}]",
    ]
    if all_text:
        options.append("all_varchar = true")
    elif text:
        options.append(
            "types = {" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in text) + "}"
        )
    return f"read_csv({literal(str(source))}, {', '.join(options)})"


def _lossless(
    engine: duckdb.DuckDBPyConnection, source: Path, dialect: tuple[str, str, str], typed: Columns
) -> tuple[list[str], dict[str, str]]:
    """Columns that must stay text, and text columns that null markers hid (with their type)."""
    names = [name for name, _ in typed]
    healed: dict[str, str] = {}
    if any(type_ == "VARCHAR" for _, type_ in typed):
        marked = describe(engine, _csv(source, dialect, nulls=("", *NULL_MARKERS)))
        healed = {
            name: type_
            for (name, plain), (_, type_) in zip(typed, marked, strict=True)
            if plain == "VARCHAR" and type_ != "VARCHAR"
        }
    numeric = {name for name, type_ in typed if type_ in ("BIGINT", "DOUBLE")}
    suspects = [name for name in names if name in numeric or name in healed]
    relation = _csv(source, dialect, all_text=True)
    markers = ", ".join(literal(marker) for marker in NULL_MARKERS)
    kept: list[str] = []
    for start in range(0, len(suspects), COLUMNS_PER_QUERY):
        batch = suspects[start : start + COLUMNS_PER_QUERY]
        checks = []
        for name in batch:
            column = quoted(name)
            # 007 would become 7; 17 digits and more do not fit a double.
            lossy = f"regexp_matches({column}, '^[+-]?0[0-9]|^[+-]?[0-9]{{17,}}$')"
            if name in healed:
                cast = f"TRY_CAST({column} AS {healed[name]}) IS NULL"
                lossy = f"({lossy} OR {cast}) AND {column} NOT IN ({markers})"
            elif dict(typed)[name] == "BIGINT":
                lossy = f"regexp_matches({column}, '^[+-]?0[0-9]')"
            checks.append(f"coalesce(bool_or({lossy}), false)")
        row = single_row(engine, f"SELECT {', '.join(checks)} FROM {relation}")
        kept += [name for name, lossy in zip(batch, row, strict=True) if lossy]
    for name in kept:
        healed.pop(name, None)
    return kept, healed


def _write(engine: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    engine.execute(f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")


def transcode(source: Path, target: Path, charset: str) -> None:
    """Rewrite ``source`` from ``charset`` to UTF-8. Raises FileUnreadable for other bytes."""
    try:
        with (
            source.open(encoding=charset, errors="strict", newline="") as reader,
            target.open("w", encoding="utf-8", newline="") as writer,
        ):
            while chunk := reader.read(1 << 20):
                writer.write(chunk)
    except UnicodeError as error:
        raise FileUnreadable(f"The file is not valid {charset}.") from error


def line_of(message: str) -> str:
    """The line number in a DuckDB CSV error, for the seller; the rest may quote foreign data."""
    found = re.search(r"Line:\s*([0-9]+)", message)
    return f" The first problem is near line {found[1]}." if found else ""


def require_rows(engine: duckdb.DuckDBPyConnection, target: Path) -> None:
    """Raises UploadEmpty for a file of ours without rows."""
    if single_row(engine, f"SELECT count(*) FROM read_parquet({literal(str(target))})")[0] == 0:
        raise UploadEmpty
