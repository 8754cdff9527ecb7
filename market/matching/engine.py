"""The matching engine: one writer per shard, group commit, answers only after COMMIT.

While a batch commits the next one collects; there is no timer (ledger.md §5). Memory follows the
database and never leads it: a failed batch drops the books it touched, and they are read again.
A second engine idles until the lease of the first has run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID

import asyncpg

from market.kernel.collector import collection_paused
from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work
from market.kernel.errors import MarketError, Unavailable
from market.kernel.ids import new_id
from market.kernel.logging import get_logger
from market.matching import sql
from market.matching.batch import FROZEN_WRITER_S, Batch
from market.matching.bundle_schemas import LEGS_MAX
from market.matching.commands import Command, Control, Reply, weight
from market.matching.deadlines import Deadlines
from market.matching.errors import EngineBusy, EngineFailed, EngineStalled, EngineStandby
from market.matching.messages import MessageMeter
from market.matching.models import SHARD
from market.matching.shard import Shard
from market.matching.sweep import Sweep
from market.matching.verdicts import Fence, Reconsider, StaleLease, Verdicts

# A batch that keeps meeting locks, deadlocks or a lost connection is given up after these.
ATTEMPTS_MAX = 4
BACKOFF_S = 0.05
# A call auction that failed to close in so many rounds is void.
CLOSING_ATTEMPTS_MAX = 3
# Each reconsideration removes at least one order, so this many mean a stream of new ones.
RECONSIDERATIONS_MAX = 16
# A caller waits this long; the outcome is then unknown to it and found by its key.
ANSWER_TIMEOUT_S = 30
# The lease is renewed, and expiries are looked for, this many times per lease time.
TICKS_PER_LEASE = 4
TICK_MAX_S = 1.0
# Per fetched portion of a rebuild, not for the whole of it.
LOAD_TIMEOUT_MS = 60_000
# From here on the open orders of a rebuild are taken out of the cycle collector's sight: they end
# by reference count, and searching a million of them would stop the process for a second. For
# good: thawing them would thaw what a tuned process has frozen (`market.kernel.collector`).
FREEZE_FROM_ORDERS = 10_000

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Reply]
    good_until: datetime | None = None


class MatchingEngine:
    """Use as ``async with MatchingEngine(kernel) as engine``; then ``await engine.submit(...)``.

    ``holder`` names this writer in the lease; a restarted process may not reuse a name while the
    old one could still be alive.
    """

    def __init__(self, kernel: Kernel, *, holder: str | None = None) -> None:
        self._kernel = kernel
        self._holder = holder or f"{socket.gethostname()}/{os.getpid()}/{new_id().hex[-12:]}"
        self._ttl_s = kernel.settings.engine_lease_ttl_s
        self._tick_s = min(TICK_MAX_S, self._ttl_s / TICKS_PER_LEASE)
        self._batch_max = kernel.settings.engine_batch_max
        self._queue_max = kernel.settings.engine_queue_max
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._shard = Shard()
        self._term: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        # Call auctions whose closing has failed, and how often.
        self._closings_failed: dict[UUID, int] = {}
        self._messages = MessageMeter(time.monotonic)
        self._messages_per_s = kernel.settings.order_messages_per_s
        # Carries commands to the owner while that is another process (market.matching.relay).
        self.relay: Callable[[Command], Coroutine[None, None, Reply]] | None = None
        self._sweep = Sweep()
        self._deadlines = Deadlines(ANSWER_TIMEOUT_S, lambda: EngineStalled(retry_after_s=2))

    @property
    def is_owner(self) -> bool:
        """Whether this engine believes to hold the lease; each batch's transaction verifies it."""
        return self._term is not None

    @property
    def shard(self) -> Shard:
        """The memory of this writer, for inspection."""
        return self._shard

    async def __aenter__(self) -> Self:
        """Start; takes the lease at once when it is free, and is then ready for orders."""
        try:
            await self._try_acquire()
        except Unavailable as error:
            _log.warning("engine_waits_for_database", error=error.detail)
        # An empty context: the task must not inherit an open unit of work or a request's claim.
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="matching-engine", context=contextvars.Context()
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Carry out what is queued, give the lease back, stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._deadlines.close()
        await self._release()

    async def submit(self, command: Command) -> Reply:
        """Carry out one command durably and answer it, here or at the owner. Not in a unit of work.

        Raises EngineStandby when another process is the writer and there is no way to it,
        EngineBusy when the queue is full, EngineStalled when there was no answer in time,
        DatabaseUnavailable (all 503), TooManyMessages (429), and EngineFailed (500) for a command
        that cannot be carried out because of a defect.
        """
        assert_no_unit_of_work()
        try:
            return await self.accept(command)
        except EngineStandby:
            # Nothing was written, or its key finds it.
            if self.relay is None:
                raise
        return await self.relay(command)

    async def submit_all(self, commands: Sequence[Command]) -> list[Reply | MarketError]:
        """Queue all at once and in order; what each came to, or what :meth:`submit` would raise."""
        assert_no_unit_of_work()
        waiting = [self._begin(command) for command in commands]
        results: list[Reply | MarketError] = []
        for item in waiting:
            try:
                results.append(item if isinstance(item, MarketError) else await item)
            except MarketError as error:
                results.append(error)
        return results

    def _begin(self, command: Command) -> asyncio.Future[Reply] | MarketError:
        try:
            return self.accept(command)
        except EngineStandby as error:
            return error if self.relay is None else asyncio.ensure_future(self.relay(command))
        except MarketError as error:
            return error

    def accept(
        self, command: Command, *, good_until: datetime | None = None
    ) -> asyncio.Future[Reply]:
        """Queue a command, to be carried out by this engine and not after ``good_until``.

        ``good_until`` is real database time; a later batch answers EngineStalled instead. Raises
        EngineStandby, EngineBusy and TooManyMessages.
        """
        if not self.is_owner or self._closing:
            raise self._standby()
        if len(self._queue) >= self._queue_max:
            raise EngineBusy("Too many orders are waiting.")
        if not isinstance(command, Control):
            self._count_messages(command)
        answer = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(command, answer, good_until))
        self._wake.set()
        self._deadlines.watch(answer)
        return answer

    def _count_messages(self, command: Command) -> None:
        quotas = self._shard.controls.quotas
        quota = quotas.get(command.party_id) if quotas else None
        per_s = None if quota is None else quota.messages_per_s
        self._messages.count(command.party_id, per_s or self._messages_per_s, weight(command))

    async def _run(self) -> None:
        while not self._closing or self._queue:
            try:
                if self.is_owner:
                    await self._serve(await self._collect())
                else:
                    self._refuse(self._take(LEGS_MAX * self._queue_max), self._standby())
                    if not self._closing and not await self._try_acquire():
                        await self._sleep()
            except Unavailable as error:
                _log.warning("engine_round_deferred", error=error.detail)
                await self._sleep()
            except Exception as error:  # noqa: BLE001 - see below
                # The loop outlives everything: callers have had their answers, the next round
                # starts from the database.
                _log.error("engine_round_failed", exc_info=error)
                await self._sleep()

    async def _collect(self) -> list[_Waiting]:
        """What waits, at most one batch; nothing after a tick without orders."""
        if not self._queue:
            await self._sleep()
        return self._take(self._batch_max)

    async def _sleep(self) -> None:
        """Until the next order or tick."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._tick_s):
                await self._wake.wait()

    def _take(self, messages: int) -> list[_Waiting]:
        """The first ones that wait, as many as weigh so much; at least one."""
        taken: list[_Waiting] = []
        while self._queue and messages > 0:
            taken.append(self._queue.popleft())
            messages -= weight(taken[-1].command)
        # Whoever stopped waiting before the batch began gets no order.
        return [waiting for waiting in taken if not waiting.answer.done()]

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        """Carry out a batch (an empty one renews the lease and ends expired orders)."""
        if not self.is_owner:
            self._refuse(batch, self._standby())
            return
        try:
            replies = await self._commit_patiently(batch)
        except StaleLease:
            _log.warning("engine_lease_lost", term=self._term)
            self._term = None
            self._shard.clear()
            self._refuse(batch, self._standby())
        except Unavailable as error:
            self._refuse(batch, error)
        except Exception as error:  # noqa: BLE001 - reported, and answered to each caller
            _log.error("engine_batch_failed", commands=len(batch), exc_info=error)
            if len(batch) <= 1:
                known = error if isinstance(error, MarketError) else EngineFailed()
                self._refuse(batch, known)
                return
            # One command breaks it for all: find it by carrying them out one by one.
            for waiting in batch:
                await self._serve([waiting])
        else:
            for waiting, reply in zip(batch, replies, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(reply)

    async def _commit_patiently(self, waiting: Sequence[_Waiting]) -> list[Reply]:
        """Commit, again after what may pass, and again without orders that must not trade.

        A connection lost at COMMIT leaves the outcome unknown. The next attempt waits for the
        lease row until the old transaction has ended, then answers by key whatever it did.
        """
        assert self._term is not None
        commands = [item.command for item in waiting]
        good_until = {
            index: item.good_until
            for index, item in enumerate(waiting)
            if item.good_until is not None
        }
        fence = Fence(self._holder, self._term, self._ttl_s)
        hopeless = [c for c, n in self._closings_failed.items() if n >= CLOSING_ATTEMPTS_MAX]
        verdicts = Verdicts(void_calls=dict.fromkeys(hopeless))
        failures = reconsiderations = 0
        while True:
            batch = Batch(
                self._kernel, self._shard, fence, commands, verdicts, good_until, self._sweep
            )
            try:
                with collection_paused():
                    async with self._kernel.unit_of_work() as uow:
                        await batch.run(uow)
            except Reconsider as error:
                self._shard.drop(batch.plan_ids)
                reconsiderations += 1
                if reconsiderations > RECONSIDERATIONS_MAX:
                    self._count_closings(batch)
                    raise EngineStalled(retry_after_s=1) from error
            except (Unavailable, asyncpg.InterfaceError, OSError) as error:
                self._shard.drop(batch.plan_ids)
                failures += 1
                if failures == ATTEMPTS_MAX:
                    self._count_closings(batch)
                    raise _unavailable(error) from error
                _log.warning("engine_batch_retry", attempt=failures, error=str(error))
                await asyncio.sleep(BACKOFF_S * 2**failures)
            except BaseException:
                self._shard.drop(batch.plan_ids)
                self._count_closings(batch)
                raise
            else:
                self._closings_failed.clear()
                batch.apply()
                if not batch.deferred:
                    return [batch.replies[index] for index in range(len(commands))]

    def _count_closings(self, batch: Batch) -> None:
        """An auction that cannot be carried out must not keep orders waiting: soon it is void."""
        for call_id in batch.closing:
            self._closings_failed[call_id] = self._closings_failed.get(call_id, 0) + 1

    async def _try_acquire(self) -> bool:
        """Take a free lease and rebuild the books, in one transaction."""
        async with self._kernel.unit_of_work(statement_timeout_ms=LOAD_TIMEOUT_MS) as uow:
            connection = await uow.raw()
            term = await sql.acquire_lease(
                connection, SHARD, holder=self._holder, ttl_s=self._ttl_s
            )
            if term is None:
                return False
            with collection_paused():
                orders = await self._shard.load_all(connection)
                if orders >= FREEZE_FROM_ORDERS:
                    gc.freeze()
            # A long rebuild must not end with a lease that is over.
            await sql.renew_lease(
                connection,
                SHARD,
                holder=self._holder,
                term=term,
                ttl_s=self._ttl_s,
                sequence_count=0,
                frozen_s=FROZEN_WRITER_S,
            )
        self._term = term
        _log.info("engine_lease_taken", term=term, open_orders=orders)
        return True

    async def _release(self) -> None:
        if self._term is None:
            return
        term, self._term = self._term, None
        try:
            async with self._kernel.unit_of_work() as uow:
                await sql.release_lease(await uow.raw(), SHARD, holder=self._holder, term=term)
        except Unavailable as error:
            _log.warning("engine_lease_not_released", error=error.detail)

    def _standby(self) -> EngineStandby:
        return EngineStandby(retry_after_s=self._ttl_s)

    @staticmethod
    def _refuse(batch: Sequence[_Waiting], error: MarketError) -> None:
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _unavailable(error: Exception) -> Unavailable:
    return error if isinstance(error, Unavailable) else EngineStalled(retry_after_s=2)
