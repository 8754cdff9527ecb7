"""The query of what changed between two versions. Pure text building; values are parameters.

Rows are taken in ranges of the hash of their key (of the whole row without one) and sorted by it,
so that the ranges can be computed one after another in bounded memory and the feed's order does
not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.delivery.sql import Query
from listings.columns import quoted
from listings.row_filter import Condition, Parameter

HASHES = 1 << 64


@dataclass(frozen=True, slots=True)
class Side:
    """One version as its reader may see it: its file, columns in the feed's order, rows."""

    path: str
    names: Sequence[str]
    only: Condition


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides. ``names`` are the columns of ``after``; ``before`` may lack some, then NULL.

    ``key`` is empty for a difference of multisets; ``mark`` names the column that says what
    happened: insert, update or delete.
    """

    before: Side
    after: Side
    key: Sequence[str]
    mark: str

    @property
    def names(self) -> Sequence[str]:
        """The data columns of the feed."""
        return self.after.names


def range_of(part: int, parts: int) -> tuple[str, str]:
    """The first and the last hash of a part, as decimal text: they exceed 64 signed bits."""
    return str(HASHES * part // parts), str(HASHES * (part + 1) // parts - 1)


def repeated_key_query(comparison: Comparison, part: int, parts: int) -> Query:
    """How many keys of a part are NULL in a column or stand for several rows of a version."""
    keys = ", ".join(quoted(name) for name in comparison.key)
    null = " OR ".join(f"{quoted(name)} IS NULL" for name in comparison.key)
    counts, values = [], []
    for side in (comparison.before, comparison.after):
        source, parameters = _rows(side, comparison.key, comparison.key, part, parts)
        counts.append(
            f"(SELECT count(*) FROM (SELECT {keys} FROM ({source}) "
            f"GROUP BY {keys} HAVING count(*) > 1 OR {null}))"
        )
        values += parameters
    return Query(f"SELECT {' + '.join(counts)}", tuple(values))


def changes_query(comparison: Comparison, part: int, parts: int) -> Query:
    """The changes of one part in the feed's order: the mark, then the columns.

    By key: new rows, rows with other values, and rows that are gone, as they were last. Without:
    each copy of a row that came or went.
    """
    if comparison.key:
        return _by_key(comparison, part, parts)
    return _by_row(comparison, part, parts)


def _by_key(comparison: Comparison, part: int, parts: int) -> Query:
    before, after = comparison.before, comparison.after
    old, values = _rows(before, before.names, comparison.key, part, parts)
    new, more = _rows(after, after.names, comparison.key, part, parts)
    first = f"{quoted(comparison.key[0])}"
    same = " AND ".join(f"a.{quoted(name)} = b.{quoted(name)}" for name in comparison.key)
    shared = set(before.names)
    columns, different = [], []
    for name in comparison.names:
        column = quoted(name)
        was = f"a.{column}" if name in shared else "NULL"
        columns.append(f"CASE WHEN b.{first} IS NULL THEN {was} ELSE b.{column} END AS {column}")
        different.append(f"{was} IS DISTINCT FROM b.{column}")
    keys = ", ".join(quoted(name) for name in comparison.key)
    sql = (
        f"SELECT CASE WHEN a.{first} IS NULL THEN 'insert' WHEN b.{first} IS NULL THEN 'delete' "
        f"ELSE 'update' END AS {quoted(comparison.mark)}, {', '.join(columns)} "
        f"FROM ({old}) a FULL JOIN ({new}) b ON {same} "
        f"WHERE a.{first} IS NULL OR b.{first} IS NULL OR {' OR '.join(different)}"
    )
    return Query(f"SELECT * FROM ({sql}) ORDER BY hash({keys}), {keys}", (*values, *more))


def _by_row(comparison: Comparison, part: int, parts: int) -> Query:
    before, after = comparison.before, comparison.after
    columns = ", ".join(quoted(name) for name in comparison.names)
    mark, low_high = quoted(comparison.mark), range_of(part, parts)
    sides, values = [], []
    for side, sign in ((after, 1), (before, -1)):
        names = ", ".join(f"t.{quoted(name)}" for name in side.names)
        sides.append(
            f"SELECT {names}, {sign} AS {mark} FROM read_parquet(?) t WHERE {side.only.sql}"
        )
        values += [side.path, *side.only.parameters]
    # The newer side first: it has all columns and gives them their types.
    both = " UNION ALL BY NAME ".join(f"({each})" for each in sides)
    counted = (
        f"SELECT {columns}, sum({mark}) AS {mark} FROM ({both}) WHERE hash({columns}) "
        f"BETWEEN CAST(? AS UBIGINT) AND CAST(? AS UBIGINT) GROUP BY {columns}"
    )
    copies = (
        f"SELECT CASE WHEN {mark} > 0 THEN 'insert' ELSE 'delete' END AS {mark}, {columns} "
        f"FROM (SELECT *, unnest(range(abs({mark})::BIGINT)) FROM ({counted}) WHERE {mark} <> 0)"
    )
    sql = f"SELECT * FROM ({copies}) ORDER BY hash({columns}), {columns}, {mark}"
    return Query(sql, (*values, *low_high))


def _rows(
    side: Side, names: Sequence[str], key: Sequence[str], part: int, parts: int
) -> tuple[str, list[Parameter]]:
    columns = ", ".join(f"t.{quoted(name)}" for name in names)
    keys = ", ".join(f"t.{quoted(name)}" for name in key)
    sql = (
        f"SELECT {columns} FROM read_parquet(?) t WHERE ({side.only.sql}) "
        f"AND hash({keys}) BETWEEN CAST(? AS UBIGINT) AND CAST(? AS UBIGINT)"
    )
    return sql, [side.path, *side.only.parameters, *range_of(part, parts)]


def count_query(path: str, mark: str) -> Query:
    """How many rows of a feed there are of each kind."""
    return Query(
        f"SELECT {quoted(mark)}, count(*) FROM read_parquet(?) GROUP BY {quoted(mark)}", (path,)
    )
