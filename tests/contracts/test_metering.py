"""The meter under crashes: caches emptied, processes lost, records written twice.

A fresh ``Meter`` stands for another process; dropping one with its buffer stands for kill -9.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import pytest

from contracts import grants as grant_service, jobs, sql
from contracts.errors import (
    DeliveryInProgress,
    GrantRevoked,
    MeterRecovering,
    MeterUnavailable,
    QuotaExhausted,
    TokenRevoked,
)
from contracts.metering import Delivered, Hold, Meter, close_meter, meter_of
from contracts.metering_records import unpack
from contracts.metering_scripts import RESERVE, keys_of
from contracts.models import DeliveryToken
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.redis import open_redis
from tests.contracts.factories import Trade, grant_of, mint
from tests.contracts.meter_actions import (
    TOKEN,
    again,
    drain_all,
    fact_of,
    lose_valkey,
    reserve,
    units,
    use,
)


@pytest.fixture
async def trade(kernel: Kernel, base: Trade) -> Trade:
    """A fresh agreement for 100 rows."""
    return await again(kernel, base)


async def test_only_what_was_used_is_charged(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    hold = await reserve(meter, trade, 10)
    assert hold.remaining == 90
    await meter.settle(hold, fact_of(trade, hold, 4))
    other = await reserve(meter, trade, 96)
    assert other.remaining == 0
    await meter.release(other)
    assert (await reserve(meter, trade, 96)).remaining == 0
    await meter.flush()
    assert (await units(kernel, trade))[0] == 4


async def test_a_refusal_names_what_remains_and_takes_nothing(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    await use(meter, trade, 60)
    with pytest.raises(QuotaExhausted) as refused:
        await reserve(meter, trade, 41)
    assert refused.value.extra == {"remaining": 40, "unit": "row"}
    await use(meter, trade, 40)
    await meter.flush()
    assert await units(kernel, trade) == (100, 0)


async def test_losing_the_cache_loses_and_invents_nothing(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    await use(meter, trade, 10)
    under_way = await reserve(meter, trade, 5)
    await lose_valkey(kernel)
    await use(meter, trade, 20)
    await meter.settle(under_way, fact_of(trade, under_way, 5))
    await meter.flush()
    assert (await units(kernel, trade))[0] == 35
    await drain_all(kernel, trade)
    await use(meter, trade, 65)
    await meter.flush()
    assert await units(kernel, trade) == (100, 0)
    with pytest.raises(QuotaExhausted):
        await reserve(meter, trade, 1)


async def test_units_of_a_lost_lease_are_promised_not_resold(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    hold = await reserve(meter, trade, 95)
    await lose_valkey(kernel)
    with pytest.raises(MeterRecovering) as refused:
        await reserve(meter, trade, 10)
    assert int(refused.value.headers["Retry-After"]) >= 1
    await meter.settle(hold, fact_of(trade, hold, 95))
    await meter.flush()
    await drain_all(kernel, trade)
    with pytest.raises(QuotaExhausted) as exhausted:
        await reserve(meter, trade, 10)
    assert exhausted.value.extra == {"remaining": 5, "unit": "row"}


async def test_a_process_killed_after_settling_is_billed_by_the_sweeper(
    kernel: Kernel, trade: Trade
) -> None:
    killed = Meter(kernel)
    hold = await reserve(killed, trade, 7)
    fact = fact_of(trade, hold, 7)
    await killed.settle(hold, fact)
    killed._buffer.clear()
    assert (await units(kernel, trade))[0] == 0
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 1
    assert (await units(kernel, trade))[0] == 7
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 0
    assert await jobs.sweep_meters(kernel) == 0


async def test_a_process_killed_before_settling_bills_nothing(kernel: Kernel, trade: Trade) -> None:
    killed = Meter(kernel, hold_s=1)
    await reserve(killed, trade, 100)
    live = Meter(kernel)
    with pytest.raises(QuotaExhausted):
        await reserve(live, trade, 1)
    await asyncio.sleep(1.1)
    assert (await reserve(live, trade, 100)).remaining == 0


async def test_seller_safe_bills_what_a_killed_process_left(kernel: Kernel, trade: Trade) -> None:
    killed = Meter(kernel, hold_s=1)
    keys = [new_id().hex for _ in range(3)]
    planned = []
    for key in keys:
        draft = Hold(trade.grant_id, key, 20, "", new_id(), None, 0.0)
        planned.append(fact_of(trade, draft, 20)._replace(assumed=True))
        await killed.reserve(trade.grant_id, TOKEN, key=key, units=20, planned=planned[-1])
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 0
    await asyncio.sleep(1.1)
    again = await meter_of(kernel).reserve(trade.grant_id, TOKEN, key=keys[0], units=20)
    assert again == Delivered(planned[0])
    with pytest.raises(QuotaExhausted) as refused:
        await reserve(Meter(kernel), trade, 41)
    assert refused.value.extra == {"remaining": 40, "unit": "row"}
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 3
    assert await units(kernel, trade) == (60, 0)
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT d.assumed, d.lease_id, l.id FROM contracts.delivery d "
            "JOIN contracts.lease l ON l.grant_id = d.grant_id WHERE d.grant_id = $1",
            trade.grant_id,
        )
    assert len(rows) == 3
    assert all(row["assumed"] and row["lease_id"] == row["id"] for row in rows)


async def test_seller_safe_charges_only_what_was_settled(kernel: Kernel, trade: Trade) -> None:
    meter, key = Meter(kernel, hold_s=1), new_id().hex
    draft = Hold(trade.grant_id, key, 20, "", new_id(), None, 0.0)
    plan = fact_of(trade, draft, 20)._replace(assumed=True)
    hold = await meter.reserve(trade.grant_id, TOKEN, key=key, units=20, planned=plan)
    assert isinstance(hold, Hold)
    await meter.settle(hold, fact_of(trade, hold, 3))
    other = await meter.reserve(trade.grant_id, TOKEN, key=new_id().hex, units=9, planned=plan)
    assert isinstance(other, Hold)
    await meter.release(other)
    await meter.flush()
    await asyncio.sleep(1.1)
    assert await meter_of(kernel).recover(trade.grant_id, age_ms=0) == 0
    assert (await units(kernel, trade))[0] == 3


async def test_a_fact_recorded_by_two_is_billed_once(kernel: Kernel, trade: Trade) -> None:
    first, second = Meter(kernel), Meter(kernel)
    hold = await reserve(first, trade, 10)
    fact = fact_of(trade, hold, 10)
    await first.settle(hold, fact)
    second._buffer.append(fact)
    await asyncio.gather(
        first.flush(), second.flush(), meter_of(kernel).recover(trade.grant_id, age_ms=0)
    )
    assert (await units(kernel, trade))[0] == 10
    assert (await grant_of(kernel, trade.agreement.id)).delivery_count == 1


async def test_a_key_under_way_is_refused_and_a_settled_one_is_known(
    kernel: Kernel, trade: Trade
) -> None:
    meter = Meter(kernel)
    hold = await reserve(meter, trade, 3, key="same-key")
    with pytest.raises(DeliveryInProgress):
        await reserve(meter, trade, 3, key="same-key")
    fact = fact_of(trade, hold, 3)
    await meter.settle(hold, fact)
    known = await meter.reserve(trade.grant_id, TOKEN, key="same-key", units=3)
    assert known == Delivered(fact)
    assert unpack(fact.pack()) == fact


async def test_a_late_record_beyond_its_lease_never_overcharges(
    kernel: Kernel, trade: Trade
) -> None:
    slow = Meter(kernel, hold_s=1)
    late = await reserve(slow, trade, 100)
    await asyncio.sleep(1.1)
    prompt = Meter(kernel)
    await use(prompt, trade, 60)
    await slow.settle(late, fact_of(trade, late, 100))
    await asyncio.gather(prompt.flush(), slow.flush())
    assert await units(kernel, trade) == (100, 0)


async def test_revocation_reaches_a_lease_that_is_being_made(kernel: Kernel, trade: Trade) -> None:
    """ACTIVATE that arrives after the revocation must not open the grant again."""
    meter = Meter(kernel)
    nonce = "n" * 32
    word, *_ = await meter.cache.call(
        RESERVE, trade.grant_id, "key-12345", 1, "owner", TOKEN.hex, 1_000, nonce
    )
    assert word == "LEASE"
    async with kernel.unit_of_work() as uow:
        await grant_service.revoke(uow, kernel, trade.agreement.id)
    assert await kernel.redis.get(keys_of(trade.grant_id)[2]) is None
    with pytest.raises(GrantRevoked):
        await reserve(meter, trade, 1)
    assert await units(kernel, trade) == (0, 0)


async def test_revoked_tokens_survive_the_loss_of_the_cache(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    await mint(kernel, trade)
    listed = await client.get(f"/v1/grants/{trade.grant}/tokens", headers=trade.buyer.headers())
    (token,) = listed.json()["items"]
    await client.delete(f"/v1/tokens/{token['id']}", headers=trade.buyer.headers())
    await lose_valkey(kernel)
    meter = Meter(kernel)
    await use(meter, trade, 1)
    async with kernel.unit_of_work() as uow:
        (hex_id,) = await sql.revoked_tokens(await uow.raw(), trade.grant_id)
    with pytest.raises(TokenRevoked):
        await meter.reserve(trade.grant_id, type(TOKEN)(hex_id), key="k" * 8, units=1)
    with pytest.raises(TokenRevoked):
        await meter.admit(trade.grant_id, type(TOKEN)(hex_id))


async def test_a_cache_that_evicts_revoked_tokens_asks_again(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    await use(meter, trade, 1)
    async with kernel.unit_of_work() as uow:
        row = await grant_service.find(uow, trade.grant_id, trade.buyer.actor)
        token = DeliveryToken(
            id=new_id(),
            grant_id=row.id,
            party_id=row.buyer_id,
            credential_id=trade.buyer.actor.credential_id,
            label="revoked",
            created_at=uow.now,
            expires_at=uow.now + timedelta(hours=1),
            revoked_at=uow.now,
        )
        uow.session.add(token)
        await uow.session.flush()
        await grant_service.block(kernel, trade.grant_id)
        token_id = token.id
    with pytest.raises(TokenRevoked):
        await meter.admit(trade.grant_id, token_id)
    assert await kernel.redis.delete(keys_of(trade.grant_id)[3]) == 1
    with pytest.raises(TokenRevoked):
        await meter.admit(trade.grant_id, token_id)
    assert await kernel.redis.delete(keys_of(trade.grant_id)[3]) == 1
    with pytest.raises(TokenRevoked):
        await meter.reserve(trade.grant_id, token_id, key="k" * 8, units=1)


async def test_revocation_works_without_the_cache(kernel: Kernel, trade: Trade) -> None:
    """A process that cannot reach Valkey revokes; readers notice within the freshness window."""
    meter = Meter(kernel)
    await use(meter, trade, 1)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE contracts.access_grant SET status = 'revoked', gen = gen + 1 WHERE id = $1",
            trade.grant_id,
        )
    await asyncio.sleep(2.1)
    with pytest.raises(GrantRevoked):
        await reserve(meter, trade, 1)


async def test_without_a_cache_the_meter_refuses_and_keeps_what_it_knows(
    kernel: Kernel, trade: Trade
) -> None:
    meter = Meter(kernel)
    hold = await reserve(meter, trade, 5)
    cut_off = Meter(dataclasses.replace(kernel, redis=open_redis("redis://127.0.0.1:1/0")))
    with pytest.raises(MeterUnavailable) as refused:
        await cut_off.admit(trade.grant_id, TOKEN)
    assert refused.value.headers["Retry-After"] == "1"
    await cut_off.settle(hold, fact_of(trade, hold, 5))
    await cut_off.release(hold)
    assert await cut_off.flush() == 1
    assert (await units(kernel, trade))[0] == 5


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait up to five seconds."""
    for _ in range(250):
        if await holds():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it never happened")


