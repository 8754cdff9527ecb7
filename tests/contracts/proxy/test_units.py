"""Calls under plans by MiB and compute second: reserved by their limits, charged as measured."""

import asyncio
import gzip
import json
import uuid
from typing import Any

import pytest

from contracts.metering import Meter
from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.meter_actions import use
from tests.contracts.outbound import servers
from tests.contracts.outbound.servers import Answer, Asked
from tests.contracts.proxy.conftest import MakeOffer, operation
from tests.contracts.proxy.costs import held_units, problem
from tests.pricing.factories import MeteredUnit

MIB = 1 << 20
LONG = [{"price": number, "name": "x" * 50} for number in range(40)]
BODY = json.dumps(LONG).encode()
PAUSE_S = 0.05


def slow(body: bytes) -> Answer:
    """An answer that takes its time twice, before its head and before its last bytes."""

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(PAUSE_S)
        lines = {"content-type": "application/json", "content-length": str(len(body))}
        writer.write(servers.head(200, lines) + body[:10])
        await writer.drain()
        await asyncio.sleep(PAUSE_S)
        writer.write(body[10:])

    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_are_those_of_the_decompressed_answer(
    kernel: Kernel, make_offer: MakeOffer, stream: bool
) -> None:
    offer = await make_offer({"unit": "mib", "lot_units": 1}, x=servers.zipped(BODY))
    assert len(gzip.compress(BODY)) < len(BODY)
    await offer.register(operation(max_bytes=65_536, stream=stream))
    answer = await offer.call()
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["meter-unit"] == "byte"
    if stream:
        assert answer.headers["meter-reserved"] == "65536"
        assert "meter-charged" not in answer.headers
    else:
        assert answer.headers["meter-charged"] == str(len(BODY))
        assert answer.headers["meter-remaining"] == str(MIB - len(BODY))
    assert await settled(kernel, offer.trade) == len(BODY)
    assert await held_units(kernel, offer) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_time_is_the_upstreams(kernel: Kernel, make_offer: MakeOffer, stream: bool) -> None:
    offer = await make_offer({"unit": "compute_second", "lot_units": 30}, x=slow(BODY))
    await offer.register(operation(timeout_s=20, stream=stream))
    answer = await offer.call()
    assert (answer.status_code, answer.content) == (200, BODY)
    charged = await settled(kernel, offer.trade)
    assert 2 * PAUSE_S * 1_000 <= charged <= 20_000
    assert answer.headers["meter-unit"] == "millisecond"
    if not stream:
        assert answer.headers["meter-charged"] == str(charged)
        assert answer.headers["meter-remaining"] == str(30_000 - charged)
    assert await held_units(kernel, offer) == 0


@pytest.mark.parametrize(
    ("unit", "left", "limits", "word"),
    [
        ("mib", 65_535, {"max_bytes": 65_536}, "byte"),
        ("compute_second", 1_999, {"timeout_s": 2}, "millisecond"),
    ],
)
async def test_less_left_than_the_limit_is_refused_before_the_upstream_is_asked(
    kernel: Kernel,
    make_offer: MakeOffer,
    unit: MeteredUnit,
    left: int,
    limits: dict[str, Any],
    word: str,
) -> None:
    offer = await make_offer({"unit": unit, "lot_units": 3}, x=servers.json_of(LONG))
    await offer.register(operation(**limits))
    granted = offer.trade.agreement.granted_units
    assert granted is not None
    meter = Meter(kernel)
    await use(meter, offer.trade, granted - left)
    await meter.flush()
    answer = await offer.call()
    problem(answer, 402, "quota_exhausted")
    assert (answer.json()["remaining"], answer.json()["unit"]) == (left, word)
    assert offer.server.connections == 0
    assert await settled(kernel, offer.trade) == granted - left


@pytest.mark.parametrize("unit", ["mib", "compute_second"])
async def test_failures_are_free_and_repetitions_too(
    kernel: Kernel, make_offer: MakeOffer, unit: MeteredUnit
) -> None:
    offer = await make_offer(
        {"unit": unit, "lot_units": 30},
        x=servers.json_of(LONG),
        bad=servers.json_of({}, status=500),
    )
    await offer.register(operation(), operation("bad"))
    assert (await offer.call("bad")).status_code == 502
    assert await settled(kernel, offer.trade) == 0
    key = uuid.uuid4().hex
    first = await offer.call(Delivery_Id=key)
    charged = await settled(kernel, offer.trade)
    assert charged == int(first.headers["meter-charged"]) > 0
    again = await offer.call(Delivery_Id=key)
    assert (again.content, again.headers["meter-charged"]) == (first.content, "0")
    assert await settled(kernel, offer.trade) == charged
    assert await held_units(kernel, offer) == 0


@pytest.mark.parametrize("unit", ["row", "query"])
async def test_calls_have_neither_rows_nor_queries(
    kernel: Kernel, make_offer: MakeOffer, unit: MeteredUnit
) -> None:
    offer = await make_offer({"unit": unit}, x=servers.json_of(LONG))
    await offer.register(operation())
    problem(await offer.call(), 409, "proxy_unit_refused")
    assert offer.server.connections == 0
