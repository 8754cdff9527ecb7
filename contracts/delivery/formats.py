"""The formats of a page: JSON, NDJSON, CSV, Parquet, Arrow IPC stream, by ``Accept``. Pure."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from contracts.errors import FormatNotOffered

ACCEPT_MAX_CHARS = 1_000
CELLS_AT_ONCE = 400_000
# A spreadsheet runs a cell that begins so (ASVS 5.0 1.2.10); signed numbers stay as they are.
_FORMULA = r"^([=@\t\r]|[+\-][^0-9.])"


class Format(StrEnum):
    """Offered formats, by their short names in usage records."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    NDJSON = "ndjson"


MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.CSV: "text/csv",
    Format.PARQUET: "application/vnd.apache.parquet",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.NDJSON: "application/x-ndjson",
}


@dataclass(frozen=True, slots=True)
class PageMarks:
    """What the JSON envelope says about the page."""

    has_more: bool
    next_after: str | None


def negotiate(accept: str | None) -> Format:
    """The offered format with the highest weight; ties go to the earlier of :class:`Format`.

    Raises FormatNotOffered (406). A missing header accepts everything (RFC 9110 §12.5.1).
    """
    if accept is None or not accept.strip():
        return Format.JSON
    best = _heaviest(accept[:ACCEPT_MAX_CHARS])
    if best is None:
        raise FormatNotOffered("Offered are " + ", ".join(MEDIA_TYPES.values()) + ".")
    return best


# A client says the same every time; parsing it cost as much as a reservation from a block.
@lru_cache(maxsize=256)
def _heaviest(accept: str) -> Format | None:
    best, best_weight = None, 0.0
    for offered, media_type in MEDIA_TYPES.items():
        weight = _weight(accept, media_type)
        if weight > best_weight:
            best, best_weight = offered, weight
    return best


def _weight(accept: str, media_type: str) -> float:
    main = media_type.partition("/")[0]
    precision_of = {"*/*": 1, f"{main}/*": 2, media_type: 3}
    found, precision = 0.0, 0
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        exactness = precision_of.get(name, 0)
        if exactness > precision:
            found, precision = quality(parameters), exactness
    return found


def quality(parameters: list[str]) -> float:
    """The weight that an item's ``parameters`` give it; 1 if none, 0 if it cannot be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if math.isfinite(weight) else 0.0
    return 1.0


def encode(table: pa.Table, format_: Format, marks: PageMarks) -> bytes:
    """The body of a page. CPU-bound: call it in a thread."""
    encoders: dict[Format, Callable[[pa.Table, PageMarks], bytes]] = {
        Format.JSON: _json,
        Format.CSV: _csv,
        Format.PARQUET: _parquet,
        Format.ARROW: _arrow,
        Format.NDJSON: _ndjson,
    }
    return encoders[format_](table, marks)


def _json(table: pa.Table, marks: PageMarks) -> bytes:
    end = orjson.dumps({"has_more": marks.has_more, "next_after": marks.next_after})
    pieces = (
        orjson.dumps(rows, default=_plain, option=orjson.OPT_UTC_Z)[1:-1]
        for rows in _objects(table)
    )
    return b"".join((b'{"items":[', b",".join(pieces), b"],", end[1:]))


def _ndjson(table: pa.Table, _marks: PageMarks) -> bytes:
    option = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    return b"".join(
        b"".join([orjson.dumps(row, default=_plain, option=option) for row in rows])
        for rows in _objects(table)
    )


def _objects(table: pa.Table) -> Iterator[list[dict[str, object]]]:
    """The rows as objects, some at a time: a wide page's take ten times what its columns do."""
    names = table.column_names
    step = max(1, CELLS_AT_ONCE // max(1, len(names)))
    for batch in table.to_batches(max_chunksize=step):
        columns = [column.to_pylist() for column in batch.columns]
        if batch.num_rows:
            yield [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: object) -> str:
    # A decimal as a JSON number would become a float in most readers.
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _csv(table: pa.Table, _marks: PageMarks) -> bytes:
    safe = [_without_formulas(column) for column in table.columns]
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(safe, names=table.column_names), sink)
    return sink.getvalue()


def _without_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    dangerous = pc.match_substring_regex(column, _FORMULA)
    if not pc.any(dangerous).as_py():
        return column
    return pc.if_else(dangerous, pc.binary_join_element_wise("'", column, ""), column)


def _parquet(table: pa.Table, _marks: PageMarks) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _arrow(table: pa.Table, _marks: PageMarks) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
