"""Connections to foreign servers: a name is resolved once, each address checked, that one dialed.

The network backend of the HTTP client is the place: between its check and its connect there is
no second look-up that could answer differently. TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Final

import httpcore
from httpcore import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream

from contracts.outbound.addresses import blocked

ADDRESSES_MAX: Final = 4
HEAD_MAX_BYTES: Final = 128 << 10
_HEAD_READ_BYTES: Final = 8 << 10
# Look-ups block a thread each, longer than any call waits for them; a name whose server is slow
# has one at a time, so that it cannot take those of everybody else.
_RESOLVERS: Final = 32
_threads: ThreadPoolExecutor | None = None
_running: dict[tuple[str, int], Future[list[str]]] = {}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class AddressBlocked(Exception):
    """The name leads to an address that is never dialed; nothing was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system resolves it. Raises OSError."""
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="outbound-dns")
    asked = (host, port)
    looking = _running.get(asked)
    if looking is None:
        looking = _running[asked] = _threads.submit(_look_up, host, port)
        looking.add_done_callback(lambda _: _running.pop(asked, None))
    # Shielded: who gives up waiting does not take the answer from the others.
    return await asyncio.shield(asyncio.wrap_future(looking))


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class BoundedHead(AsyncNetworkStream):
    """A connection on which at most HEAD_MAX_BYTES come before the body begins.

    The HTTP parser bounds each header block, but takes interim answers (1xx) without end.
    """

    def __init__(self, inner: AsyncNetworkStream) -> None:
        self._inner = inner
        self._left: int | None = HEAD_MAX_BYTES

    def body_begins(self) -> None:
        """From here on the reader counts."""
        self._left = None

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> bytes:
        """Raises RemoteProtocolError for a head that is too large."""
        if self._left is None:
            return await self._inner.read(max_bytes, timeout)
        # In small reads: what a read brings is parsed in one turn of the loop.
        found = await self._inner.read(min(max_bytes, _HEAD_READ_BYTES), timeout)
        self._left -= len(found)
        if self._left < 0:
            raise httpcore.RemoteProtocolError("The head of the answer is too large.")
        return found

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> AsyncNetworkStream:
        return BoundedHead(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class GuardedNetwork(AsyncNetworkBackend):
    """httpcore's network with the check in its connect. ``inner`` does the dialing."""

    def __init__(
        self,
        *,
        loopback: bool = False,
        resolver: Resolve = resolve,
        inner: AsyncNetworkBackend | None = None,
    ) -> None:
        self._loopback = loopback
        self._resolve = resolver
        self._inner = inner or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Raises AddressBlocked before any packet, ConnectError, ConnectTimeout."""
        try:
            async with asyncio.timeout(timeout):
                found = list(dict.fromkeys(await self._resolve(host, port)))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("The name was not resolved in time.") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("The name cannot be resolved.") from error
        for address in found:
            # One bad address among good ones is an attack or a mistake; neither is to be dialed.
            reason = blocked(address, loopback=self._loopback)
            if reason is not None:
                raise AddressBlocked(reason)
        failure: Exception = httpcore.ConnectError("The name has no address.")
        for address in found[:ADDRESSES_MAX]:
            try:
                stream = await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return BoundedHead(await _same(stream, address))
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Never. Raises AddressBlocked."""
        raise AddressBlocked("unix_socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _same(stream: AsyncNetworkStream, address: str) -> AsyncNetworkStream:
    """The stream, if its peer is who was dialed. Raises AddressBlocked."""
    peer = stream.get_extra_info("server_addr")
    if not peer or ip_address(str(peer[0])) != ip_address(address):
        await stream.aclose()
        raise AddressBlocked("other_peer")
    return stream
