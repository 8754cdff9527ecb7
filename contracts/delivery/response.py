"""A response that knows how much of itself was delivered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# Small enough to see a lost client between chunks, large enough to cost nothing.
CHUNK_BYTES = 256 << 10

Finish = Callable[[int], Awaitable[None]]


class MeteredResponse(Response):
    """Sends ``body`` in chunks and calls ``finish(bytes accepted by the transport)`` once.

    Stops when the client is gone or after ``deadline_s`` seconds. ASGI servers ignore what is
    sent to a lost client without an error, so the client's leaving is watched for.
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._sent = 0
        gone = asyncio.Event()
        watcher = asyncio.create_task(_watch(receive, gone))
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._send(send, gone)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            await asyncio.shield(self._finish(self._sent))

    async def _send(self, send: Send, gone: asyncio.Event) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        for start in range(0, len(self._payload), CHUNK_BYTES):
            chunk = bytes(self._payload[start : start + CHUNK_BYTES])
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            # One turn of the loop, so that a disconnect that freed a blocked send is seen.
            await asyncio.sleep(0)
            if gone.is_set():
                return
            self._sent += len(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