async def test_the_flusher_needs_nobody_to_call_it(kernel: Kernel, trade: Trade) -> None:
    meter = Meter(kernel)
    await use(meter, trade, 2)

    async def durable() -> bool:
        return await units(kernel, trade) == (2, 8)

    async def forgotten() -> bool:
        return await kernel.redis.hlen(keys_of(trade.grant_id)[1]) == 0

    await eventually(durable)
    await eventually(forgotten)
    assert await meter.flush() == 0


async def test_closing_the_meter_flushes_it(kernel: Kernel, trade: Trade) -> None:
    cache = dataclasses.replace(kernel, redis=open_redis(str(kernel.settings.redis_url)))
    meter = meter_of(cache)
    hold = await reserve(meter, trade, 2)
    meter._buffer.append(fact_of(trade, hold, 2))
    await close_meter(cache)
    assert (await units(kernel, trade))[0] == 2
    await cache.redis.aclose()


async def test_many_processes_at_once_are_exact(kernel: Kernel, trade: Trade) -> None:
    meters = [Meter(kernel) for _ in range(4)]

    async def read(meter: Meter) -> int:
        used = 0
        while True:
            try:
                used += (await use(meter, trade, 3)).units
            except QuotaExhausted as refused:
                if refused.extra["remaining"] == 0:
                    return used
                try:
                    used += (await use(meter, trade, 1)).units
                except QuotaExhausted:
                    return used

    total = sum(await asyncio.gather(*(read(meter) for meter in meters * 3)))
    await asyncio.gather(*(meter.flush() for meter in meters))
    settled, reserved = await units(kernel, trade)
    assert settled == total
    assert settled + reserved <= 100
    if settled < 100:
        await use(meters[0], trade, 100 - settled)
        await meters[0].flush()
    assert await units(kernel, trade) == (100, 0)


async def test_the_database_itself_refuses_to_sell_twice(kernel: Kernel, trade: Trade) -> None:
    async def force(statement: str) -> None:
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(statement, trade.grant_id)

    for statement in (
        "UPDATE contracts.access_grant SET reserved_units = 101 WHERE id = $1",
        "UPDATE contracts.access_grant SET settled_units = 101 WHERE id = $1",
        "UPDATE contracts.access_grant SET granted_units = 500 WHERE id = $1",
        "DELETE FROM contracts.delivery WHERE grant_id = $1",
        "UPDATE contracts.delivery SET units = 0 WHERE grant_id = $1",
        "DELETE FROM contracts.receipt WHERE agreement_id = $1",
    ):
        with pytest.raises(Exception, match=r"violates|denied|append"):
            await force(statement)
    assert await units(kernel, trade) == (0, 0)
