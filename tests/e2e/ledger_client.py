"""A client that keeps its own, durable record of what the ledger acknowledged.

Run as ``python -m tests.e2e.ledger_client URL RECORD LANES``. Each lane books one command after
the other through a ``LedgerWriter`` and writes each answer to RECORD with fsync before its next
command. Keys are numbers, so a new process knows from RECORD which command has no answer yet,
and asks for it again. Ends when told so by a line on standard input.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import NAMESPACE_OID, uuid5

import asyncpg

from market.kernel.context import Kernel, open_kernel
from market.kernel.errors import Unavailable
from market.kernel.settings import load_settings
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Applied, Capture, Command, Hold, Result, Transfer, Void
from settlement.writer import LedgerWriter

CURRENCY = "CNY"
PREFIX = "kills"
PAUSE_S = 0.1
CYCLE = 6
FAR = datetime(2100, 1, 1, tzinfo=UTC)
CLEARING = AccountRef(AccountKind.CLEARING, None, CURRENCY)
FEES = AccountRef(AccountKind.FEES, None, CURRENCY)


def wallet(lane: int) -> AccountRef:
    """A lane's own money."""
    return AccountRef(AccountKind.AVAILABLE, uuid5(NAMESPACE_OID, f"{PREFIX}:{lane}"), CURRENCY)


def command_of(lane: int, number: int) -> Command:
    """The same command in every process: a cycle of top-up, sale, refusal, hold, capture, void."""
    key = f"{PREFIX}:{lane}:{number}"
    own, other = wallet(lane), wallet(lane + 1)
    step = number % CYCLE
    if step == 0:
        return Transfer(key, "top_up", ((CLEARING, -100), (own, 100)))
    if step == 1:
        return Transfer(key, "sale", ((own, -30), (other, 27), (FEES, 3)))
    if step == 2:
        return Transfer(key, "too_much", ((own, -(10**14)), (other, 10**14)))
    hold_id = uuid5(NAMESPACE_OID, f"{PREFIX}:{lane}:{number - step + 3}:hold")
    if step == 3:
        return Hold(key, hold_id, own, 20, FAR)
    kept = uuid5(NAMESPACE_OID, f"{hold_id}:kept")
    if step == 4:
        return Capture(key, hold_id, "capture", ((other, 9), (FEES, 1)), rehold=5, rehold_id=kept)
    return Void(key, kept)


def told(result: Result) -> dict[str, object]:
    """An answer as the record keeps it."""
    if isinstance(result, Applied):
        name = None if result.transfer_id is None else str(result.transfer_id)
        return {"key": result.key, "transfer": name, "code": None}
    return {"key": result.key, "transfer": None, "code": result.code}


class Record:
    """One JSON per line; a line that was torn by a kill was not acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def read(self) -> list[dict[str, Any]]:
        """Every whole line."""
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Cut off a torn line, then append."""
        data = self._path.read_bytes() if self._path.exists() else b""
        with self._path.open("ab") as file:
            file.truncate(data.rfind(b"\n") + 1)
            self._file = file
            yield

    def add(self, line: dict[str, object]) -> None:
        """On disk when it returns."""
        assert self._file is not None
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class Lane:
    """One client: its next command is the first that the record does not know."""

    def __init__(self, kernel: Kernel, writer: LedgerWriter, record: Record, lane: int) -> None:
        self._kernel, self._writer, self._record, self._lane = kernel, writer, record, lane

    async def run(self, number: int, ended: asyncio.Event) -> None:
        """Until told to end; the command in hand is finished first."""
        unsure = number > 0
        while not ended.is_set() or unsure:
            command = command_of(self._lane, number)
            known = await self._known(command.key) if unsure else None
            try:
                result = await self._writer.submit(command)
            except Unavailable:
                unsure = True
                await asyncio.sleep(PAUSE_S)
                continue
            self._record.add(
                {**told(result), "unsure": unsure, "known": known, "replayed": result.replayed}
            )
            number, unsure = number + 1, False

    async def _known(self, key: str) -> dict[str, object] | None:
        """What the key says before it is used again: the truth that the answer must repeat."""
        while True:
            try:
                async with self._kernel.unit_of_work() as uow:
                    result = await ledger.recall(uow, key)
                return None if result is None else told(result)
            except (Unavailable, OSError, asyncpg.InterfaceError):
                await asyncio.sleep(PAUSE_S)


async def _main(url: str, path: Path, lanes: int) -> None:
    kernel = open_kernel(
        load_settings(database_url=url, redis_url="redis://127.0.0.1:1/0", home=path.parent)
    )
    record = Record(path)
    done = [0] * lanes
    for line in record.read():
        done[int(str(line["key"]).split(":")[1])] += 1
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    with record.opened():
        async with LedgerWriter(kernel) as writer:
            tasks = [
                asyncio.create_task(
                    Lane(kernel, writer, record, lane).run(number, ended),
                    context=contextvars.copy_context(),
                )
                for lane, number in enumerate(done)
            ]
            await asyncio.gather(*tasks)
    await kernel.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
