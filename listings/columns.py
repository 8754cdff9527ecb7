"""Which column names and types may be traded. Pure."""

import re
import unicodedata
from collections.abc import Sequence

from listings.errors import ColumnNameInvalid, ColumnTypeUnsupported, TooManyColumns

COLUMNS_MAX = 512
NAME_CHARS_MAX = 128
# A formula sign first would run in a buyer's spreadsheet (operations.md row 49).
_NAME = re.compile(r"[^\W][\w .()%/#:\-]*")
# Names that DuckDB's Parquet reader gives to its own virtual columns.
_RESERVED = frozenset({"file_row_number", "filename", "file_index", "rowid"})
# DuckDB type names; DECIMAL carries its width. Everything else is nested, binary or lossy.
_FLAT = re.compile(
    r"BOOLEAN|U?(?:TINYINT|SMALLINT|INTEGER|BIGINT)|FLOAT|DOUBLE|DECIMAL\([0-9]+,[0-9]+\)|VARCHAR"
    r"|DATE|TIME|TIMESTAMP(?:_S|_MS|_NS| WITH TIME ZONE)?|UUID"
)


def check_names(names: Sequence[str]) -> None:
    """Raises TooManyColumns, or ColumnNameInvalid for the first bad or repeated name.

    Names are compared in NFKC case-folded form, because DuckDB and SQL clients fold case.
    """
    if len(names) > COLUMNS_MAX:
        raise TooManyColumns(f"The file has {len(names)} columns, the limit is {COLUMNS_MAX}.")
    seen: set[str] = set()
    for position, name in enumerate(names):
        param = f"columns.{position}"
        if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name) or name != name.strip():
            raise ColumnNameInvalid(
                f"Column {position + 1} has the name {name[:NAME_CHARS_MAX]!r}.", param=param
            )
        folded = unicodedata.normalize("NFKC", name).casefold()
        if folded in _RESERVED:
            raise ColumnNameInvalid(f"The name {name!r} is reserved.", param=param)
        if folded in seen:
            raise ColumnNameInvalid(f"The name {name!r} occurs twice.", param=param)
        seen.add(folded)


def is_flat(type_: str) -> bool:
    """Whether values of this DuckDB type are single, printable and exact."""
    return _FLAT.fullmatch(type_) is not None


def check_types(columns: Sequence[tuple[str, str]]) -> None:
    """Raises ColumnTypeUnsupported for the first column that is not flat."""
    for position, (name, type_) in enumerate(columns):
        if not is_flat(type_):
            shown = type_ if len(type_) <= 80 else type_[:77] + "..."
            raise ColumnTypeUnsupported(
                f"Column {name!r} has the type {shown}.", param=f"columns.{position}"
            )


def quoted(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"
