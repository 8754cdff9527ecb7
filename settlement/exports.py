"""Export of the whole ledger, streamed in the order of the hash chain.

One snapshot (REPEATABLE READ, READ ONLY), read in bounded pieces: memory stays flat at any size.
The file appears under its name only when it is complete.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from market.kernel.ids import show
from settlement import beancount_text
from settlement.accounts import AccountRef
from settlement.verify import snapshot
from settlement.verify_report import Progress

if TYPE_CHECKING:
    from asyncpg import Connection, Record

LINKS_PER_READ = 128
ROWS_PER_PIECE = 5_000
ACCOUNTS_PER_READ = 2_000

_ACCOUNTS = """
SELECT id, kind, owner, currency, posted, seq, created_at FROM settlement.account ORDER BY id
"""
_LINKS = """
SELECT l.number, l.batch_id FROM settlement.chain_link l
WHERE l.number > $1 ORDER BY l.number LIMIT $2
"""
_ROWS = """
SELECT l.number AS link, c.ordinal, t.id AS transfer_id, t.kind, t.memo_id, t.reverses,
       t.event_at, t.booked_at, p.account_id, a.kind AS account_kind, a.owner, a.currency, p.seq,
       p.amount, p.balance
FROM settlement.chain_link l
JOIN settlement.command c ON c.batch_id = l.batch_id
JOIN settlement.transfer t ON t.id = c.transfer_id
JOIN settlement.posting p ON p.transfer_id = t.id
JOIN settlement.account a ON a.id = p.account_id
WHERE l.number > $1 AND l.number <= $2
ORDER BY l.number, c.ordinal, p.account_id
"""
_FIELDS = (
    "link",
    "ordinal",
    "transfer_id",
    "kind",
    "memo_id",
    "reverses",
    "event_at",
    "booked_at",
    "account_id",
    "account_kind",
    "owner",
    "currency",
    "seq",
    "amount_minor",
    "balance_minor",
)
_WHOLE = {"link", "ordinal", "seq", "amount_minor", "balance_minor"}
_TIMES = {"event_at", "booked_at"}
_SCHEMA = pa.schema(
    [
        pa.field(
            name,
            pa.int64()
            if name in _WHOLE
            else pa.timestamp("us", tz="UTC")
            if name in _TIMES
            else pa.string(),
        )
        for name in _FIELDS
    ]
)


class ExportFormat(StrEnum):
    """Offered formats."""

    BEANCOUNT = "beancount"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    accounts: int
    postings: int
    links: int


_Writer: TypeAlias = Callable[
    ["Connection[Any]", BinaryIO, AsyncIterator[list["Record"]]], Awaitable[tuple[int, int]]
]


async def export_ledger(
    database_url: str, path: Path, format_: ExportFormat, *, progress: Progress | None = None
) -> Exported:
    """Write the whole ledger to ``path``; an older file there is replaced at the end.

    ``progress(phase, done, total)`` counts links. Raises asyncpg errors when the database cannot
    be read, OSError when the file cannot be written; ``path`` is then as it was.
    """
    tell = progress or (lambda phase, done, total: None)
    writers: Mapping[ExportFormat, _Writer] = {
        ExportFormat.BEANCOUNT: _beancount,
        ExportFormat.CSV: _csv,
        ExportFormat.JSON: _json,
        ExportFormat.PARQUET: _parquet,
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        async with snapshot(database_url) as connection:
            links = await connection.fetchval("SELECT number FROM settlement.chain_head")
            with draft.open("wb") as file:
                pieces = _pieces(connection, tell, links)
                accounts, postings = await writers[format_](connection, file, pieces)
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Exported(accounts, postings, links)


async def _pieces(
    connection: Connection[Any], tell: Progress, links: int
) -> AsyncIterator[list[Record]]:
    """About ROWS_PER_PIECE postings at a time; the legs of a transfer stay together."""
    piece: list[Record] = []
    for number in range(0, links, LINKS_PER_READ):
        until = min(number + LINKS_PER_READ, links)
        async for row in connection.cursor(_ROWS, number, until, prefetch=ROWS_PER_PIECE):
            if len(piece) >= ROWS_PER_PIECE and row["transfer_id"] != piece[-1]["transfer_id"]:
                yield piece
                piece = []
            piece.append(row)
        tell("links", until, links)
    if piece:
        yield piece


async def _count_accounts(connection: Connection[Any]) -> int:
    counted: int = await connection.fetchval("SELECT count(*) FROM settlement.account")
    return counted


def _values(row: Record) -> tuple[object, ...]:
    """One posting in the order of _FIELDS: ids in wire form, amounts in minor units."""
    owner: UUID | None = row["owner"]
    return (
        row["link"],
        row["ordinal"],
        show("txn", row["transfer_id"]),
        row["kind"],
        row["memo_id"] and str(row["memo_id"]),
        row["reverses"] and show("txn", row["reverses"]),
        row["event_at"],
        row["booked_at"],
        show("acc", row["account_id"]),
        row["account_kind"],
        owner and str(owner),
        row["currency"],
        row["seq"],
        row["amount"],
        row["balance"],
    )


async def _csv(
    connection: Connection[Any], file: BinaryIO, pieces: AsyncIterator[list[Record]]
) -> tuple[int, int]:
    file.write(_csv_rows([_FIELDS]))
    postings = 0
    async for rows in pieces:
        postings += len(rows)
        file.write(_csv_rows([[_cell(value) for value in _values(row)] for row in rows]))
    return await _count_accounts(connection), postings


def _cell(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _csv_rows(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


async def _json(
    connection: Connection[Any], file: BinaryIO, pieces: AsyncIterator[list[Record]]
) -> tuple[int, int]:
    """One array, a posting per line."""
    postings = 0
    file.write(b"[")
    async for rows in pieces:
        for row in rows:
            file.write(b",\n" if postings else b"\n")
            file.write(orjson.dumps(dict(zip(_FIELDS, _values(row), strict=True))))
            postings += 1
    file.write(b"\n]\n")
    return await _count_accounts(connection), postings


async def _parquet(
    connection: Connection[Any], file: BinaryIO, pieces: AsyncIterator[list[Record]]
) -> tuple[int, int]:
    postings = 0
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        async for rows in pieces:
            columns = zip(*(_values(row) for row in rows), strict=True)
            arrays = [
                pa.array(column, type=field.type)
                for column, field in zip(columns, _SCHEMA, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
            postings += len(rows)
    return await _count_accounts(connection), postings


async def _beancount(
    connection: Connection[Any], file: BinaryIO, pieces: AsyncIterator[list[Record]]
) -> tuple[int, int]:
    """Opens, transfers, then what every account must stand at after the last of them."""
    file.write(beancount_text.HEAD.encode())
    currencies = await connection.fetch(
        "SELECT currency, min(created_at) AS since FROM settlement.account"
        " GROUP BY currency ORDER BY currency"
    )
    for row in currencies:
        file.write(beancount_text.commodity(row["currency"], row["since"]).encode())
    accounts, postings = 0, 0
    async for row in connection.cursor(_ACCOUNTS, prefetch=ACCOUNTS_PER_READ):
        file.write(beancount_text.opened(row["id"], _ref(row), row["created_at"]).encode())
        accounts += 1
    last = None
    async for rows in pieces:
        postings += len(rows)
        for transfer in _by_transfer(rows):
            file.write(
                beancount_text.transfer(
                    [dict(row) for row in transfer], _posted_to(transfer)
                ).encode()
            )
            booked = transfer[0]["booked_at"]
            last = booked if last is None else max(last, booked)
    if last is not None:
        async for row in connection.cursor(_ACCOUNTS, prefetch=ACCOUNTS_PER_READ):
            file.write(beancount_text.balance(_ref(row), row["posted"], last).encode())
    return accounts, postings


def _ref(row: Record) -> AccountRef:
    return AccountRef(row["kind"], row["owner"], row["currency"])


def _posted_to(rows: Sequence[Record]) -> list[AccountRef]:
    return [AccountRef(row["account_kind"], row["owner"], row["currency"]) for row in rows]


def _by_transfer(rows: Sequence[Record]) -> list[list[Record]]:
    found: list[list[Record]] = []
    for row in rows:
        if not found or found[-1][0]["transfer_id"] != row["transfer_id"]:
            found.append([])
        found[-1].append(row)
    return found
