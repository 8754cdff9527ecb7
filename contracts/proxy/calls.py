"""One call of an upstream: bounded in time and bytes, never redirected, never trusted.

No connection is used twice: each is dialed to an address checked for it, and what a hostile
server sends after its answer reaches nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import httpcore

from contracts.outbound.dialing import AddressBlocked, BoundedHead
from contracts.proxy.errors import (
    UpstreamBlocked,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from contracts.proxy.inflating import Inflater, NotGzip
from contracts.proxy.models import ViolationKind
from contracts.proxy.templates import Outgoing

# Of a GET whose connection broke; nothing else is sent twice.
TRIES: Final = 3
BACKOFF_S: Final = 0.05
# Compressed bytes may exceed the decompressed bound by this: headers of incompressible data.
RAW_MARGIN_BYTES: Final = 64 << 10
_TURN_EVERY: Final = 64
# Each chunk costs some 50 µs, whatever is in it: beyond so many they must hold so much on average.
_CRUMBS_MAX: Final = 4_096
_CRUMB_BYTES: Final = 16
_DISCONNECTED: Final = "Server disconnected without sending a response."


class AnswerBroken(Exception):
    """The upstream answered, but not what its operation describes: evidence."""

    def __init__(
        self,
        kind: ViolationKind,
        message: str,
        *,
        rule: str = "",
        findings: list[dict[str, str]] | None = None,
        body_sha256: str = hashlib.sha256(b"").hexdigest(),
        byte_count: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.findings = findings or [{"path": "", "message": message[:200], "rule": rule}]
        self.body_sha256 = body_sha256
        self.byte_count = byte_count


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer must keep to. ``deadline`` in ``time.monotonic`` seconds."""

    media_type: str
    max_bytes: int
    deadline: float

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


@dataclass(slots=True)
class Answer:
    """A 200 whose head is as described; its decompressed body is read once, by :meth:`chunks`."""

    bounds: Bounds
    response: httpcore.Response
    compressed: bool
    length: int | None
    taken: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces of at most 64 KiB or so.

        Raises AnswerBroken beyond ``max_bytes``, for bad gzip or thousands of tiny chunks,
        UpstreamTimeout (504), UpstreamFailed (502) when it ends early.
        """
        inflater = Inflater() if self.compressed else None
        raw_left = self.bounds.max_bytes + RAW_MARGIN_BYTES
        try:
            async for raw in self._raw():
                raw_left -= len(raw)
                if raw_left < 0:
                    raise self._broken(ViolationKind.SIZE, "It is larger than declared.")
                for chunk in inflater.feed(raw) if inflater else (raw,):
                    yield self._counted(chunk)
            if inflater:
                inflater.end()
        except NotGzip as error:
            raise self._broken(ViolationKind.ENCODING, "It is not the gzip it says.") from error

    async def read(self) -> bytes:
        """The whole body. Raises as :meth:`chunks`."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
        return bytes(body)

    def _counted(self, chunk: bytes) -> bytes:
        self.taken += len(chunk)
        if self.taken > self.bounds.max_bytes:
            raise self._broken(ViolationKind.SIZE, "It is larger than declared.")
        self.digest.update(chunk)
        return chunk

    def _broken(self, kind: ViolationKind, message: str) -> AnswerBroken:
        return AnswerBroken(
            kind, message, body_sha256=self.digest.hexdigest(), byte_count=self.taken
        )

    async def _raw(self) -> AsyncIterator[bytes]:
        assert not isinstance(self.response.stream, bytes)
        source = aiter(self.response.aiter_stream())
        for number in count(1):
            if number % _TURN_EVERY == 0:
                # One read may hold ten thousand chunks; others get their turn between them.
                await asyncio.sleep(0)
            try:
                async with asyncio.timeout(self.bounds.left_s):
                    raw = await anext(source, None)
            except (TimeoutError, httpcore.TimeoutException) as error:
                raise UpstreamTimeout from error
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                raise UpstreamFailed("The answer broke off.") from error
            if raw is None:
                return
            if number > _CRUMBS_MAX and self.taken < number * _CRUMB_BYTES:
                raise self._broken(ViolationKind.FRAMING, "It comes in crumbs.")
            yield raw


