"""Market data over real HTTP: increments under load, streams that resume, candles, slow readers."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from market.kernel.context import Kernel
from market.matching import streams
from tests.market.matching.factories import Scene, cancel, placed
from tests.settlement.factories import move_clock, now

Known = dict[tuple[str, int], tuple[int, int, bool]]
# Smaller than a snapshot and some updates, so that a reader that does not read is felt.
SOCKET_BYTES = 4_096


@pytest.fixture(scope="module")
async def address(app: FastAPI) -> AsyncIterator[str]:
    """The app of the other fixtures behind a real socket."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # The test's process has handlers of its own.
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task
    listener.close()


@pytest.fixture(scope="module")
async def wire(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, timeout=30) as made:
        yield made


def known(book: dict[str, Any]) -> Known:
    """A book as the API shows it."""
    return {
        (side, level["price_minor"]): (level["lots"], level["orders"], level["unlimited"])
        for side, name in (("buy", "bids"), ("sell", "asks"))
        for level in book[name]
    }


def apply(book: Known, update: dict[str, Any]) -> None:
    for level in update["levels"]:
        key = (level["side"], level["price_minor"])
        book[key] = (level["lots"], level["orders"], level["unlimited"])
        if not level["orders"]:
            del book[key]


async def take(
    wire: httpx.AsyncClient, path: str, count: int, headers: dict[str, str] | None = None
) -> list[tuple[str, str, Any]]:
    """The first events of a stream (kind, id, data); then the connection is dropped."""
    found: list[tuple[str, str, Any]] = []
    event: dict[str, str] = {}
    async with asyncio.timeout(60), wire.stream("GET", path, headers=headers or {}) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                found.append((event["event"], event["id"], json.loads(event["data"])))
                event = {}
                if len(found) == count:
                    break
    return found


async def trade_some(wire: httpx.AsyncClient, scene: Scene, rounds: int) -> None:
    """Orders of both sides that rest, trade and are cancelled, one after another."""
    buyer = await scene.buyer(1_000_000)
    for number in range(rounds):
        price = 1_000 + number % 5
        ask = await placed(wire, scene.seller, scene.body("sell", 3, price))
        await placed(wire, buyer, scene.body("buy", 2, price))
        await placed(wire, buyer, scene.body("buy", 1, 900 + number % 3))
        if number % 2:
            await cancel(wire, scene.seller, ask["id"])


async def test_a_client_that_follows_the_rule_has_the_book(
    wire: httpx.AsyncClient, scene: Scene
) -> None:
    book_path = f"/v1/instruments/{scene.plan}/book?levels=100"
    first = (await wire.get(book_path)).json()
    mine, sequence = known(first), first["sequence"]
    work = (trade_some(wire, scene, 4) for _ in range(2))
    load = asyncio.ensure_future(asyncio.gather(*work))
    ended = False
    while not ended:
        # Whatever comes after its end is not the load's.
        ended = load.done()
        more = True
        while more:
            path = f"/v1/instruments/{scene.plan}/book/updates?after={sequence}&limit=3"
            page = (await wire.get(path)).json()
            assert page["gap"] is False
            for update in page["items"]:
                assert update["sequence"] == sequence + 1
                apply(mine, update)
                sequence += 1
            more = page["has_more"]
    await load
    final = (await wire.get(book_path)).json()
    assert (sequence, mine) == (final["sequence"], known(final))
    assert sequence >= 10
    beyond = await wire.get(f"/v1/instruments/{scene.plan}/book/updates?after={sequence}")
    assert (beyond.json()["items"], beyond.json()["gap"]) == ([], False)
    assert (await wire.get(f"/v1/instruments/{scene.plan}/book/updates")).status_code == 422


async def test_a_stream_resumes_without_gap_or_double(
    wire: httpx.AsyncClient, scene: Scene
) -> None:
    path = f"/v1/market-data/stream?plan_id={scene.plan}&channel=book"
    load = asyncio.create_task(trade_some(wire, scene, 4))
    found = await take(wire, path, 4)
    kind, identity, snapshot = found[0]
    assert (kind, identity) == ("snapshot", str(snapshot["sequence"]))
    mine, sequence = known(snapshot), snapshot["sequence"]
    rest = found[1:]
    await load
    final = (await wire.get(f"/v1/instruments/{scene.plan}/book?levels=100")).json()
    while True:
        for kind, identity, update in rest:
            assert (kind, update["sequence"], identity) == (
                "update",
                sequence + 1,
                str(sequence + 1),
            )
            apply(mine, update)
            sequence += 1
        if sequence == final["sequence"]:
            break
        rest = await take(
            wire,
            path,
            2 if final["sequence"] - sequence > 1 else 1,
            {"Last-Event-ID": str(sequence)},
        )
    assert mine == known(final)
    # Ahead of the book, as after a restored backup: a snapshot.
    ((kind, identity, _),) = await take(wire, path, 1, {"Last-Event-ID": str(sequence + 5)})
    assert (kind, identity) == ("snapshot", str(sequence))


