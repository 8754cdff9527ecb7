"""Real HTTP servers on loopback that play upstreams, good and hostile ones.

Bytes are written by hand: what a hostile server does, no library would.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """One server. ``answers`` by path (without query); ``asked`` is what it has seen."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, answer it, close."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            asked = Asked(method, target, headers, body)
            self.asked.append(asked)
            await self.answers[target.partition("?")[0]](asked, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(**answers: Answer) -> AsyncIterator[Upstream]:
    """An upstream whose keyword ``name`` answers ``/name``."""
    upstream = Upstream({f"/{name}": answer for name, answer in answers.items()})
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        left = list(upstream.serving)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def plain(
    body: bytes, *, status: int = 200, media_type: str = "application/json", **headers: str
) -> Answer:
    """A well-formed answer; header names with ``_`` for ``-``."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        lines = {"content-type": media_type, "content-length": str(len(body))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        writer.write(head(status, lines) + body)

    return answer


def json_of(value: Any, **kwargs: Any) -> Answer:
    """A well-formed JSON answer."""
    return plain(json.dumps(value).encode(), **kwargs)


def raw(data: bytes) -> Answer:
    """Exactly these bytes, then the end of the connection."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def zipped(body: bytes, *, media_type: str = "application/json") -> Answer:
    """A gzip answer."""
    packed = gzip.compress(body)
    return plain(packed, media_type=media_type, content_encoding="gzip")


def head(status: int, headers: dict[str, str]) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def endless(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Ten gigabytes in chunks, for whoever takes them."""
    headers = {"content-type": "application/octet-stream", "transfer-encoding": "chunked"}
    writer.write(head(200, headers))
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    for _ in range((10 << 30) >> 16):
        writer.write(piece)
        await writer.drain()


async def dripping(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A byte at a time: each read is quick, the whole never ends."""
    headers = {"content-type": "application/json", "content-length": "1000"}
    writer.write(head(200, headers))
    for _ in range(1_000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(_asked: Asked, _writer: asyncio.StreamWriter) -> None:
    """No answer within anybody's deadline."""
    await asyncio.sleep(3_600)


async def hanging_up(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A reset instead of an answer."""
    writer.transport.abort()


def in_turn(*answers: Answer) -> Answer:
    """The first answer first; the last one for ever."""
    waiting = list(answers)

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(asked, writer)

    return answer
