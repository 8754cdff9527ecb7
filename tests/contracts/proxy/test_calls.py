"""One call against real servers: what is bounded, what is refused, what is tried again."""

import asyncio
import gzip
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.outbound.dialing import GuardedNetwork
from contracts.proxy.calls import TRIES, Answer, AnswerBroken, Bounds, Caller
from contracts.proxy.errors import (
    UpstreamBlocked,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from contracts.proxy.models import ViolationKind
from contracts.proxy.templates import Outgoing
from market.kernel.errors import MarketError
from tests.contracts.outbound import servers
from tests.contracts.outbound.certificates import self_signed
from tests.contracts.outbound.servers import Upstream, serving
from tests.contracts.proxy.hostile import bomb

CALLER = Caller(GuardedNetwork(loopback=True))


async def fetch(
    upstream: Upstream,
    path: str = "/x",
    *,
    method: str = "GET",
    media_type: str = "application/json",
    max_bytes: int = 1 << 20,
    deadline_s: float = 30,
) -> bytes:
    body = None if method == "GET" else b"{}"
    outgoing = Outgoing(method, upstream.url + path, (("Accept", media_type),), body)
    bounds = Bounds(media_type, max_bytes, time.monotonic() + deadline_s)
    async with CALLER.call(outgoing, bounds) as answer:
        assert isinstance(answer, Answer)
        return await answer.read()


async def test_a_good_answer_whole_chunked_and_zipped() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n"
    chunked += b"transfer-encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    async with serving(
        x=servers.json_of([1, 2]), c=servers.raw(chunked), z=servers.zipped(b"[1, 2]" * 50_000)
    ) as upstream:
        assert await fetch(upstream) == b"[1, 2]"
        assert await fetch(upstream, "/c") == b"[1,2]"
        assert await fetch(upstream, "/z") == b"[1, 2]" * 50_000
    assert upstream.asked[0].headers["host"] == f"127.0.0.1:{upstream.port}"


async def test_no_connection_serves_twice() -> None:
    poison = servers.head(200, {"content-type": "application/json", "content-length": "2"})
    async with serving(x=servers.raw(poison + b"[]" + poison + b"{}")) as upstream:
        assert await fetch(upstream) == b"[]"
        assert await fetch(upstream) == b"[]"
        assert upstream.connections == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamRefused),
        (404, UpstreamRefused),
        (429, UpstreamRefused),
        (500, UpstreamFailed),
        (503, UpstreamFailed),
        (204, UpstreamFailed),
        (206, UpstreamFailed),
    ],
)
async def test_only_200_is_an_answer(status: int, error: type[MarketError]) -> None:
    async with serving(x=servers.plain(b"", status=status)) as upstream:
        with pytest.raises(error) as refused:
            await fetch(upstream)
        assert refused.value.extra["upstream_status"] == status
        assert len(upstream.asked) == 1


async def test_a_redirect_to_the_metadata_service_is_not_followed() -> None:
    target = "http://169.254.169.254/latest/meta-data"
    async with serving(x=servers.plain(b"", status=302, location=target)) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream)
        assert broken.value.kind is ViolationKind.REDIRECT
        assert len(upstream.asked) == 1


async def test_an_announced_size_beyond_the_cap_is_refused_unread() -> None:
    announced = servers.head(
        200, {"content-type": "application/json", "content-length": str(10 << 30)}
    )
    async with serving(x=servers.raw(announced)) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream)
    assert broken.value.kind is ViolationKind.SIZE


async def test_a_zip_bomb_stops_at_the_cap() -> None:
    assert len(bomb()) < 100_000
    async with serving(x=servers.plain(bomb(), content_encoding="gzip")) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream, max_bytes=1 << 20)
    assert broken.value.kind is ViolationKind.SIZE
    assert broken.value.byte_count <= (1 << 20) + (64 << 10)


