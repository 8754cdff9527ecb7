"""A cheap HTTP/1.1 client for benchmarks: kept-alive connections, JSON bodies, nothing else.

The load generator shares the machine with the server: httpx needs 1 ms of processor time per
request, this 0.1 ms.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Self


class Response(NamedTuple):
    status: int
    body: bytes


class Connection:
    """One connection, one request at a time. Use as ``async with await Connection.open(port)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Send and read the answer whole. Raises IncompleteReadError when the server hangs up."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        if body:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.index(b"content-length:") + len(b"content-length:")
        size = int(head[length : head.index(b"\r", length)])
        return Response(int(head[9:12]), await self._reader.readexactly(size))
