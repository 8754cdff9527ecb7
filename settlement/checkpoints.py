"""Signed checkpoints: what the hash chain was, said outside the database too.

A chain alone can be rewritten from the start by whoever owns the database; a statement signed
earlier and kept elsewhere cannot (operations.md §1, row "Tamper evidence").
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from datetime import datetime
from pathlib import Path

import orjson
from sqlmodel import col, select

from market.kernel.context import Kernel
from settlement.models import ChainHead, Checkpoint

CHECKPOINT_TYP = "ledger-checkpoint+jws"
FILE_NAME = "ledger-checkpoints.jsonl"
# Lines appended per run; a file that lags further catches up over the next runs.
APPEND_MAX = 1_000
_TAIL_BYTES = 65_536


def checkpoint_file(kernel: Kernel) -> Path:
    """The append-only file outside the database: one JSON object per line."""
    return kernel.settings.home / FILE_NAME


async def write_checkpoint(kernel: Kernel) -> int:
    """Sign the chain's head if it moved, store it, and append what the file lacks.

    Returns the checkpoints signed (0 or 1). Safe to run concurrently and after a crash between
    the commit and the append.
    """
    async with kernel.unit_of_work() as uow:
        head = (await uow.session.exec(select(ChainHead))).one()
        newest = (
            await uow.session.exec(
                select(Checkpoint.number).order_by(col(Checkpoint.number).desc()).limit(1)
            )
        ).first()
        signed = 0
        if head.number > (newest or 0):
            signed = await (await uow.raw()).fetchval(
                "WITH made AS (INSERT INTO settlement.checkpoint (number, hash, jws, created_at) "
                "VALUES ($1, $2, $3, $4) ON CONFLICT (number) DO NOTHING RETURNING 1) "
                "SELECT count(*) FROM made",
                head.number,
                head.hash,
                _sign(kernel, head, uow.now),
                uow.now,
            )
    await _append_missing(kernel)
    return signed


def _sign(kernel: Kernel, head: ChainHead, at: datetime) -> str:
    payload = {"number": head.number, "hash": head.hash.hex(), "at": at.isoformat()}
    return kernel.keys.sign(CHECKPOINT_TYP, payload)


async def _append_missing(kernel: Kernel) -> None:
    path = checkpoint_file(kernel)
    last = await asyncio.to_thread(_last_number, path)
    query = (
        select(Checkpoint)
        .where(col(Checkpoint.number) > last)
        .order_by(col(Checkpoint.number))
        .limit(APPEND_MAX)
    )
    async with kernel.unit_of_work() as uow:
        rows = [(row.number, row.jws) for row in await uow.session.exec(query)]
    if rows:
        await asyncio.to_thread(_append, path, rows)


def _last_number(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = [line for line in file.read().splitlines() if line.startswith(b'{"number":')]
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return int(orjson.loads(line)["number"])
        except (orjson.JSONDecodeError, KeyError):
            continue  # a line cut by a crash; it is written again below
    return 0


def _append(path: Path, rows: list[tuple[int, str]]) -> None:
    is_new = not path.exists()
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Another process may have appended meanwhile; and a cut last line must not swallow ours.
        last = _last_number(path)
        text = b"".join(
            orjson.dumps({"number": number, "jws": jws}) + b"\n"
            for number, jws in rows
            if number > last
        )
        if file.tell() and not _ends_in_newline(path):
            text = b"\n" + text
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The name of a new file is the folder's content: without this a power cut can lose the file.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