async def test_a_reader_too_far_behind_gets_a_snapshot(
    wire: httpx.AsyncClient, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trade_some(wire, scene, 2)
    monkeypatch.setattr(streams, "BEHIND_MAX", 1)
    for channel in ("book", "trades"):
        path = f"/v1/market-data/stream?plan_id={scene.plan}&channel={channel}"
        ((kind, _, _),) = await take(wire, path, 1, {"Last-Event-ID": "0"})
        assert kind == "snapshot"


async def test_trades_ticker_and_own_orders(wire: httpx.AsyncClient, scene: Scene) -> None:
    buyer = await scene.buyer(100_000)
    ask = await placed(wire, scene.seller, scene.body("sell", None, 1_000))
    tape = f"/v1/market-data/stream?plan_id={scene.plan}&channel=trades"
    ((kind, start, before),) = await take(wire, tape, 1)
    assert (kind, before) == ("snapshot", [])
    own = await take(wire, "/v1/orders/stream", 1, scene.seller.headers())
    assert (own[0][0], [order["id"] for order in own[0][2]]) == ("snapshot", [ask["id"]])
    for lots in (2, 3, 4):
        await placed(wire, buyer, scene.body("buy", lots, 1_000))
    found = await take(wire, tape, 2, {"Last-Event-ID": start})
    rest = await take(wire, tape, 1, {"Last-Event-ID": found[-1][1]})
    assert [data["lots"] for _, _, data in (*found, *rest)] == [2, 3, 4]
    assert all(data["order_id"] is None for _, _, data in found)
    mine = await take(
        wire, "/v1/orders/stream", 6, {**scene.seller.headers(), "Last-Event-ID": own[0][1]}
    )
    kinds = [kind for kind, _, _ in mine]
    assert kinds.count("trade.executed") == 3
    assert kinds.count("order.partially_filled") == 3
    assert len({identity for _, identity, _ in mine}) == 6
    ticker_path = f"/v1/market-data/stream?plan_id={scene.plan}&channel=ticker"
    ((kind, identity, ticker),) = await take(wire, ticker_path, 1)
    assert (kind, identity) == ("ticker", str(ticker["sequence"]))
    expected = {
        "trades": 3,
        "volume_lots": 9,
        "turnover_minor": 9_000,
        "last_minor": 1_000,
        "open_minor": 1_000,
        "high_minor": 1_000,
        "low_minor": 1_000,
        "bid_minor": None,
        "ask_minor": 1_000,
    }
    assert {name: ticker[name] for name in expected} == expected
    assert (await wire.get("/v1/orders/stream")).status_code == 401


async def test_a_caller_has_a_bounded_number_of_streams(
    wire: httpx.AsyncClient, scene: Scene
) -> None:
    path, headers = "/v1/orders/stream", scene.seller.headers()
    # Kept, because a forgotten reader closes its stream.
    readers = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(streams.STREAMS_MAX):
            answer = await stack.enter_async_context(wire.stream("GET", path, headers=headers))
            readers.append(answer.aiter_lines())
            await anext(readers[-1])
        async with asyncio.timeout(20):
            refused = await wire.get(path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")


async def test_candles_are_half_open_buckets(
    wire: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(1_000_000)
    await placed(wire, scene.seller, scene.body("sell", 100, 1_000))
    path = f"/v1/instruments/{scene.plan}/candles"
    assert (await wire.get(path, params={"interval": "1m"})).json()["items"] == []
    for lots, price in ((1, 1_000), (2, 1_000)):
        await placed(wire, buyer, scene.body("buy", lots, price))
        await move_clock(kernel, timedelta(minutes=3))
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        moments = await connection.fetch(
            "SELECT traded_at FROM matching.trade WHERE plan_id = $1 ORDER BY seq", scene.plan_id
        )
    starts = [row[0].replace(second=0, microsecond=0) for row in moments]
    page = (await wire.get(path, params={"interval": "1m", "limit": 1})).json()
    assert page["has_more"] is True
    rest = (await wire.get(path, params={"interval": "1m", "after": page["next_after"]})).json()
    candles = [*page["items"], *rest["items"]]
    assert [datetime.fromisoformat(candle["start"]) for candle in candles] == starts
    assert [candle["volume_lots"] for candle in candles] == [1, 2]
    assert [candle["turnover_minor"] for candle in candles] == [1_000, 2_000]
    # A bucket's end is the next one's.
    until = (await wire.get(path, params={"interval": "1m", "end": starts[1].isoformat()})).json()
    assert [candle["volume_lots"] for candle in until["items"]] == [1]
    day = (await wire.get(path, params={"interval": "1d"})).json()["items"]
    assert sum(candle["volume_lots"] for candle in day) == 3
    for start, end, status in (
        ("2020-01-02T00:00:00Z", "2020-01-01T00:00:00Z", 422),
        ("1000-01-01T00:00:00Z", "8999-12-31T23:59:59Z", 200),
    ):
        answer = await wire.get(path, params={"interval": "1h", "start": start, "end": end})
        assert answer.status_code == status, answer.text
    assert (await now(kernel)).tzinfo == UTC


async def test_a_reader_that_does_not_read_is_cut(
    address: str, wire: httpx.AsyncClient, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets snapshot upon snapshot, because it claims to be ahead, until nothing fits."""
    for price in range(1_000, 1_030):
        await placed(wire, scene.seller, scene.body("sell", 1, price))
    monkeypatch.setattr("market.matching.feed_endpoints.SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(streams, "BEHIND_MAX", -1)
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        slow.connect((host, int(port)))
        path = f"/v1/market-data/stream?plan_id={scene.plan}&channel=book"
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        slow.setblocking(False)
        # Others are served meanwhile.
        for _ in range(5):
            await placed(wire, scene.seller, scene.body("sell", 1, 2_000))
            await asyncio.sleep(1)
        read, ended = 0, False
        async with asyncio.timeout(30):
            while not ended:
                try:
                    data = await asyncio.get_running_loop().sock_recv(slow, 65_536)
                except ConnectionResetError:
                    data = b""
                read += len(data)
                ended = not data
    assert 0 < read < 2_000_000
