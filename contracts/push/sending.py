"""One request to a buyer's target: dialed to a checked address, bounded, never redirected."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpcore

from contracts.outbound.dialing import AddressBlocked, GuardedNetwork
from contracts.push.network import DrainedNetwork
from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work

CHUNK_BYTES = 64 << 10
USER_AGENT = "data-element-market-push"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A request. ``url`` has no user and no fragment."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Progress:
    """Bytes of a body that the kernel took; known also of a send that was broken off."""

    sent: int = 0


class NotTaken(Exception):
    """The target did not answer with 2xx. ``problem`` is a stable code."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class Sender:
    """The HTTP client of all targets. One per process."""

    def __init__(
        self, network: httpcore.AsyncNetworkBackend, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=None,
            # What a hostile server sends after its answer reaches nobody else.
            max_keepalive_connections=0,
            retries=0,
            network_backend=network,
        )

    async def send(self, parcel: Parcel, progress: Progress, *, deadline_s: float) -> None:
        """Returns when the target has answered 2xx. Raises NotTaken for everything else."""
        assert_no_unit_of_work()
        try:
            async with asyncio.timeout(deadline_s):
                response = await self._pool.handle_async_request(
                    _request(parcel, progress, deadline_s)
                )
                status = response.status
                await response.aclose()
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise NotTaken("target_timeout") from error
        except AddressBlocked as error:
            raise NotTaken("target_address_blocked") from error
        except httpcore.ConnectError as error:
            raise NotTaken("target_unreachable") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise NotTaken("target_connection_broken") from error
        if not 200 <= status < 300:
            raise NotTaken(f"target_answered_{status}")


def sender_of(kernel: Kernel) -> Sender:
    """This process's client of targets."""
    return kernel.service(_make)


def _make(kernel: Kernel) -> Sender:
    loopback = kernel.settings.upstream_loopback
    return Sender(GuardedNetwork(loopback=loopback, inner=DrainedNetwork()))


def _request(parcel: Parcel, progress: Progress, deadline_s: float) -> httpcore.Request:
    async def chunks() -> AsyncIterator[bytes]:
        body = memoryview(parcel.body)
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = bytes(body[start : start + CHUNK_BYTES])
            yield chunk
            # Asked for more: the network has written this one.
            progress.sent += len(chunk)

    url = httpcore.URL(parcel.url)
    host = b"[%b]" % url.host if b":" in url.host else url.host
    headers = [
        (b"Host", host if url.port is None else b"%b:%d" % (host, url.port)),
        (b"User-Agent", USER_AGENT.encode()),
        (b"Content-Length", str(len(parcel.body)).encode()),
        *((name.encode(), value.encode()) for name, value in parcel.headers),
    ]
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), deadline_s)
    return httpcore.Request(
        parcel.method, url, headers=headers, content=chunks(), extensions={"timeout": timeout}
    )
