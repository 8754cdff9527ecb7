"""Writes that return when the kernel has all; guarded, also under TLS."""

import asyncio
import socket
import ssl
from pathlib import Path

import httpcore
import pytest

from contracts.outbound.dialing import AddressBlocked, GuardedNetwork
from contracts.push.network import DrainedNetwork
from contracts.push.sending import NotTaken, Parcel, Progress, Sender
from tests.contracts.outbound.certificates import self_signed
from tests.contracts.outbound.servers import endless, plain, serving, silent

BODY = bytes(range(256)) * 1_024


def parcel(url: str, body: bytes = BODY) -> Parcel:
    """A post."""
    return Parcel("POST", url, (("Content-Type", "text/plain"),), body)


def sender(tls: ssl.SSLContext | None = None) -> Sender:
    """A client that may reach this machine."""
    return Sender(GuardedNetwork(loopback=True, inner=DrainedNetwork()), tls=tls)


async def test_a_body_arrives_whole_with_its_length() -> None:
    async with serving(x=plain(b"taken")) as server:
        progress = Progress()
        await sender().send(parcel(f"{server.url}/x"), progress, deadline_s=10)
        (asked,) = server.asked
    assert (asked.body, asked.headers["content-length"]) == (BODY, str(len(BODY)))
    assert progress.sent == len(BODY)


@pytest.mark.parametrize("count", [1, 3 << 20])
async def test_tls_is_checked_and_carries_the_body(tmp_path: Path, count: int) -> None:
    pem = tmp_path / "server.pem"
    pem.write_bytes(self_signed("localhost"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    got: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(len(await reader.readexactly(count)))
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        trusting = ssl.create_default_context(cafile=str(pem))
        progress, url = Progress(), f"https://localhost:{port}/x"
        await sender(trusting).send(parcel(url, bytes(count)), progress, deadline_s=10)
        assert (got, progress.sent) == ([count], count)
        with pytest.raises(NotTaken, match="target_unreachable"):
            await sender().send(parcel(url), Progress(), deadline_s=10)
    assert got == [count]


async def test_what_a_stalled_reader_leaves_in_this_process_is_not_sent() -> None:
    size = 32 << 20

    async def stalls(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        await asyncio.sleep(3_600)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(stalls, sock=listener, limit=1_024)
    progress, url = Progress(), f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    with pytest.raises(NotTaken, match="target_timeout"):
        await sender().send(parcel(url, bytes(size)), progress, deadline_s=1)
    # What two kernels hold, and nothing of what asyncio's own buffer would take.
    assert progress.sent < size // 2
    server.close()


async def test_failures_have_names() -> None:
    async with serving(late=silent, long=endless, no=plain(b"", status=404)) as server:
        for path, problem in (("late", "timeout"), ("no", "answered_404")):
            with pytest.raises(NotTaken, match=f"target_{problem}"):
                await sender().send(parcel(f"{server.url}/{path}"), Progress(), deadline_s=0.5)
        # Whoever answers without end has answered.
        await sender().send(parcel(f"{server.url}/long"), Progress(), deadline_s=10)
        port = server.port
    with pytest.raises(NotTaken, match="target_unreachable"):
        await sender().send(parcel(f"http://127.0.0.1:{port}/"), Progress(), deadline_s=5)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "[::1]", "localhost", "169.254.169.254"])
async def test_what_is_not_public_is_never_dialed(host: str) -> None:
    class Dialer(DrainedNetwork):
        async def connect_tcp(
            self, *_arguments: object, **_options: object
        ) -> httpcore.AsyncNetworkStream:
            raise AssertionError("dialed")

    guarded = Sender(GuardedNetwork(inner=Dialer()))
    with pytest.raises(NotTaken, match="target_address_blocked") as failure:
        await guarded.send(parcel(f"http://{host}:1/x"), Progress(), deadline_s=5)
    assert isinstance(failure.value.__cause__, AddressBlocked)
