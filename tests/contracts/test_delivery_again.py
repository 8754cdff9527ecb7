"""The same Delivery-Id again: free after a restart of the app, a new charge after a day."""

import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest

from market import serving
from market.kernel.context import Kernel
from market.kernel.settings import Settings
from market.operations.sandbox import AdvanceClock, advance_clock
from tests.contracts.factories import bearer, make_trade, mint, settled
from tests.listings.factories import any_operator

ROWS = "/v1/delivery/rows?limit=30&order=-id"
BULK = "/v1/delivery/bulk"
FREE_S = 24 * 3_600


@contextlib.asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a real socket, until it is stopped."""
    with (
        serving.bind("127.0.0.1", 0) as listener,
        serving.in_thread(settings, listener) as address,
    ):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            yield client


@pytest.mark.parametrize(("path", "cost"), [(ROWS, 30), (BULK, 1_000)])
async def test_a_retry_after_a_restart_is_free_and_the_same(
    settings: Settings, kernel: Kernel, path: str, cost: int
) -> None:
    trade = await make_trade(kernel, lots=5, lot_units=500)
    headers = bearer(await mint(kernel, trade), **{"Delivery-Id": uuid.uuid4().hex})
    async with _started(settings) as client:
        first = await client.get(path, headers=headers)
        assert (first.status_code, first.headers["meter-charged"]) == (200, str(cost))
    assert await settled(kernel, trade) == cost
    async with _started(settings) as client:
        again = await client.get(path, headers=headers)
        assert (again.status_code, again.headers["meter-charged"]) == (200, "0")
    assert hashlib.sha256(again.content).digest() == hashlib.sha256(first.content).digest()
    assert again.content
    assert await settled(kernel, trade) == cost


async def test_after_a_day_it_is_a_new_charge(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, lots=5, lot_units=500)
    key = uuid.uuid4().hex
    headers = {"Delivery-Id": key}
    first = await client.get(ROWS, headers=headers | bearer(await mint(kernel, trade)))
    assert first.headers["meter-charged"] == "30"
    # Durable first: what waits for the database has no time of its own yet.
    assert await settled(kernel, trade) == 30
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=FREE_S - 600))
    again = await client.get(ROWS, headers=headers | bearer(await mint(kernel, trade)))
    assert (again.content, again.headers["meter-charged"]) == (first.content, "0")
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=601))
    token = await mint(kernel, trade)
    late = await client.get(ROWS, headers=headers | bearer(token))
    assert (late.status_code, late.json()["code"]) == (409, "delivery_id_expired")
    assert await settled(kernel, trade) == 30
    other = {"Delivery-Id": uuid.uuid4().hex}
    anew = await client.get(ROWS, headers=other | bearer(token))
    assert (anew.content, anew.headers["meter-charged"]) == (first.content, "30")
    assert await settled(kernel, trade) == 60