@pytest.mark.parametrize(
    "packed",
    [b"not gzip", gzip.compress(b"[]")[:-4], gzip.compress(b"[]") + gzip.compress(b"[]")],
    # Not by their bytes: those hold the second of packing, and xdist's workers must agree.
    ids=["other", "cut", "two"],
)
async def test_bad_gzip_is_evidence(packed: bytes) -> None:
    async with serving(x=servers.plain(packed, content_encoding="gzip")) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream)
    assert broken.value.kind is ViolationKind.ENCODING


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"content_encoding": "br"}, ViolationKind.ENCODING),
        ({"media_type": "text/html"}, ViolationKind.MEDIA_TYPE),
        ({"media_type": ""}, ViolationKind.MEDIA_TYPE),
    ],
)
async def test_another_head_is_evidence(headers: dict[str, Any], kind: ViolationKind) -> None:
    async with serving(x=servers.plain(b"[]", **headers)) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream)
    assert broken.value.kind is kind


async def test_an_answer_without_a_length_is_evidence() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[]"
    async with serving(x=servers.raw(data)) as upstream:
        with pytest.raises(AnswerBroken) as broken:
            await fetch(upstream)
    assert broken.value.kind is ViolationKind.FRAMING


async def test_a_wrong_content_length_is_a_failure() -> None:
    short = servers.head(200, {"content-type": "application/json", "content-length": "10"}) + b"[]"
    twice = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n[]"
    for data in (short, twice, b"ICY 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000):
        async with serving(x=servers.raw(data)) as upstream:
            with pytest.raises(UpstreamFailed):
                await fetch(upstream)


async def test_drips_and_silence_end_at_the_deadline() -> None:
    async with serving(x=servers.dripping, y=servers.silent) as upstream:
        for path in ("/x", "/y"):
            with pytest.raises(UpstreamTimeout):
                await fetch(upstream, path, deadline_s=0.5)


async def test_a_broken_connection_is_tried_again_for_get_only() -> None:
    flaky = servers.in_turn(servers.hanging_up, servers.hanging_up, servers.json_of([1]))
    async with serving(x=flaky, y=servers.hanging_up) as upstream:
        assert await fetch(upstream) == b"[1]"
        assert len(upstream.asked) == TRIES
        with pytest.raises(UpstreamFailed):
            await fetch(upstream, "/y")
        assert len(upstream.asked) == 2 * TRIES
        with pytest.raises(UpstreamFailed):
            await fetch(upstream, "/y", method="POST")
        assert len(upstream.asked) == 2 * TRIES + 1


async def test_nothing_is_tried_again_once_an_answer_began() -> None:
    broken = servers.head(200, {"content-type": "application/json", "content-length": "9"}) + b"["
    async with serving(x=servers.raw(broken)) as upstream:
        with pytest.raises(UpstreamFailed):
            await fetch(upstream)
        assert len(upstream.asked) == 1


async def test_nobody_there() -> None:
    async with serving(x=servers.json_of({})) as upstream:
        gone = Upstream(port=upstream.port)
    with pytest.raises(UpstreamUnreachable):
        await fetch(gone)


async def test_loopback_is_blocked_without_the_setting() -> None:
    guarded = Caller(GuardedNetwork())
    async with serving(x=servers.json_of({})) as upstream:
        bounds = Bounds("application/json", 100, time.monotonic() + 30)
        with pytest.raises(UpstreamBlocked):
            async with guarded.call(Outgoing("GET", upstream.url + "/x", (), None), bounds):
                raise AssertionError("answered")
        assert upstream.connections == 0


async def test_a_certificate_of_nobody_is_not_trusted(tmp_path: Path) -> None:
    certificate = tmp_path / "server.pem"
    certificate.write_bytes(self_signed("api.example.com"))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    upstream = Upstream({"/x": servers.json_of([7])})
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]

    async def here(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    network = GuardedNetwork(loopback=True, resolver=here)
    trusting = ssl.create_default_context(cafile=str(certificate))
    try:
        for caller, host, fine in (
            (Caller(network), "api.example.com", False),
            (Caller(network, tls=trusting), "other.example.com", False),
            (Caller(network, tls=trusting), "api.example.com", True),
        ):
            outgoing = Outgoing("GET", f"https://{host}:{port}/x", (), None)
            bounds = Bounds("application/json", 100, time.monotonic() + 30)
            if fine:
                async with caller.call(outgoing, bounds) as answer:
                    assert await answer.read() == b"[7]"
            else:
                with pytest.raises(UpstreamUnreachable):
                    async with caller.call(outgoing, bounds):
                        raise AssertionError("trusted")
        assert len(upstream.asked) == 1
    finally:
        server.close()
