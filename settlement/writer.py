"""Group commit: many callers, one transaction after the other, each carrying all that waited.

No timer: while a batch commits the next one collects, so a lone caller waits for nobody and a
crowd shares one fsync (ledger.md §5: 2.7-8.9k/s at batches up to 1,024 against 310-460/s for a
function per transfer). Correctness rests on keys and row locks, not on there being one writer.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import asyncpg
import structlog

from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work
from market.kernel.errors import Unavailable
from settlement.commands import Command, Result
from settlement.errors import LedgerBusy
from settlement.ledger import post

BATCH_MAX = 4_096
ATTEMPTS_MAX = 6
BACKOFF_START_S = 0.02

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    command: Command
    answer: asyncio.Future[Result]


class LedgerWriter:
    """Use as ``async with LedgerWriter(kernel) as writer``; then ``await writer.submit(...)``."""

    def __init__(
        self, kernel: Kernel, *, queue_max: int | None = None, batch_max: int = BATCH_MAX
    ) -> None:
        self._kernel = kernel
        self._queue_max = queue_max or kernel.settings.ledger_queue_max
        self._batch_max = batch_max
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        # An empty context: the task must not inherit an open unit of work or a request's claim.
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="ledger-writer", context=contextvars.Context()
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Book what is queued, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def submit(self, command: Command) -> Result:
        """Book one command durably and answer it. Not inside a unit of work (AssertionError).

        Raises LedgerBusy (503) when the queue is full or the writer is stopping, and
        Unavailable when the database stayed away: the outcome is then unknown, and the same
        command may be submitted again under the same key.
        """
        assert_no_unit_of_work()
        if self._task is None or self._closing or len(self._queue) >= self._queue_max:
            raise LedgerBusy("Too many commands are waiting.")
        waiting = _Waiting(command, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        return await waiting.answer

    async def _run(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            count = min(len(self._queue), self._batch_max)
            taken = [self._queue.popleft() for _ in range(count)]
            # Whoever stopped waiting before the booking began gets none.
            await self._book([item for item in taken if not item.answer.done()])

    async def _book(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            results = await self._post_patiently([item.command for item in batch])
        except Exception as error:  # noqa: BLE001 - every waiting caller must get its answer
            if len(batch) == 1 or isinstance(error, Unavailable):
                _fail(batch, error)
                return
            _log.error("ledger_batch_failed", commands=len(batch), exc_info=error)
            # One command breaks the statement for all: find it by booking them one by one.
            for item in batch:
                await self._book([item])
            return
        for item, result in zip(batch, results, strict=True):
            if not item.answer.done():
                item.answer.set_result(result)

    async def _post_patiently(self, commands: Sequence[Command]) -> list[Result]:
        """Post and commit; again after a failure that may pass.

        A connection lost at COMMIT leaves the outcome unknown. Posting again is safe and finds
        out: ``post`` locks the accounts first (waiting for the old transaction, if it still
        runs), then reads the keys, and answers from memory whatever was booked.
        """
        for attempt in range(ATTEMPTS_MAX):
            try:
                async with self._kernel.unit_of_work() as uow:
                    return await post(uow, commands)
            except (Unavailable, asyncpg.InterfaceError, OSError) as error:
                if attempt + 1 == ATTEMPTS_MAX:
                    if isinstance(error, Unavailable):
                        raise
                    raise Unavailable("The database connection was lost.") from error
                _log.warning("ledger_batch_retry", attempt=attempt, error=str(error))
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, no secret
                await asyncio.sleep(BACKOFF_START_S * 2**attempt * jitter)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(error)
