"""Answers of upstreams that mean harm: without end, without measure, without haste."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from functools import cache

from tests.contracts.outbound import servers
from tests.contracts.outbound.servers import Answer, Asked, head

JSON = {"content-type": "application/json"}
CHUNKED = head(200, {**JSON, "transfer-encoding": "chunked"})
TEN_GIB = 10 << 30


def without_end(begin: bytes, piece: bytes) -> Answer:
    """``begin``, then ``piece`` up to ten gigabytes, for whoever takes them."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        many = piece * max(1, (64 << 10) // len(piece))
        for _ in range(TEN_GIB // len(many)):
            writer.write(many)
            await writer.drain()

    return answer


def dripping(begin: bytes, piece: bytes) -> Answer:
    """A piece every 50 ms: no read waits long, the whole never ends."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    return answer


def _zeros(size: int) -> Iterator[bytes]:
    """A gzip member of ``size`` zeros, made in little memory."""
    packer = zlib.compressobj(9, wbits=31)
    for _ in range(size >> 20):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


@cache
def bomb() -> bytes:
    """64 MiB in 64 KiB; packed again in a few hundred bytes."""
    return b"".join(_zeros(64 << 20))


def encoded(encoding: str, body: bytes) -> Answer:
    return servers.plain(body, content_encoding=encoding)


# By name: what it does, and the code that a buyer gets for it.
ATTACKS: dict[str, tuple[Answer, str]] = {
    "endless": (without_end(CHUNKED, b"1000\r\n" + b" " * 4_096 + b"\r\n"), "upstream_too_large"),
    "crumbs": (without_end(CHUNKED, b"1\r\n \r\n"), "upstream_answer_invalid"),
    "announced": (
        without_end(head(200, {**JSON, "content-length": str(TEN_GIB)}), b" "),
        "upstream_too_large",
    ),
    "unbounded": (without_end(head(200, JSON), b" "), "upstream_answer_invalid"),
    "bomb": (lambda asked, writer: encoded("gzip", bomb())(asked, writer), "upstream_too_large"),
    "twice": (
        lambda asked, writer: encoded("gzip, gzip", gzip.compress(bomb(), 9))(asked, writer),
        "upstream_answer_invalid",
    ),
    "brotli": (encoded("br", b"\xcf\xff\xff\x7f\xf8\x27\x00\xe2\xb1"), "upstream_answer_invalid"),
    "zstd": (encoded("zstd", b"\x28\xb5\x2f\xfd\xa4\xff\xff"), "upstream_answer_invalid"),
    "header": (without_end(b"HTTP/1.1 200 OK\r\nx: ", b"y"), "upstream_failed"),
    "headers": (without_end(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), "upstream_failed"),
    "interim": (without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "upstream_failed"),
    "extension": (without_end(CHUNKED + b"1;", b"x"), "upstream_failed"),
    "trailers": (without_end(CHUNKED + b"2\r\n[]\r\n0\r\n", b"x: y\r\n"), "upstream_failed"),
    "loris": (dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), "upstream_timeout"),
    "drops": (dripping(CHUNKED, b"1\r\n \r\n"), "upstream_timeout"),
}
