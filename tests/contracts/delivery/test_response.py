"""How much was delivered: lost clients, slow clients, and those who hang up too early."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from contracts.delivery.response import CHUNK_BYTES, MeteredResponse
from market.kernel.transport import UNSENT, Unsent

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}
Message = dict[str, Any]


class Client:
    """The other end: takes chunks until it leaves, or takes its time."""

    def __init__(
        self,
        *,
        leaves_after: int | None = None,
        delay_s: float = 0,
        receives: Callable[[], Awaitable[Message]] | None = None,
    ) -> None:
        self.got = bytearray()
        self.complete = False
        self._left = asyncio.Event()
        self._leaves_after = leaves_after
        self._delay_s = delay_s
        self._receives = receives
        if leaves_after == 0:
            self._left.set()

    async def receive(self) -> Any:
        if self._receives is not None:
            return await self._receives()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] != "http.response.body":
            return
        if self._delay_s and message["body"]:
            await asyncio.sleep(self._delay_s)
        if self._left.is_set():
            return
        self.got += message["body"]
        self.complete = not message["more_body"]
        if self._leaves_after is not None and len(self.got) >= self._leaves_after:
            self._left.set()


async def deliver(
    client: Client, body: bytes, *, deadline_s: float = 5, unsent: Unsent | None = None
) -> int:
    """Serve ``body``; the bytes that count as delivered."""
    scope = SCOPE if unsent is None else {**SCOPE, "extensions": {UNSENT: unsent}}
    counted: list[int] = []

    async def finish(sent: int) -> None:
        counted.append(sent)

    response = MeteredResponse(
        body, media_type="text/csv", headers={}, deadline_s=deadline_s, finish=finish
    )
    try:
        await response(scope, client.receive, client.send)
    finally:
        assert len(counted) == 1
    return counted[0]


BIG = bytes(CHUNK_BYTES * 3 + 7)


async def test_a_whole_body_counts_whole() -> None:
    for body in (b"x", BIG):
        client = Client()
        assert await deliver(client, body) == len(body)
        assert bytes(client.got) == body
        assert client.complete


async def test_who_left_before_gets_and_pays_nothing() -> None:
    client = Client(leaves_after=0)
    assert await deliver(client, BIG) == 0
    assert not client.got


async def test_who_leaves_midway_pays_for_what_was_taken() -> None:
    client = Client(leaves_after=CHUNK_BYTES)
    assert await deliver(client, BIG) == CHUNK_BYTES == len(client.got)
    assert not client.complete


async def test_who_hangs_up_with_the_last_byte_pays_for_all() -> None:
    client = Client(leaves_after=len(BIG))
    assert await deliver(client, BIG) == len(BIG)


async def test_a_chunk_dropped_while_waiting_is_not_charged() -> None:
    client = Client(delay_s=0.05)
    serving = asyncio.create_task(deliver(client, BIG))
    await asyncio.sleep(0.075)
    client._left.set()
    assert await serving == len(client.got) == CHUNK_BYTES


async def test_a_slow_client_is_cut_off_at_the_deadline() -> None:
    client = Client(delay_s=0.2)
    assert await deliver(client, BIG, deadline_s=0.5) == len(client.got) == 2 * CHUNK_BYTES
    assert not client.complete


async def test_an_error_while_receiving_does_not_make_it_free() -> None:
    class OverLimit(BaseException):
        pass

    async def flood() -> Message:
        raise OverLimit

    client = Client(receives=flood)
    assert await deliver(client, b"rows") == 4


async def test_a_cancelled_request_is_still_counted() -> None:
    counted = asyncio.Event()

    async def finish(sent: int) -> None:
        await asyncio.sleep(0.05)
        assert sent == CHUNK_BYTES
        counted.set()

    client = Client(delay_s=0.1)
    response = MeteredResponse(BIG, media_type="text/csv", headers={}, deadline_s=5, finish=finish)
    serving = asyncio.create_task(response(SCOPE, client.receive, client.send))
    await asyncio.sleep(0.15)
    serving.cancel()
    async with asyncio.timeout(2):
        await counted.wait()


async def test_what_waits_in_this_process_is_waited_for() -> None:
    waiting = [9, 9, 4, 0]
    client = Client()
    counted = await deliver(client, b"0123456789", unsent=lambda: waiting.pop(0))
    assert (counted, waiting, client.complete) == (10, [], True)


async def test_what_the_socket_never_took_is_not_charged() -> None:
    states: list[int | None] = [6, 6, 4, None]
    assert await deliver(Client(), b"0123456789", unsent=lambda: states.pop(0)) == 6


async def test_a_client_that_takes_no_more_is_cut_off_and_pays_for_what_it_took() -> None:
    assert await deliver(Client(), b"0123456789", deadline_s=0.3, unsent=lambda: 7) == 3


async def test_a_small_answer_on_a_free_connection_counts_what_the_socket_took() -> None:
    cases: list[tuple[list[int | None], int]] = [
        ([0, 0, 0], 10),
        ([0, 0, 10, 4, 0], 10),
        ([0, 0, 10, 4, None], 6),
        ([0, 0, None], 10),
        ([0, None], 0),
    ]
    for states, counted in cases:
        client = Client()
        assert await deliver(client, b"0123456789", unsent=partial(states.pop, 0)) == counted
        assert (states, bool(client.got)) == ([], counted > 0)


async def test_a_small_answer_that_is_not_taken_ends_at_the_deadline() -> None:
    asked: list[int] = []

    def unsent() -> int:
        asked.append(1)
        return 0 if len(asked) <= 2 else 7

    assert await deliver(Client(), b"0123456789", deadline_s=0.3, unsent=unsent) == 3


async def test_a_stream_is_not_taken_for_a_small_answer_with_nothing_in_it() -> None:
    class Streamed(MeteredResponse):
        streams = True

        async def _chunks(self) -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"chunk"

    counted: list[int] = []

    async def finish(sent: int) -> None:
        counted.append(sent)

    client = Client()
    response = Streamed(b"", media_type="text/csv", headers={}, deadline_s=5, finish=finish)
    scope = {**SCOPE, "extensions": {UNSENT: lambda: 0}}
    await response(scope, client.receive, client.send)
    assert (bytes(client.got), client.complete, counted) == (b"chunk" * 3, True, [15])
