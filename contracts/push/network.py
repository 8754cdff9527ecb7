"""A network of which is known what the kernel took: pushes are charged by it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

from httpcore import (
    SOCKET_OPTION,
    AsyncNetworkBackend,
    AsyncNetworkStream,
    ConnectError,
    ConnectTimeout,
    ReadError,
    ReadTimeout,
    WriteError,
    WriteTimeout,
)

DRAIN_POLL_S = 0.002
CLOSE_S = 1.0


class DrainedStream(AsyncNetworkStream):
    """A connection whose writes return when nothing of them waits in this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Below TLS, which has a buffer of its own.
        self._raw = writer.transport

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> bytes:
        """Raises ReadTimeout, ReadError."""
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise ReadTimeout from error
        except (OSError, ssl.SSLError) as error:
            raise ReadError(str(error)) from error

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> None:
        """Raises WriteTimeout, WriteError; what of ``buffer`` was taken is then not known."""
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
                # No event tells when both buffers are empty.
                while self._waiting():  # noqa: ASYNC110
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError as error:
            raise WriteTimeout from error
        except (OSError, ssl.SSLError) as error:
            raise WriteError(str(error)) from error

    def _waiting(self) -> int:
        if self._raw.is_closing():
            raise ConnectionResetError("the connection is lost")
        waiting = self._raw.get_write_buffer_size()
        if self._writer.transport is not self._raw:
            waiting += self._writer.transport.get_write_buffer_size()
        return int(waiting)

    async def aclose(self) -> None:
        if self._raw.get_write_buffer_size():
            # It would be kept for a reader that has stalled.
            self._raw.abort()
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except (OSError, ssl.SSLError, TimeoutError):
            # A peer that never says goodbye keeps nobody.
            self._raw.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> AsyncNetworkStream:
        """Raises ConnectTimeout, ConnectError."""
        try:
            async with asyncio.timeout(timeout):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except TimeoutError as error:
            raise ConnectTimeout from error
        except (OSError, ssl.SSLError) as error:
            raise ConnectError(str(error)) from error
        return self

    def get_extra_info(self, info: str) -> Any:
        name = {"server_addr": "peername", "client_addr": "sockname"}.get(info, info)
        return self._writer.get_extra_info(name)


class DrainedNetwork(AsyncNetworkBackend):
    """asyncio's connections as :class:`DrainedStream`."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Raises ConnectTimeout, ConnectError."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(host, port)
        except TimeoutError as error:
            raise ConnectTimeout from error
        except OSError as error:
            raise ConnectError(str(error)) from error
        return DrainedStream(reader, writer)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
