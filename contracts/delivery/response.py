"""A response that knows how much of itself was delivered.

"Delivered" means that the kernel took the bytes while the client was there: what still waits in
this process would be lost with it (:mod:`market.kernel.transport`). ASGI servers drop what is
sent to a lost client without an error, so its leaving is watched for, and only before a chunk or
while a chunk had to wait: a client that hangs up the moment it has what it wanted pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from market.kernel.transport import Unsent, tells_unsent, unsent_of

# Small enough to see a lost client between chunks, large enough to cost nothing.
CHUNK_BYTES = 256 << 10
# Below the 64 KiB that a transport takes without making anybody wait.
SMALL_BYTES = 32 << 10
# How often the last bytes of a slow client are looked after.
DRAIN_POLL_S = 0.005

# Gives what is still to be awaited, or None when all is done.
Finish = Callable[[int], Coroutine[Any, Any, None] | None]

# A task that nobody refers to may be collected before it has run.
_finishing: set[asyncio.Task[None]] = set()


class MeteredResponse(Response):
    """Sends ``body`` in chunks and calls ``finish(bytes accepted by the kernel)`` once.

    Stops when the client is gone or after ``deadline_s`` seconds; the client then sees fewer
    bytes than Content-Length announced.
    """

    # Whether the bytes come from ``_chunks`` of a subclass, so that no length says how few.
    streams: ClassVar[bool] = False

    def __init__(
        self,
        body: bytes,
        *,
        media_type: str,
        headers: Mapping[str, str],
        deadline_s: float,
        finish: Finish,
    ) -> None:
        super().__init__(body, media_type=media_type, headers=dict(headers))
        self._payload = memoryview(body)
        self._deadline_s = deadline_s
        self._finish = finish
        self._sent = 0
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unsent = unsent_of(scope)
        small = not self.streams and len(self._payload) <= SMALL_BYTES
        if small and tells_unsent(scope) and unsent() == 0:
            try:
                await self._send_small(send, unsent)
            finally:
                await self._finished()
            return
        gone = asyncio.Event()
        watcher = asyncio.create_task(watch(receive, gone))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._deadline_s) as self._limit:
                    await self._send(send, gone, unsent)
        finally:
            # Whatever the watcher met (an oversized request body, a cancel) must not keep the
            # delivery from being charged.
            watcher.cancel()
            await self._finished()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _finished(self) -> None:
        rest = self._finish(max(0, self._sent - self._waiting))
        if rest is not None:
            await to_the_end(rest)

    async def _send_small(self, send: Send, unsent: Unsent) -> None:
        """In one piece, which an empty buffer takes at once; the connection tells who is gone.

        A watcher, a deadline for sending and a message more would cost as much as the meter.
        """
        # The server needs a turn of its loop to see that the client has left.
        await asyncio.sleep(0)
        gone = unsent() is None
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        if gone:
            return
        await send({"type": "http.response.body", "body": bytes(self._payload), "more_body": False})
        self._sent = self._waiting = len(self._payload)
        await asyncio.sleep(0)
        self._waiting = min(self._waiting, unsent() or 0)
        end = asyncio.get_running_loop().time() + self._deadline_s
        while self._waiting and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(DRAIN_POLL_S)
            left = unsent()
            if left is None:
                return
            self._waiting = min(self._waiting, left)

    async def _send(self, send: Send, gone: asyncio.Event, unsent: Unsent) -> None:
        self._drained = partial(self._drain, gone, unsent)
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for chunk in self._chunks():
            if await has_left(gone):
                return
            message = {"type": "http.response.body", "body": chunk, "more_body": True}
            if await had_to_wait(send(message)) and await has_left(gone):
                return
            self._sent += len(chunk)
            self._waiting = unsent() or 0
        await self._drain(gone, unsent)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._payload), CHUNK_BYTES):
            yield bytes(self._payload[start : start + CHUNK_BYTES])

    async def _drain(self, gone: asyncio.Event, unsent: Unsent) -> None:
        """Until nothing waits in this process; else ``_waiting`` is what did when it was last seen.

        Small answers are gone after one turn of the loop: a client that leaves within it had them.
        """
        await asyncio.sleep(0)
        self._waiting = unsent() or 0
        while self._waiting and not await has_left(gone):
            await asyncio.sleep(DRAIN_POLL_S)
            left = unsent()
            if left is None:
                return
            self._waiting = left


async def watch(receive: Receive, gone: asyncio.Event) -> None:
    """Set ``gone`` when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def has_left(gone: asyncio.Event) -> bool:
    """Whether the client is gone: the server needs one turn to say so, the watcher another."""
    for _ in range(2):
        await asyncio.sleep(0)
    return gone.is_set()


async def had_to_wait(sending: Awaitable[None]) -> bool:
    """Await ``sending``; True when the loop turned meanwhile (the transport was full)."""
    turned: list[bool] = []
    turn = asyncio.get_running_loop().call_soon(turned.append, True)
    await sending
    turn.cancel()
    return bool(turned)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; it goes on when this request is cancelled."""
    task = asyncio.create_task(work)
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)
    await asyncio.shield(task)
