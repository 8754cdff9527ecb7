"""Connections to upstreams: the name is resolved once, every address checked, that one dialed.

The network backend of the HTTP client is the place: between its check and its connect there is
no second look-up that could answer differently. TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final

import httpcore
from httpcore import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream

from contracts.proxy.addresses import blocked

ADDRESSES_MAX: Final = 4
# Look-ups block a thread each; slow name servers must not take those of everybody else.
_RESOLVERS: Final = 8
_lookups: ThreadPoolExecutor | None = None

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class AddressBlocked(Exception):
    """The upstream's name leads to an address that is never dialed; nothing was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system resolves it. Raises OSError."""
    global _lookups
    if _lookups is None:
        _lookups = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="upstream-dns")
    found = await asyncio.get_running_loop().run_in_executor(
        _lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return [str(entry[4][0]) for entry in found]


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
            return await _same(stream, address)
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
