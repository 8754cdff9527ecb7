"""Group commit: many callers, one transaction after the other, each carrying all that waited.

No timer: while a batch commits the next one collects, so a lone caller waits for nobody and a
crowd shares one fsync (ledger.md §5: 2.7-8.9k/s at batches up to 1,024 against 310-460/s for a
function per transfer). And while Postgres writes a batch, Python decides and encodes the next
one on the states it expects (:mod:`settlement.foresight`): one processor core each. Correctness
rests on keys and row locks, not on there being one writer, nor on its guesses.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

import asyncpg
import structlog

from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work
from market.kernel.errors import Unavailable
from settlement.commands import Command, Result
from settlement.errors import LedgerBusy
from settlement.foresight import Foresight, plain
from settlement.ledger import settle, write
from settlement.plan import Plan

BATCH_MAX = 4_096
ATTEMPTS_MAX = 6
BACKOFF_START_S = 0.02
# Commands decided, or callers woken, between two looks at the socket: about 3 ms.
SLICE = 128
# From twice this many waiting commands on, the first batch leaves with half of them.
PLAN_FROM = 256
# A planned batch takes up to this many commands that came while it was decided.
FULL = 1_024

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    command: Command
    answer: asyncio.Future[Result]


@dataclass(slots=True)
class _Batch:
    waiting: list[_Waiting] = field(default_factory=list)
    plan: Plan | None = None
    failures: int = 0


@dataclass(slots=True)
class _Flight:
    """A batch being booked. ``settled`` once what it leaves behind is known."""

    task: asyncio.Task[None] = field(init=False)
    settled: bool = False
    answers: list[tuple[_Waiting, Result | Exception]] = field(default_factory=list)


class LedgerWriter:
    """Use as ``async with LedgerWriter(kernel) as writer``; then ``await writer.submit(...)``."""

    def __init__(
        self, kernel: Kernel, *, queue_max: int | None = None, batch_max: int = BATCH_MAX
    ) -> None:
        self._kernel = kernel
        self._foresight = Foresight(kernel)
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
        flight: _Flight | None = None
        while self._queue or flight is not None or not self._closing:
            if not self._queue and flight is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = await self._collect(flight)
            if flight is not None:
                await flight.task
            landed, flight = flight, None
            if batch.waiting:
                flight = _Flight()
                flight.task = asyncio.create_task(self._book(batch, flight))
                # Its first statement is on its way before thousands of callers run.
                await asyncio.sleep(0)
            if landed is not None:
                await _answer(landed)

    async def _collect(self, flight: _Flight | None) -> _Batch:
        """The next batch: what waits, decided ahead as far as it can be while one is in flight."""
        batch = _Batch()
        if flight is None:
            # Half of a crowd: the other half is decided meanwhile.
            half = len(self._queue) // 2
            self._take(batch, half if half >= PLAN_FROM else len(self._queue))
            return batch
        while not flight.task.done():
            if self._queue and flight.settled and len(batch.waiting) < self._batch_max:
                await self._plan(batch, SLICE)
                await asyncio.sleep(0)
            else:
                self._wake.clear()
                await self._wake.wait()
        # Others came while this one was decided: it should not leave without them, within limits.
        while self._queue and len(batch.waiting) < min(FULL, self._batch_max):
            await self._plan(batch, SLICE)
        return batch

    def _take(self, batch: _Batch, count: int) -> list[_Waiting]:
        taken = []
        for _ in range(min(count, len(self._queue), self._batch_max - len(batch.waiting))):
            item = self._queue.popleft()
            # Whoever stopped waiting before the booking began gets none.
            if not item.answer.done():
                taken.append(item)
        batch.waiting += taken
        return taken

    async def _plan(self, batch: _Batch, count: int) -> None:
        first = not batch.waiting
        taken = [item.command for item in self._take(batch, count)]
        if first:
            batch.plan, batch.failures = self._foresight.begin(), self._foresight.failures
        if batch.plan is None:
            return
        if not all(plain(command) for command in taken):
            batch.plan = None
            return
        try:
            if not await self._foresight.extend(batch.plan, taken):
                batch.plan = None
        except Exception as error:  # noqa: BLE001 - a guess may fail, the booking will tell
            _log.warning("ledger_plan_failed", error=str(error))
            batch.plan = None

    async def _book(self, batch: _Batch, flight: _Flight) -> None:
        """Book a batch; the answers go into ``flight``, results or the exception for each."""
        waiting = batch.waiting
        commands = [item.command for item in waiting]
        plan = batch.plan if batch.failures == self._foresight.failures else None
        try:
            results = await self._post_patiently(commands, plan, flight)
            flight.answers += zip(waiting, results, strict=True)
        except Exception as error:  # noqa: BLE001 - every waiting caller must get its answer
            self._foresight.forget()
            if len(waiting) == 1 or isinstance(error, Unavailable):
                flight.answers += [(item, error) for item in waiting]
                return
            _log.error("ledger_batch_failed", commands=len(waiting), exc_info=error)
            # One command breaks the statement for all: find it by booking them one by one.
            for item in waiting:
                await self._book(_Batch([item]), flight)
        finally:
            self._wake.set()

    async def _post_patiently(
        self, commands: Sequence[Command], plan: Plan | None, flight: _Flight
    ) -> list[Result]:
        """Post and commit; again after a failure that may pass.

        A connection lost at COMMIT leaves the outcome unknown. Posting again is safe and finds
        out: the accounts are locked first (waiting for the old transaction, if it still runs),
        then the keys are read, and whatever was booked is answered from memory.
        """
        for attempt in range(ATTEMPTS_MAX):
            try:
                async with self._kernel.unit_of_work() as uow:
                    settled = await settle(uow, commands, foreseen=plan)
                    assert settled.settled_at is not None
                    self._foresight.settled(settled, settled.settled_at, foreseen=settled is plan)
                    flight.settled = True
                    self._wake.set()
                    await write(uow, settled)
                return settled.results
            except (Unavailable, asyncpg.InterfaceError, OSError) as error:
                flight.settled = False
                self._foresight.forget()
                plan = None
                if attempt + 1 == ATTEMPTS_MAX:
                    if isinstance(error, Unavailable):
                        raise
                    raise Unavailable("The database connection was lost.") from error
                _log.warning("ledger_batch_retry", attempt=attempt, error=str(error))
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads retries, no secret
                await asyncio.sleep(BACKOFF_START_S * 2**attempt * jitter)
        raise AssertionError("unreachable: the last attempt returns or raises")


async def _answer(flight: _Flight) -> None:
    """Wake the callers in groups, so that the batch in flight is never kept waiting for long."""
    for number, (item, answer) in enumerate(flight.answers, start=1):
        if not item.answer.done():
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result(answer)
        if number % SLICE == 0:
            await asyncio.sleep(0)
