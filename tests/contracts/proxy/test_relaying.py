"""Streamed answers: passed on piece by piece, cut and free when the upstream fails."""

import asyncio
import hashlib
import tracemalloc
from typing import Any

from sqlmodel import select

from contracts.metering import meter_of
from contracts.models import Delivery
from contracts.proxy.delivery import ProxyRequest, proxy_service
from contracts.proxy.relaying import PIECE_BYTES
from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.outbound import servers
from tests.contracts.proxy.conftest import MakeOffer, Offer, operation

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}
OCTETS = "application/octet-stream"
MIB = 1 << 20


class Reader:
    """A client that counts instead of keeping, and may leave after so many bytes."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.digest = hashlib.sha256()
        self.taken = 0
        self.whole = False
        self.headers: dict[str, str] = {}
        self._leaves_after = leaves_after
        self._left = asyncio.Event()

    async def receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif not self._left.is_set():
            self.digest.update(message["body"])
            self.taken += len(message["body"])
            self.whole = not message["more_body"]
            if self._leaves_after is not None and self.taken >= self._leaves_after:
                self._left.set()


async def stream(
    kernel: Kernel, offer: Offer, reader: Reader, *, delivery_id: str | None = None
) -> None:
    """One streamed call, as the server plays it."""
    request = ProxyRequest(offer.token, "x", {}, delivery_id)
    response = await proxy_service(kernel).deliver(request)
    await response(SCOPE, reader.receive, reader.send)


async def usage(kernel: Kernel, offer: Offer) -> Delivery | None:
    """The grant's only usage record."""
    await meter_of(kernel).flush()
    async with kernel.unit_of_work() as uow:
        query = select(Delivery).where(Delivery.grant_id == offer.trade.grant_id)
        return (await uow.session.exec(query)).one_or_none()


def streamed(max_bytes: int) -> dict[str, Any]:
    return operation(media_type=OCTETS, stream=True, max_bytes=max_bytes, timeout_s=20)


async def test_a_stream_arrives_whole_and_is_one_call(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    body = bytes(range(256)) * 4_096 * 4
    offer = await make_offer(x=servers.plain(body, media_type=OCTETS))
    assert (await offer.register(streamed(8 * MIB))).status_code == 201
    reader = Reader()
    await stream(kernel, offer, reader)
    assert reader.whole
    assert reader.headers["content-length"] == str(len(body))
    assert reader.digest.digest() == hashlib.sha256(body).digest()
    record = await usage(kernel, offer)
    assert record is not None
    assert (record.units, record.byte_count, record.complete) == (1, len(body), True)
    assert record.body_sha256 == hashlib.sha256(body).hexdigest()


async def test_an_endless_stream_is_cut_at_its_bound_free_and_in_little_memory(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(x=servers.endless)
    await offer.register(streamed(8 * MIB))
    reader = Reader()
    tracemalloc.start()
    try:
        await stream(kernel, offer, reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not reader.whole
    assert reader.taken <= 8 * MIB
    assert peak < 4 * MIB
    assert await settled(kernel, offer.trade) == 0
    assert [row["kind"] for row in await offer.violations()] == ["size"]


async def test_a_stream_that_breaks_off_is_cut_and_free(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    begun = servers.head(200, {"content-type": OCTETS, "transfer-encoding": "chunked"})
    offer = await make_offer(x=servers.raw(begun + b"3\r\nabc\r\n"))
    await offer.register(streamed(MIB))
    reader = Reader()
    await stream(kernel, offer, reader)
    assert (reader.taken, reader.whole) == (3, False)
    assert "content-length" not in reader.headers
    assert await settled(kernel, offer.trade) == 0


async def test_who_leaves_midway_pays_for_the_call(make_offer: MakeOffer, kernel: Kernel) -> None:
    body = bytes(8 * PIECE_BYTES)
    offer = await make_offer(x=servers.plain(body, media_type=OCTETS))
    await offer.register(streamed(MIB))
    reader = Reader(leaves_after=PIECE_BYTES)
    await stream(kernel, offer, reader)
    assert not reader.whole
    record = await usage(kernel, offer)
    assert record is not None
    assert (record.units, record.complete) == (1, False)
    assert 0 < record.byte_count < len(body)
    assert record.body_sha256 == hashlib.sha256(body[: record.byte_count]).hexdigest()


async def test_who_left_before_gets_and_pays_nothing(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer(x=servers.plain(b"abc", media_type=OCTETS))
    await offer.register(streamed(MIB))
    reader = Reader(leaves_after=0)
    reader._left.set()
    await stream(kernel, offer, reader)
    assert reader.taken == 0
    assert await settled(kernel, offer.trade) == 0


async def test_a_buffered_answer_that_is_not_taken_whole_is_free(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    counter = servers.in_turn(
        servers.json_of(["x" * 100] * 10_000), servers.json_of(["y" * 100] * 10_000)
    )
    offer = await make_offer(x=counter)
    await offer.register(operation(max_bytes=2 * MIB))
    reader = Reader(leaves_after=1)
    await stream(kernel, offer, reader, delivery_id="call-0001")
    assert 0 < reader.taken < 1_000_000
    assert await settled(kernel, offer.trade) == 0
    # Nothing of it is kept: the repetition is a call like the first.
    again = await offer.call(Delivery_Id="call-0001")
    assert again.json() == ["y" * 100] * 10_000
    assert (again.headers["meter-charged"], len(offer.server.asked)) == ("1", 2)


class Halting(Reader):
    """Takes ``pieces`` messages, then nothing until the time that the upstream has is over."""

    def __init__(self, pieces: int, *, stalls_s: float) -> None:
        super().__init__()
        self._pieces = pieces
        self._stalls_s = stalls_s

    async def send(self, message: Any) -> None:
        await super().send(message)
        self._pieces -= 1
        if self._pieces == 0:
            await asyncio.sleep(self._stalls_s)


async def test_who_stalls_until_the_upstream_runs_out_of_time_pays(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    begun = servers.head(200, {"content-type": OCTETS, "content-length": str(4 * MIB)})

    async def part(_asked: servers.Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(begun + bytes(3 * MIB))
        await writer.drain()
        await asyncio.sleep(3_600)

    offer = await make_offer(x=part)
    await offer.register(operation(media_type=OCTETS, stream=True, max_bytes=4 * MIB, timeout_s=2))
    # The upstream itself hangs: free.
    await stream(kernel, offer, reader := Reader())
    assert (reader.taken, reader.whole) == (3 * MIB, False)
    assert await settled(kernel, offer.trade) == 0
    # The reader does, for longer than the upstream had: it has what it took.
    await stream(kernel, offer, reader := Halting(3, stalls_s=2.5))
    assert 0 < reader.taken < 3 * MIB
    assert await settled(kernel, offer.trade) == 1
    record = await usage(kernel, offer)
    assert record is not None
    assert (record.units, record.complete) == (1, False)
