"""One timer for all waiting callers."""

import asyncio

import pytest

from market.matching.deadlines import Deadlines


class Late(Exception):
    pass


async def test_each_waits_its_own_time_and_only_the_open_ones_fail() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(0.2, Late)
    begun = loop.time()
    first: asyncio.Future[int] = loop.create_future()
    answered: asyncio.Future[int] = loop.create_future()
    deadlines.watch(first)
    deadlines.watch(answered)
    answered.set_result(1)
    await asyncio.sleep(0.1)
    second: asyncio.Future[int] = loop.create_future()
    deadlines.watch(second)
    with pytest.raises(Late):
        await first
    assert not second.done()
    with pytest.raises(Late):
        await second
    assert loop.time() - begun >= 0.3
    assert answered.result() == 1
    # Rests after the last, and starts again.
    third: asyncio.Future[int] = loop.create_future()
    deadlines.watch(third)
    with pytest.raises(Late):
        await third


async def test_closing_ends_the_watch() -> None:
    deadlines = Deadlines(0.01, Late)
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    deadlines.watch(future)
    deadlines.close()
    await asyncio.sleep(0.05)
    assert not future.done()
