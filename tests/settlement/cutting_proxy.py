"""A wire between asyncpg and PostgreSQL that can be cut at a chosen message.

Speaks no protocol: asyncpg waits for every answer, so what one read returns is one message (or
one pipelined group), and COMMIT is a simple query, recognizable by its first bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16


class Cut(StrEnum):
    """When the wire breaks, seen from the message."""

    BEFORE = "before"  # The server never gets it.
    AFTER = "after"  # The server has carried it out, the client never hears of it.
    RACING = "racing"  # The server gets it at the moment the wire breaks.
    STALL = "stall"  # Nothing moves until the test lets go; then as BEFORE.


class CuttingProxy:
    """Listens on a free port of 127.0.0.1; ``arm`` breaks one connection, once."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._how: Cut | None = None
        self._matches: Callable[[bytes], bool] = lambda _: False
        self._stalled = asyncio.Event()
        self._let_go = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def armed(self) -> bool:
        """Whether a cut waits to happen."""
        return self._how is not None

    def at_commit(self, how: Cut) -> None:
        """Break the connection that sends the next COMMIT."""
        self._arm(how, lambda chunk: chunk[:1] == b"Q" and chunk[5:11] == b"COMMIT")

    def at_message(self, how: Cut, number: int) -> None:
        """Break the connection that sends the ``number``-th message from now."""
        left = iter(range(number - 1, -1, -1))
        self._arm(how, lambda chunk: next(left, -1) == 0)

    def _arm(self, how: Cut, matches: Callable[[bytes], bool]) -> None:
        self._how, self._matches = how, matches
        self._stalled.clear()
        self._let_go.clear()

    def disarm(self) -> bool:
        """Back to a plain wire; returns whether the cut was still waiting to happen."""
        waiting, self._how = self._how is not None, None
        self._let_go.set()
        return waiting

    async def stalled(self) -> None:
        """Returns once a connection stands still (see ``Cut.STALL``)."""
        await self._stalled.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        cut = _Swallowed()
        down = asyncio.create_task(_down(up_reader, writer, cut))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                how = self._how
                if how is not None and self._matches(chunk):
                    self._how = None
                    self.cuts += 1
                    await self._cut(how, chunk, up_writer, cut)
                    return
                up_writer.write(chunk)
                await up_writer.drain()
        finally:
            down.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await down
            writer.transport.abort()
            up_writer.transport.abort()

    async def _cut(
        self, how: Cut, chunk: bytes, up_writer: asyncio.StreamWriter, answer: _Swallowed
    ) -> None:
        if how is Cut.STALL:
            self._stalled.set()
            await self._let_go.wait()
        elif how is not Cut.BEFORE:
            answer.wanted = how is Cut.AFTER
            up_writer.write(chunk)
            await up_writer.drain()
            if answer.wanted:
                await answer.came.wait()


class _Swallowed:
    """An answer that the client shall not see."""

    def __init__(self) -> None:
        self.wanted = False
        self.came = asyncio.Event()


async def _down(
    up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: _Swallowed
) -> None:
    try:
        while chunk := await up_reader.read(CHUNK_BYTES):
            if cut.wanted:
                return
            writer.write(chunk)
            await writer.drain()
        writer.close()
    finally:
        # The server is through with the message, or gone.
        cut.came.set()
