"""A response that knows how much of itself was delivered.

"Delivered" means that the server's transport took the bytes while the client was there. ASGI
servers drop what is sent to a lost client without an error, so its leaving is watched for, and
only before a chunk or while a chunk had to wait: a client that hangs up the moment it has what it
wanted pays for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# Small enough to see a lost client between chunks, large enough to cost nothing.
CHUNK_BYTES = 256 << 10

Finish = Callable[[int], Coroutine[Any, Any, None]]

# A task that nobody refers to may be collected before it has run.
_finishing: set[asyncio.Task[None]] = set()


class MeteredResponse(Response):
    """Sends ``body`` in chunks and calls ``finish(bytes accepted by the transport)`` once.

    Stops when the client is gone or after ``deadline_s`` seconds; the client then sees fewer
    bytes than Content-Length announced.
    """

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        watcher = asyncio.create_task(_watch(receive, gone))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._deadline_s) as self._limit:
                    await self._send(send, gone)
        finally:
            # Whatever the watcher met (an oversized request body, a cancel) must not keep the
            # delivery from being charged.
            watcher.cancel()
            await _to_the_end(self._finish(self._sent))
            await asyncio.gather(watcher, return_exceptions=True)

    async def _send(self, send: Send, gone: asyncio.Event) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async for chunk in self._chunks():
            if await _left(gone):
                return
            message = {"type": "http.response.body", "body": chunk, "more_body": True}
            if await _waited(send(message)) and await _left(gone):
                return
            self._sent += len(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._payload), CHUNK_BYTES):
            yield bytes(self._payload[start : start + CHUNK_BYTES])


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _left(gone: asyncio.Event) -> bool:
    """Whether the client is gone: the server needs one turn to say so, the watcher another."""
    for _ in range(2):
        await asyncio.sleep(0)
    return gone.is_set()


async def _waited(sending: Awaitable[None]) -> bool:
    """Await ``sending``; True when the loop turned meanwhile (the transport was full)."""
    turned: list[bool] = []
    turn = asyncio.get_running_loop().call_soon(turned.append, True)
    await sending
    turn.cancel()
    return bool(turned)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; it goes on when this request is cancelled."""
    task = asyncio.create_task(work)
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)
    await asyncio.shield(task)
