"""Whole-version downloads under plans by MiB, and plans that do not sell files."""

import uuid

import httpx
import pytest

from contracts.bulk import ranges
from contracts.metering import Meter
from market.kernel.context import Kernel
from tests.contracts.factories import bearer, make_trade, mint, settled
from tests.contracts.meter_actions import use
from tests.pricing.factories import MeteredUnit

BULK = "/v1/delivery/bulk"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 1_024)


async def test_each_byte_is_paid_once(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="mib", lots=1, lot_units=1)
    token = await mint(kernel, trade)
    shown = (await client.get(f"{BULK}/manifest", headers=bearer(token))).json()
    size = shown["bytes"]
    assert (shown["unit"], shown["units"]) == ("byte", size)
    key = uuid.uuid4().hex
    headers = bearer(token, **{"Delivery-Id": key})
    paid = 0
    for span, fresh in (((0, 1_500), 1_500), ((1_400, 1_600), 100), ((0, 1_600), 0)):
        asked = {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        answer = await client.get(BULK, headers=headers | asked)
        assert (answer.status_code, len(answer.content)) == (206, span[1] - span[0])
        assert (answer.headers["meter-charged"], answer.headers["meter-unit"]) == (
            str(fresh),
            "byte",
        )
        paid += fresh
        assert await settled(kernel, trade) == paid
    whole = await client.get(BULK, headers=headers)
    assert len(whole.content) == size
    assert whole.headers["meter-charged"] == str(size - 1_600)
    assert await settled(kernel, trade) == size


async def test_what_is_left_must_cover_the_range(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="mib", lots=1, lot_units=1)
    meter = Meter(kernel)
    await use(meter, trade, MIB - 3_000)
    await meter.flush()
    token = await mint(kernel, trade)
    refused = await client.get(BULK, headers=bearer(token))
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (402, "quota_exhausted")
    assert (problem["remaining"], problem["unit"]) == (3_000, "byte")
    assert await settled(kernel, trade) == MIB - 3_000
    fits = await client.get(BULK, headers=bearer(token) | {"Range": "bytes=0-2999"})
    assert (fits.status_code, fits.headers["meter-remaining"]) == (206, "0")
    assert await settled(kernel, trade) == MIB


@pytest.mark.parametrize("unit", ["query", "compute_second"])
async def test_plans_by_queries_and_their_time_do_not_sell_files(
    client: httpx.AsyncClient, kernel: Kernel, unit: MeteredUnit
) -> None:
    trade = await make_trade(kernel, unit=unit, lots=1, lot_units=100)
    token = await mint(kernel, trade)
    for path in (BULK, f"{BULK}/manifest"):
        answer = await client.get(path, headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (409, "unit_refused")
    assert await settled(kernel, trade) == 0
