"""A statement as JSON, CSV or Parquet, written piece by piece."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from market.kernel.ids import show
from market.kernel.money import decimal_text
from settlement.errors import StatementFormatNotOffered
from settlement.periods import Statement
from settlement.schemas import PostingView

ACCEPT_MAX_CHARS = 1_000
_COLUMNS = (
    "seq",
    "transfer_id",
    "kind",
    "memo_id",
    "reverses",
    "event_at",
    "booked_at",
    "currency",
    "amount_minor",
    "balance_minor",
    "amount",
    "balance",
)
_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("transfer_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("memo_id", pa.string()),
        pa.field("reverses", pa.string()),
        pa.field("event_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("booked_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("balance_minor", pa.int64(), nullable=False),
    ]
)


class StatementFormat(StrEnum):
    """Offered formats, by their names in ``?format=``."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    StatementFormat.JSON: "application/json",
    StatementFormat.CSV: "text/csv",
    StatementFormat.PARQUET: "application/vnd.apache.parquet",
}


def choose(asked: StatementFormat | None, accept: str | None) -> StatementFormat:
    """The format of ``?format=``, else the first accepted one; a missing header accepts JSON.

    Raises StatementFormatNotOffered (406).
    """
    if asked is not None:
        return asked
    if accept is None or not accept.strip():
        return StatementFormat.JSON
    for item in accept[:ACCEPT_MAX_CHARS].split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if any(p.replace(" ", "").rstrip("0").rstrip(".") in ("q=0", "q=") for p in parameters):
            continue
        for offered, media_type in MEDIA_TYPES.items():
            if name in ("*/*", media_type, media_type.partition("/")[0] + "/*"):
                return offered
    raise StatementFormatNotOffered


def write(
    statement: Statement, pieces: AsyncIterator[list[PostingView]], format_: StatementFormat
) -> AsyncIterator[bytes]:
    """The body of a statement in ``format_``."""
    writers = {
        StatementFormat.JSON: _json,
        StatementFormat.CSV: _csv,
        StatementFormat.PARQUET: _parquet,
    }
    return writers[format_](statement, pieces)


def head(statement: Statement) -> dict[str, Any]:
    """Everything but the lines, as in the JSON form."""
    return {
        "account_id": show("acc", statement.account_id),
        "kind": statement.kind,
        "currency": statement.currency,
        "by": statement.basis.value,
        "from": statement.start.isoformat(),
        "until": statement.end.isoformat(),
        "opening_minor": statement.opening,
        "closing_minor": statement.closing,
        "credit_minor": statement.credit,
        "debit_minor": statement.debit,
        "line_count": len(statement.seqs),
    }


async def _json(
    statement: Statement, pieces: AsyncIterator[list[PostingView]]
) -> AsyncIterator[bytes]:
    yield orjson.dumps(head(statement))[:-1] + b',"lines":['
    separator = b""
    async for lines in pieces:
        yield separator + b",".join(line.model_dump_json().encode() for line in lines)
        separator = b","
    yield b"]}"


async def _csv(
    statement: Statement, pieces: AsyncIterator[list[PostingView]]
) -> AsyncIterator[bytes]:
    """RFC 4180, with the opening and the closing balance as first and last row."""
    yield csv_rows([_COLUMNS, _mark(statement, "opening_balance", statement.opening)])
    async for lines in pieces:
        yield csv_rows([_cells(line) for line in lines])
    yield csv_rows([_mark(statement, "closing_balance", statement.closing)])


def _mark(statement: Statement, kind: str, balance: int) -> tuple[object, ...]:
    at = (statement.start if kind == "opening_balance" else statement.end).isoformat()
    currency = statement.currency
    amount = decimal_text(balance, currency)
    return ("", "", kind, "", "", at, at, currency, "", balance, "", amount)


def _cells(line: PostingView) -> tuple[object, ...]:
    return (
        line.seq,
        show("txn", line.transfer_id),
        line.kind,
        line.memo_id or "",
        show("txn", line.reverses) if line.reverses else "",
        line.event_at.isoformat(),
        line.booked_at.isoformat(),
        line.currency,
        line.amount_minor,
        line.balance_minor,
        decimal_text(line.amount_minor, line.currency),
        decimal_text(line.balance_minor, line.currency),
    )


def csv_rows(rows: list[tuple[object, ...]]) -> bytes:
    """RFC 4180 lines."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


async def _parquet(
    statement: Statement, pieces: AsyncIterator[list[PostingView]]
) -> AsyncIterator[bytes]:
    """One row group per piece; the head is the file's metadata under ``statement``."""
    sink = Sink()
    schema = _SCHEMA.with_metadata({"statement": orjson.dumps(head(statement))})
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd")
    async for lines in pieces:
        await asyncio.to_thread(writer.write_table, _table(lines, schema))
        yield sink.take()
    await asyncio.to_thread(writer.close)
    yield sink.take()


class Sink(io.RawIOBase):
    """A file that only grows and forgets what was taken: Parquet's footer comes last."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _table(lines: list[PostingView], schema: pa.Schema) -> pa.Table:
    columns = {
        "seq": [line.seq for line in lines],
        "transfer_id": [show("txn", line.transfer_id) for line in lines],
        "kind": [line.kind for line in lines],
        "memo_id": [line.memo_id and str(line.memo_id) for line in lines],
        "reverses": [line.reverses and show("txn", line.reverses) for line in lines],
        "event_at": [line.event_at for line in lines],
        "booked_at": [line.booked_at for line in lines],
        "currency": [line.currency for line in lines],
        "amount_minor": [line.amount_minor for line in lines],
        "balance_minor": [line.balance_minor for line in lines],
    }
    return pa.table(columns, schema=schema)
