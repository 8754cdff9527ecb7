"""Facts of other versions of this server, as they lie in Valkey while a new one is rolled out."""

from typing import Any

import orjson
import pytest

from contracts import jobs, metering_records
from contracts.metering import Hold, Meter, meter_of
from contracts.metering_asked import Asked
from contracts.metering_records import READS, Fact, FactTooNew, unpack
from contracts.metering_scripts import keys_of
from contracts.token_quota import QuotaHold
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from tests.contracts.factories import Trade
from tests.contracts.meter_actions import again, drain_all, fact_of, reserve, units, use


@pytest.fixture
async def trade(kernel: Kernel, base: Trade) -> Trade:
    """A fresh agreement for 100 rows."""
    return await again(kernel, base)


def packed_with(fact: Fact, **members: Any) -> str:
    """As a later version would pack it."""
    return orjson.dumps({**orjson.loads(fact.pack()), **members}).decode()


async def left_by_another(kernel: Kernel, trade: Trade, units: int, **members: Any) -> str:
    """What a dead process of a later version settled; gives its key."""
    killed = Meter(kernel)
    fact = await use(killed, trade, units)
    killed._buffer.clear()
    held = keys_of(trade.grant_id)[1]
    stored = await kernel.redis.hget(held, fact.key)
    text = stored.decode() if isinstance(stored, bytes) else str(stored)
    assert text.endswith(fact.pack())
    await kernel.redis.hset(
        held, fact.key, text.removesuffix(fact.pack()) + packed_with(fact, **members)
    )
    return fact.key


def test_unknown_members_are_passed_over(base: Trade) -> None:
    hold = Hold(base.grant_id, "key", 3, "", new_id(), None, 0.0)
    quota = QuotaHold(new_id(), new_id())
    asked = Asked(fields=("b", "a"), sequence="x", after=1, until=2, address="::1")
    fact = fact_of(base, hold, 3)._replace(asked=asked, quota=quota)
    later = {"planet": "mars", "needs": READS}
    for member in ("asked", "quota"):
        later[member] = {**orjson.loads(fact.pack())[member], "planet": {"of": ["mars"]}}
    assert unpack(packed_with(fact, **later)) == fact
    assert unpack(fact.pack()) == fact


def test_members_of_a_later_version_do_not_hide_its_number(base: Trade) -> None:
    fact = fact_of(base, Hold(base.grant_id, "key", 3, "", new_id(), None, 0.0), 3)
    with pytest.raises(FactTooNew) as refused:
        unpack(packed_with(fact, needs=READS + 1))
    assert (refused.value.status, refused.value.code) == (503, "meter_unavailable")


async def test_what_a_later_version_left_is_billed(kernel: Kernel, trade: Trade) -> None:
    await left_by_another(kernel, trade, 7, planet="mars")
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 1
    assert (await units(kernel, trade))[0] == 7


async def test_what_must_not_be_misread_waits_for_its_reader(
    kernel: Kernel, trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await left_by_another(kernel, trade, 7, needs=READS + 1)
    await left_by_another(kernel, trade, 5)
    meter = meter_of(kernel)
    with pytest.raises(FactTooNew):
        await meter.recover(trade.grant_id, age_ms=0)
    # The others of the grant are recorded, and its next deliveries go on.
    assert (await units(kernel, trade))[0] == 5
    with pytest.raises(FactTooNew):
        await reserve(meter, trade, 7, key)
    await use(meter, trade, 10)
    await meter.flush()
    assert await jobs.sweep_meters(kernel) == 0
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE contracts.lease SET state = 'draining', drain_until = clock_timestamp() "
            "WHERE grant_id = $1",
            trade.grant_id,
        )
    await drain_all(kernel, trade)
    settled, reserved = await units(kernel, trade)
    assert settled == 15
    assert reserved >= 7

    monkeypatch.setattr(metering_records, "READS", READS + 1)
    await drain_all(kernel, trade)
    assert await units(kernel, trade) == (22, 0)
