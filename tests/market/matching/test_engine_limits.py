"""The engine at its limits: a full queue, a taker of many makers, and its end."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from market.matching.engine import MatchingEngine
from market.matching.errors import EngineBusy, EngineStandby
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    money,
    order_of,
    scalar,
    together,
)
from tests.settlement.factories import verified


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app, so that each test runs the engines it wants."""
    made = open_kernel(settings)
    yield made
    await made.close()


async def test_a_full_queue_refuses_at_once(kernel: Kernel, scene: Scene) -> None:
    narrow = dataclasses.replace(
        kernel, settings=kernel.settings.model_copy(update={"engine_queue_max": 2})
    )
    buyer = await scene.buyer(100_000)
    async with MatchingEngine(narrow) as engine:
        results = await asyncio.gather(
            *(engine.submit(scene.command(buyer, "buy", 1, 900)) for _ in range(10)),
            return_exceptions=True,
        )
        busy = [result for result in results if isinstance(result, EngineBusy)]
        assert len(busy) == 8
        assert {error.headers["Retry-After"] for error in busy} == {"1"}
        assert (
            await scalar(
                kernel, "SELECT count(*) FROM matching.order WHERE party_id = $1", buyer.party_id
            )
            == 2
        )


async def test_a_long_taker_pays_many_makers_in_one_batch(kernel: Kernel, scene: Scene) -> None:
    """More fills than one ledger capture has legs: the hold is captured in a chain."""
    count = 150
    buyer = await scene.buyer(count * 1_000 + 500)
    async with MatchingEngine(kernel) as engine:
        await together(
            *(
                engine.submit(scene.command(scene.seller, "sell", 1, 900 + number % 7))
                for number in range(count)
            )
        )
        order = order_of(await engine.submit(scene.command(buyer, "buy", count + 1, 950)))
        assert (order["filled_lots"], order["remaining_lots"]) == (count, 1)
        assert len(order["trades"]) == 50
        spent = sum(900 + number % 7 for number in range(count))
        assert order["filled_amount_minor"] == spent
        assert await money(kernel, buyer.party_id) == (count * 1_000 + 500 - spent, 950)
        order_of(await engine.submit(cancel_command(buyer, order)))
        assert await money(kernel, buyer.party_id) == (count * 1_000 + 500 - spent, 0)
    await verified(kernel)


async def test_stopping_answers_what_waits_and_gives_the_lease_back(
    kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(50_000)
    engine = await MatchingEngine(kernel).__aenter__()
    waiting = [
        asyncio.create_task(engine.submit(scene.command(buyer, "buy", 1, 900))) for _ in range(20)
    ]
    await asyncio.sleep(0)
    await engine.__aexit__(None, None, None)
    assert [order_of(await task)["status"] for task in waiting] == ["open"] * 20
    with pytest.raises(EngineStandby):
        await engine.submit(scene.command(buyer, "buy", 1, 900))
    free = await scalar(kernel, "SELECT expires_at <= clock_timestamp() FROM matching.lease")
    assert free is True
