"""Several processes, one writer: commands travel to the engine's owner through Postgres.

A process whose engine is the owner carries out its own commands at once and the others' from the
inbox; any other process leaves its commands there and waits for the answers. A command whose
owner dies stays in the inbox for the successor. It may be carried out by both attempts' keys only
once, and never after its time is over: then its caller has been told that the outcome is unknown,
which the same Idempotency-Key resolves.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import asyncpg

from market.kernel.context import Kernel
from market.kernel.db import DatabaseUnavailable, plain_url
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from market.kernel.logging import get_logger
from market.matching import inbox
from market.matching.commands import Command, Reply
from market.matching.deadlines import Deadlines
from market.matching.engine import ANSWER_TIMEOUT_S, MatchingEngine
from market.matching.errors import EngineBusy, EngineFailed, EngineStalled, EngineStandby
from market.matching.wire import dump_command, dump_error, load_command, load_error, reply_of

if TYPE_CHECKING:
    from market.matching.inbox import Answered

    Connection = asyncpg.Connection[Any]

# Below the caller's own waiting time: what began in time is still answered in time.
GOOD_FOR_S = ANSWER_TIMEOUT_S - 5
# Notifications wake at once; this finds what came while nobody listened.
TICK_S = 0.5
PURGE_S = 30
RETRY_S = 0.5
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 10
# Commands or answers per statement.
PORTION = 512
# Commands in hand at the owner, apart from its own callers.
IN_HAND_MAX = 2_048
# A clean end waits this long for the answers to what is in hand.
DRAIN_S = 10

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Call:
    id: UUID
    command: bytes
    answer: asyncio.Future[Reply]


class Relay:
    """Use as ``async with Relay(kernel, engine)``: then ``engine.submit`` reaches the owner.

    Holds one database connection of its own, beside the pool.
    """

    def __init__(self, kernel: Kernel, engine: MatchingEngine) -> None:
        assert kernel.settings.database_url is not None
        self._url = plain_url(kernel.settings.database_url)
        self._engine = engine
        self._waiting_max = kernel.settings.engine_queue_max
        self._sender = new_id()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._wake = asyncio.Event()
        self._deadlines = Deadlines(ANSWER_TIMEOUT_S, lambda: EngineStalled(retry_after_s=2))
        self._unsent: deque[_Call] = deque()
        self._sent: dict[UUID, asyncio.Future[Reply]] = {}
        self._in_hand: set[UUID] = set()
        self._finished: deque[Answered] = deque()
        self._answers_told = self._commands_told = True
        self._purge_at = 0.0

    async def __aenter__(self) -> Self:
        """Start; returns once connected, or after the first failure to."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            await self._connect()
        self._engine.relay = self.submit
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name="matching-relay", context=contextvars.Context()
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take nothing new, answer what is in hand, stop."""
        self._engine.relay = None
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._deadlines.close()
        await self._disconnect()

    async def submit(self, command: Command) -> Reply:
        """Have the owner carry out ``command``; its answer.

        Raises EngineBusy when too many wait, EngineStalled when there was no answer in time or it
        was lost, DatabaseUnavailable (all 503), and whatever the owner's engine raised.
        """
        if self._connection is None:
            raise DatabaseUnavailable("The matching engine cannot be reached.", retry_after_s=1)
        if len(self._unsent) + len(self._sent) >= self._waiting_max:
            raise EngineBusy("Too many orders are waiting.")
        call = _Call(new_id(), dump_command(command), asyncio.get_running_loop().create_future())
        self._unsent.append(call)
        self._deadlines.watch(call.answer)
        self._wake.set()
        return await call.answer

    async def _run(self) -> None:
        while not self._closing:
            try:
                connection = self._connection or await self._connect()
                await self._round(connection)
                await self._sleep(TICK_S)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                _log.warning("relay_disconnected", error=str(error) or type(error).__name__)
                await self._disconnect()
                await self._sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - the loop outlives everything
                _log.error("relay_round_failed", exc_info=error)
                await self._disconnect()
                await self._sleep(RETRY_S)
        await self._drain()

    async def _sleep(self, seconds: float) -> None:
        """Until something is to do, at most ``seconds``; after that everything is looked at."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            self._answers_told = self._commands_told = True

    async def _round(self, connection: Connection) -> None:
        self._wake.clear()
        await self._answer(connection)
        await self._send(connection)
        await self._collect(connection)
        if self._engine.is_owner and not self._closing:
            await self._take(connection)
            now = asyncio.get_running_loop().time()
            if now >= self._purge_at:
                self._purge_at = now + PURGE_S
                await inbox.purge(connection)

    async def _connect(self) -> Connection:
        connection: Connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={"application_name": "market relay", "timezone": "UTC"},
        )
        try:
            await connection.add_listener(inbox.COMMANDS_CHANNEL, self._commands_wait)
            await connection.add_listener(inbox.answers_channel(self._sender), self._answers_wait)
            # The answers of commands that are gone were lost on the way.
            kept = await inbox.present(connection, self._sent.keys())
        except BaseException:
            connection.terminate()
            raise
        for identity in [identity for identity in self._sent if identity not in kept]:
            self._fail(self._sent.pop(identity), EngineStalled(retry_after_s=1))
        connection.add_termination_listener(self._terminated)
        self._connection = connection
        self._answers_told = self._commands_told = True
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=1)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                connection.terminate()
        while self._unsent:
            self._fail(
                self._unsent.popleft().answer,
                DatabaseUnavailable("The matching engine cannot be reached.", retry_after_s=1),
            )

    def _terminated(self, *_: object) -> None:
        self._wake.set()

    def _commands_wait(self, *_: object) -> None:
        if self._engine.is_owner:
            self._commands_told = True
            self._wake.set()

    def _answers_wait(self, *_: object) -> None:
        self._answers_told = True
        self._wake.set()

    async def _send(self, connection: Connection) -> None:
        """Leave our callers' commands in the inbox, in their order."""
        while self._unsent:
            portion = [self._unsent.popleft() for _ in range(min(PORTION, len(self._unsent)))]
            portion = [call for call in portion if not call.answer.done()]
            if not portion:
                continue
            # Known before they are sent: a connection lost in between leaves it open whether
            # they arrived.
            self._sent.update((call.id, call.answer) for call in portion)
            arrived = await inbox.put(
                connection,
                self._sender,
                [(call.id, call.command) for call in portion],
                good_for_s=GOOD_FOR_S,
                waiting_max=self._waiting_max,
            )
            for call in portion:
                if call.id not in arrived:
                    del self._sent[call.id]
                    self._fail(call.answer, EngineBusy("Too many orders are waiting."))

    async def _collect(self, connection: Connection) -> None:
        """Give the answers that have come to our callers."""
        if not self._answers_told or not self._sent:
            return
        self._answers_told = False
        for row in await inbox.collect(connection, self._sender):
            future = self._sent.pop(row["id"], None)
            if future is None or future.done():
                continue
            reply = reply_of(row["status"], row["body"], row["headers"], replayed=row["replayed"])
            if row["raised"]:
                future.set_exception(load_error(reply.answer))
            else:
                future.set_result(reply)
        for identity in [i for i, future in self._sent.items() if future.done()]:
            del self._sent[identity]

    async def _take(self, connection: Connection) -> None:
        """Carry out what other processes left."""
        room = min(PORTION, IN_HAND_MAX - len(self._in_hand))
        if not self._commands_told or room <= 0:
            return
        rows = await inbox.take(connection, self._in_hand, room)
        self._commands_told = len(rows) == room
        if self._commands_told:
            self._wake.set()
        for row in rows:
            if not self._begin(row["id"], row["command"], row["good_until"]):
                # Full, or no longer ours: the next tick looks again.
                self._commands_told = False
                return

    def _begin(self, identity: UUID, data: bytes, good_until: datetime) -> bool:
        try:
            future = self._engine.accept(load_command(data), good_until=good_until)
        except (EngineBusy, EngineStandby):
            return False
        except MarketError as error:
            self._finish(identity, error)
            return True
        except ValueError as error:
            # From a version of the code that knows more commands.
            _log.error("relay_command_unreadable", exc_info=error)
            self._finish(identity, EngineFailed())
            return True
        self._in_hand.add(identity)
        future.add_done_callback(lambda done: self._ended(identity, done))
        return True

    def _ended(self, identity: UUID, done: asyncio.Future[Reply]) -> None:
        error = EngineStandby() if done.cancelled() else done.exception()
        if error is None:
            self._finish(identity, done.result())
        elif isinstance(error, EngineStandby):
            # The successor finds it in the inbox.
            self._in_hand.discard(identity)
        else:
            self._finish(identity, error if isinstance(error, MarketError) else EngineFailed())

    def _finish(self, identity: UUID, result: Reply | MarketError) -> None:
        if isinstance(result, Reply):
            item = inbox.Answered(identity, result.answer, result.replayed, raised=False)
        else:
            item = inbox.Answered(identity, dump_error(result), replayed=False, raised=True)
        self._finished.append(item)
        self._wake.set()

    async def _answer(self, connection: Connection) -> None:
        """Bring back what the engine has answered."""
        while self._finished:
            portion = [self._finished[n] for n in range(min(PORTION, len(self._finished)))]
            await inbox.answer(connection, portion)
            for item in portion:
                self._finished.popleft()
                self._in_hand.discard(item.id)
            # There may be room again.
            self._commands_told = True

    async def _drain(self) -> None:
        """A clean end: the engine still runs and answers what it has."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while (self._in_hand or self._finished) and self._connection is not None:
                    await self._round(self._connection)
                    if self._in_hand:
                        await self._wake.wait()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            _log.warning("relay_not_drained", error=str(error) or type(error).__name__)

    @staticmethod
    def _fail(future: asyncio.Future[Reply], error: MarketError) -> None:
        if not future.done():
            future.set_exception(error)