class Caller:
    """The HTTP client of all upstreams, on a guarded network. One per process."""

    def __init__(
        self, network: httpcore.AsyncNetworkBackend, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            # The service bounds the calls at once; here a limit would only hide in a queue.
            max_connections=None,
            max_keepalive_connections=0,
            retries=0,
            network_backend=network,
        )

    @asynccontextmanager
    async def call(self, outgoing: Outgoing, bounds: Bounds) -> AsyncIterator[Answer]:
        """The answer, open for reading.

        Raises UpstreamTimeout (504), UpstreamUnreachable, UpstreamBlocked, UpstreamFailed,
        UpstreamRefused (502), AnswerBroken.
        """
        response = await self._respond(outgoing, bounds)
        connection = response.extensions.get("network_stream")
        if isinstance(connection, BoundedHead):
            connection.body_begins()
        try:
            yield _described(response, bounds)
        finally:
            await response.aclose()

    async def _respond(self, outgoing: Outgoing, bounds: Bounds) -> httpcore.Response:
        tries = TRIES if outgoing.method == "GET" else 1
        for attempt in range(1, tries + 1):
            try:
                async with asyncio.timeout(bounds.left_s):
                    return await self._pool.handle_async_request(_request(outgoing, bounds))
            except (TimeoutError, httpcore.TimeoutException) as error:
                raise UpstreamTimeout from error
            except AddressBlocked as error:
                raise UpstreamBlocked(f"The address is {error.reason}.") from error
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                if attempt == tries or not _before_any_byte(error):
                    raise _unreachable(error) from error
            # Jitter: the readers that one broken server lost do not come back at once.
            pause_s = BACKOFF_S * attempt * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            await asyncio.sleep(min(pause_s, bounds.left_s))
        raise AssertionError("unreachable: the last try returns or raises")


def _request(outgoing: Outgoing, bounds: Bounds) -> httpcore.Request:
    left_s = bounds.left_s
    headers = [(name.encode(), value.encode()) for name, value in outgoing.headers]
    if outgoing.body is not None:
        headers.append((b"Content-Length", str(len(outgoing.body)).encode()))
    url = httpcore.URL(outgoing.url)
    headers.insert(0, (b"Host", _host(url)))
    timeout = {"connect": left_s, "read": left_s, "write": left_s, "pool": left_s}
    return httpcore.Request(
        outgoing.method,
        url,
        headers=headers,
        content=outgoing.body,
        extensions={"timeout": timeout},
    )


def _host(url: httpcore.URL) -> bytes:
    host = b"[%b]" % url.host if b":" in url.host else url.host
    return host if url.port is None else b"%b:%d" % (host, url.port)


def _before_any_byte(error: Exception) -> bool:
    return isinstance(error, httpcore.NetworkError) or str(error) == _DISCONNECTED


def _unreachable(error: Exception) -> UpstreamUnreachable | UpstreamFailed:
    if isinstance(error, httpcore.ConnectError):
        return UpstreamUnreachable()
    return UpstreamFailed("The connection broke, or what came is not HTTP.")


def _described(response: httpcore.Response, bounds: Bounds) -> Answer:
    """The answer, if its head is as described. Raises as :meth:`Caller.call`."""
    status = response.status
    if 300 <= status < 400:
        # Followed by nobody: the target is the upstream's choice, not the seller's address.
        raise AnswerBroken(ViolationKind.REDIRECT, f"It answered {status}.", rule="status")
    if 400 <= status < 500:
        raise UpstreamRefused(f"It answered {status}.", upstream_status=status)
    if status != 200:
        raise UpstreamFailed(f"It answered {status}.", upstream_status=status)
    head = {name.lower(): value.decode("latin-1") for name, value in response.headers}
    media_type = head.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type != bounds.media_type:
        shown = "".join(char if char.isprintable() else "?" for char in media_type[:80])
        raise AnswerBroken(ViolationKind.MEDIA_TYPE, f"It is {shown!r}.", rule="media_type")
    encoding = head.get(b"content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise AnswerBroken(ViolationKind.ENCODING, "Only gzip is taken.", rule="content-encoding")
    chunked = "chunked" in head.get(b"transfer-encoding", "").lower()
    # Only digits can be here: the HTTP parser has refused anything else.
    length = None if chunked else int(head.get(b"content-length", "-1"))
    if length == -1:
        # The end of such an answer looks like a broken connection.
        message = "It has neither a length nor chunks."
        raise AnswerBroken(ViolationKind.FRAMING, message, rule="content-length")
    if encoding == "identity" and length is not None and length > bounds.max_bytes:
        raise AnswerBroken(ViolationKind.SIZE, f"It announces {length} bytes.", rule="max_bytes")
    return Answer(bounds, response, encoding == "gzip", length if encoding == "identity" else None)
