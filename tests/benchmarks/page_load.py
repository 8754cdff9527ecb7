"""A load generator that costs little: prepared requests over kept connections, answers counted."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field

CONNECT_TIMEOUT_S = 60
_LENGTH = b"content-length: "


@dataclass
class Load:
    """What some seconds of load brought; ``waits`` and the server's ``cpu_s`` in seconds."""

    seconds: float
    waits: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.waits) / self.seconds

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.waits, n=100)[98]


class _Connection(asyncio.Protocol):
    """Sends its request again as soon as the answer is whole, until the time is over."""

    def __init__(self, request: bytes, end: float, waits: list[float]) -> None:
        self._request, self._end, self._waits = request, end, waits
        self._got = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._got.index(_LENGTH) + len(_LENGTH)
        length = int(self._got[at : self._got.index(b"\r", at)])
        if len(self._got) < head + 4 + length:
            return
        now = time.perf_counter()
        if not self._got.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._got[:600].decode()))
            return
        self._waits.append(now - self._sent)
        self._got = b""
        if now < self._end:
            self._send()
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the worker hung up"))


async def load(ports: list[int], request: bytes, *, connections: int, seconds: float) -> Load:
    """Keep ``connections`` busy, spread over ``ports``. Raises RuntimeError for any but a 200."""
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    result = Load(seconds)
    made = []
    for number in range(connections):
        made.append(
            await loop.create_connection(
                lambda: _Connection(request, begun + seconds, result.waits),
                "127.0.0.1",
                ports[number % len(ports)],
            )
        )
    try:
        await asyncio.gather(*(protocol.done for _, protocol in made))
    finally:
        for transport, _ in made:
            transport.close()
    result.seconds = time.perf_counter() - begun
    return result


def get(path: str, **headers: str) -> bytes:
    """A GET as bytes; underscores in header names become hyphens."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
