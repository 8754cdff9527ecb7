"""Calls of one process: how many at once, of one upstream and of all."""

import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from contracts.outbound.dialing import GuardedNetwork
from contracts.proxy.calling import PER_UPSTREAM_MAX, Calls, Request
from contracts.proxy.errors import UpstreamBusy
from contracts.proxy.models import Upstream, UpstreamStatus
from contracts.proxy.schemas import Operation
from market.kernel.ids import new_id
from tests.contracts.outbound import servers
from tests.contracts.outbound.servers import serving

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def request(base_url: str) -> Request:
    """A call of an upstream of its own."""
    upstream = Upstream(
        id=new_id(),
        product_id=new_id(),
        owner_id=new_id(),
        base_url=base_url,
        operations=[],
        status=UpstreamStatus.ACTIVE,
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    return Request(upstream, Operation(name="x", path="/x"), {}, "d-1", None)


async def refused(calls: Calls, asked: Request) -> bool:
    try:
        await calls.read(asked, deadline=time.monotonic() + 30)
    except UpstreamBusy as busy:
        return busy.headers["Retry-After"] == "1"
    return False


async def test_one_upstream_takes_only_its_own_calls() -> None:
    calls = Calls(GuardedNetwork(loopback=True), calls_max=PER_UPSTREAM_MAX + 1)
    async with serving(x=servers.json_of([])) as server, AsyncExitStack() as held:
        mine, other = request(server.url), request(server.url)
        for _ in range(PER_UPSTREAM_MAX):
            await held.enter_async_context(calls.open(mine, deadline=time.monotonic() + 30))
        assert await refused(calls, mine)
        assert not await refused(calls, other)
        await held.enter_async_context(calls.open(other, deadline=time.monotonic() + 30))
        assert await refused(calls, request(server.url))
        assert len(server.asked) == PER_UPSTREAM_MAX + 2
        await held.aclose()
        assert not await refused(calls, mine)


async def test_an_error_of_the_reader_gives_the_place_back() -> None:
    calls = Calls(GuardedNetwork(loopback=True), calls_max=1)
    async with serving(x=servers.json_of([])) as server:
        asked = request(server.url)
        with pytest.raises(KeyError):
            async with calls.open(asked, deadline=time.monotonic() + 30):
                raise KeyError
        assert not await refused(calls, asked)
