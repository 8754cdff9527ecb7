"""Shared files under plans by MiB and by query, and plans by time, which do not sell them."""

import httpx
import orjson
import pytest

from contracts.metering import Meter
from market.kernel.context import Kernel
from tests.contracts.factories import bearer, make_trade, mint, settled
from tests.contracts.meter_actions import use
from tests.contracts.sharing.conftest import charged
from tests.contracts.sharing.test_files import ROOT, query
from tests.contracts.sharing.test_pieces import deliveries, small_pieces

MIB = 1 << 20


async def test_a_file_costs_its_bytes_once(
    wire: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 1_000)
    trade = await make_trade(kernel, unit="mib", lots=1, lot_units=1)
    file = await query(wire, trade, await mint(kernel, trade), limitHint=900)
    for _ in range(2):
        assert len((await wire.get(file["url"])).content) == file["size"]
        assert await charged(kernel, trade, file["size"]) == file["size"]
    found = await deliveries(kernel, trade)
    # The signature that opens the file is counted as sent from the beginning.
    assert sum(each.units for each in found) == sum(each.byte_count for each in found)
    assert 900 - len(found) <= sum(each.row_count for each in found) <= 900


async def test_a_file_beyond_the_bytes_left_is_refused_before_it_is_sent(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, unit="mib", lots=1, lot_units=1)
    meter = Meter(kernel)
    await use(meter, trade, MIB - 2_000)
    await meter.flush()
    path = f"{ROOT}/shares/{trade.grant}/schemas/data/tables/flight_records/query"
    headers = bearer(await mint(kernel, trade))
    answer = await wire.post(path, json={"limitHint": 900}, headers=headers)
    problem = orjson.loads(answer.content)
    assert (answer.status_code, problem["code"]) == (402, "quota_exhausted")
    assert (problem["remaining"], problem["unit"]) == (2_000, "byte")
    assert await settled(kernel, trade) == MIB - 2_000


async def test_a_query_counts_when_its_file_is_fetched(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, unit="query", lots=1, lot_units=5)
    token = await mint(kernel, trade)
    for number in (1, 2):
        file = await query(wire, trade, token, limitHint=10)
        assert await charged(kernel, trade, number - 1) == number - 1
        for _ in range(2):
            answer = await wire.get(file["url"])
            assert (answer.status_code, "fingerprinted" in answer.headers) == (200, False)
        assert await charged(kernel, trade, number) == number


async def test_plans_by_time_do_not_sell_files(wire: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="compute_second", lots=1, lot_units=100)
    path = f"{ROOT}/shares/{trade.grant}/schemas/data/tables/flight_records/query"
    headers = bearer(await mint(kernel, trade))
    answer = await wire.post(path, json={"limitHint": 900}, headers=headers)
    problem = orjson.loads(answer.content)
    assert (answer.status_code, problem["code"]) == (409, "unit_refused")
    assert problem["errorCode"] == "RESOURCE_CONFLICT"
