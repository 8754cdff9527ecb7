"""Many rows into one table with one statement: arrays for a few rows, binary COPY for many.

Arrays cost one round trip and a type check per element on both sides; COPY costs a second round
trip and nothing else (tests/benchmarks/matching_durable.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

# From here on the arrays cost more than the round trip that COPY adds.
COPY_FROM_ROWS = 48


class BulkTable:
    """Where to and in which columns, with their SQL types in one string, parted by spaces.

    Names come from code, never from data. ``jsonb`` values are given as text.
    """

    def __init__(self, table: str, columns: Sequence[str], types: str) -> None:
        self._schema, self._name = table.split(".")
        self._columns = list(columns)
        pairs = list(zip(self._columns, types.split(), strict=True))
        names = ", ".join(self._columns)
        # SQLAlchemy's codec for jsonb does not reach into arrays.
        values = ", ".join(
            f"r.{name}::jsonb" if kind == "jsonb" else f"r.{name}" for name, kind in pairs
        )
        arrays = ", ".join(
            f"${index}::{'text' if kind == 'jsonb' else kind}[]"
            for index, (_, kind) in enumerate(pairs, start=1)
        )
        self._insert = (
            f'INSERT INTO {self._schema}."{self._name}" ({names}) SELECT {values} '
            f"FROM unnest({arrays}) WITH ORDINALITY AS r({names}, ordinality_) "
            "ORDER BY r.ordinality_"
        )

    async def insert(
        self, connection: asyncpg.Connection[Any], rows: Sequence[Sequence[object]]
    ) -> None:
        """Write ``rows`` in their order, in the caller's transaction. Raises asyncpg's errors."""
        if not rows:
            return
        if len(rows) >= COPY_FROM_ROWS:
            await connection.copy_records_to_table(
                self._name, schema_name=self._schema, columns=self._columns, records=rows
            )
            return
        await connection.execute(
            self._insert, *(list(column) for column in zip(*rows, strict=True))
        )
