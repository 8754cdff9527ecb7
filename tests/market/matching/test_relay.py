"""Engines of several processes, and the way between them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.db import DatabaseUnavailable
from market.kernel.settings import Settings
from market.matching.commands import Place, Reply
from market.matching.engine import MatchingEngine
from market.matching.errors import EngineBusy, EngineStalled
from market.matching.relay import Relay
from market.matching.wire import Relayed
from tests.conftest import TestDatabase
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    code_of,
    eventually,
    footprint,
    money,
    order_of,
    scalar,
    together,
)
from tests.settlement.factories import verified

WAITING = "SELECT count(*) FROM matching.inbox WHERE good_until > clock_timestamp()"


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app, so that each test runs the engines it wants."""
    made = open_kernel(settings)
    yield made
    await made.close()


@asynccontextmanager
async def process(kernel: Kernel) -> AsyncIterator[MatchingEngine]:
    """What a process has of this."""
    async with MatchingEngine(kernel) as engine, Relay(kernel, engine):
        yield engine


async def test_the_answer_is_that_of_the_owner(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    async with process(kernel) as owner, process(kernel) as other:
        assert (owner.is_owner, other.is_owner) == (True, False)
        command = scene.command(buyer, "buy", 2, 900)
        reply = await other.submit(command)
        assert reply.answer.status == 201
        assert order_of(reply)["status"] == "open"
        # Forwarded again, and asked at the owner: the same bytes, one order.
        for engine in (other, owner):
            again = await engine.submit(command)
            assert again.replayed
            assert again.answer == reply.answer
        poor = await other.submit(scene.command(buyer, "buy", 1_000, 900))
        assert (poor.answer.status, code_of(poor)) == (402, "insufficient_funds")
        assert poor.answer.headers == {"content-type": "application/problem+json"}
        gone = await other.submit(cancel_command(buyer, order_of(reply)))
        assert order_of(gone)["status"] == "cancelled"
        assert await money(kernel, buyer.party_id) == (10_000, 0)

        async def empty() -> bool:
            return bool(await scalar(kernel, WAITING) == 0)

        await eventually(empty)


async def test_many_callers_of_two_processes(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(1_000_000)
    async with process(kernel) as owner, process(kernel) as other, process(kernel) as third:
        order_of(await other.submit(scene.command(scene.seller, "sell", None, 1_000)))
        engines = (owner, other, third)
        replies = await together(
            *(
                engines[number % 3].submit(scene.command(buyer, "buy", 1, 1_000))
                for number in range(300)
            )
        )
        assert {order_of(reply)["status"] for reply in replies} == {"filled"}
        assert await money(kernel, buyer.party_id) == (700_000, 0)
    await verified(kernel)


async def test_a_successor_carries_out_what_the_owner_left(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as owner, process(kernel) as other:
        # The owner has no relay: as one that died before it looked into the inbox.
        waiting = [
            asyncio.create_task(other.submit(scene.command(buyer, "buy", 1, 900 + n)))
            for n in range(3)
        ]

        async def left() -> bool:
            return bool(await scalar(kernel, WAITING) == 3)

        await eventually(left)
        assert not any(task.done() for task in waiting)
        await owner.__aexit__(None, None, None)
        replies = await asyncio.gather(*waiting)
        assert [order_of(reply)["price_minor"] for reply in replies] == [900, 901, 902]
        assert other.is_owner


async def test_what_is_late_is_not_carried_out(
    kernel: Kernel, scene: Scene, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.matching.relay.ANSWER_TIMEOUT_S", 2)
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as owner, process(kernel) as other:
        before = await footprint(kernel)
        command = scene.command(buyer, "buy", 1, 900)
        waiting = asyncio.create_task(other.submit(command))

        async def left() -> bool:
            return bool(await scalar(kernel, WAITING) == 1)

        await eventually(left)
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute("UPDATE matching.inbox SET good_until = clock_timestamp()")
        async with Relay(kernel, owner):
            with pytest.raises(EngineStalled) as unknown:
                await waiting
            assert unknown.value.headers["Retry-After"]
            assert await footprint(kernel) == before
            # Its key: nothing had happened, so the repetition is the first.
            assert not (await other.submit(command)).replayed


async def test_the_engine_itself_refuses_what_is_late(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    past = await scalar(kernel, "SELECT clock_timestamp() - interval '1 ms'")
    future = await scalar(kernel, "SELECT clock_timestamp() + interval '1 min'")
    async with MatchingEngine(kernel) as engine:
        before = await footprint(kernel)
        command = scene.command(buyer, "buy", 1, 900)
        late = await engine.accept(command, good_until=past)
        assert (late.answer.status, code_of(late)) == (503, "engine_stalled")
        assert late.answer.headers["Retry-After"] == "1"
        assert await footprint(kernel) == before
        in_time = await engine.accept(command, good_until=future)
        assert order_of(in_time)["status"] == "open"
        # Its own answer comes back however late it is asked for.
        again = await engine.accept(command, good_until=past)
        assert (again.replayed, again.answer) == (True, in_time.answer)


async def test_the_inbox_is_bounded(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    narrow = replace(kernel, settings=kernel.settings.model_copy(update={"engine_queue_max": 2}))
    async with MatchingEngine(kernel) as owner, process(narrow) as other, process(narrow) as third:

        async def submit(engine: MatchingEngine, command: Place) -> Reply | str:
            try:
                return await engine.submit(command)
            except EngineBusy as error:
                return error.headers["Retry-After"]

        work = [
            asyncio.create_task(submit(other, scene.command(buyer, "buy", 1, 900)))
            for _ in range(3)
        ]

        async def left() -> bool:
            return bool(await scalar(kernel, WAITING) == 2)

        await eventually(left)
        assert [task.done() for task in work] == [False, False, True]
        assert await submit(third, scene.command(buyer, "buy", 1, 900)) == "1"
        async with Relay(kernel, owner):
            first, second, refused = await asyncio.gather(*work)
        assert refused == "1"
        for reply in (first, second):
            assert isinstance(reply, Reply)
            assert order_of(reply)["status"] == "open"


async def test_a_lost_inbox_leaves_the_outcome_to_the_key(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    """A crash of Postgres empties unlogged tables; connections end."""
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as owner, process(kernel) as other:
        command = scene.command(buyer, "buy", 1, 900)
        waiting = asyncio.create_task(other.submit(command))

        async def left() -> bool:
            return bool(await scalar(kernel, WAITING) == 1)

        await eventually(left)
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute("TRUNCATE matching.inbox")
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'market relay' AND datname = current_database()"
            )
        with pytest.raises((EngineStalled, DatabaseUnavailable)):
            await waiting
        async with Relay(kernel, owner):

            async def carried_out() -> bool:
                try:
                    return bool(order_of(await other.submit(command))["status"] == "open")
                except DatabaseUnavailable:
                    return False

            await eventually(carried_out)


async def test_a_refusal_of_the_moment_comes_back_as_itself(kernel: Kernel, scene: Scene) -> None:
    """A command that breaks its batch is a 500 at the owner, and for the caller elsewhere."""
    buyer = await scene.buyer(10_000)
    broken = replace(scene.command(buyer, "buy", 1, 900), request_hash=b"short")
    async with process(kernel), process(kernel) as other:
        with pytest.raises(Relayed) as refused:
            await other.submit(broken)
        assert (refused.value.status, refused.value.code) == (500, "engine_failed")
        order_of(await other.submit(scene.command(buyer, "buy", 1, 900, client_order_id=_name())))


def _name() -> str:
    return uuid.uuid4().hex
