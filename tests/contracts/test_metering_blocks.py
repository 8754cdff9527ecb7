"""Sub-leases: what a process meters by itself, what it may lose, and when it must stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts import tokens
from contracts.errors import TokenRevoked
from contracts.metering import Hold, Meter
from contracts.metering_records import Fact
from contracts.metering_scripts import SYNC, keys_of
from contracts.schemas import TokenBody
from listings.policy_schemas import Policy
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from tests.contracts.factories import Trade, make_trade
from tests.contracts.meter_actions import TOKEN, again, fact_of, units
from tests.listings.factories import listing_body

BLOCK = 50
LOTS_UNITS = 10_000
WAIT_S = 60
HOLD_S = 2


@pytest.fixture(scope="module")
async def large(kernel: Kernel) -> Trade:
    """An agreement for 10,000 rows; more of them are made from it."""
    return await make_trade(kernel, lot_units=LOTS_UNITS, sub_lease_units=BLOCK)


@pytest.fixture
async def trade(kernel: Kernel, large: Trade) -> Trade:
    return await again(kernel, large)


@pytest.fixture
async def meter(kernel: Kernel) -> AsyncIterator[Meter]:
    meter = Meter(kernel, hold_s=HOLD_S)
    yield meter
    await meter.flush()
    await meter.close()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + WAIT_S
    while not await true():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def reserve(meter: Meter, trade: Trade, units: int, token: UUID = TOKEN) -> Hold:
    outcome = await meter.reserve(
        trade.grant_id,
        token,
        key=new_id().hex,
        units=units,
        block_units=BLOCK,
    )
    assert isinstance(outcome, Hold)
    return outcome


async def out_of_a_block(meter: Meter, trade: Trade, units: int, token: UUID = TOKEN) -> Hold:
    """A reservation that nobody was asked for."""
    found: list[Hold] = []

    async def taken() -> bool:
        hold = await reserve(meter, trade, units, token)
        if hold.block is None:
            await meter.release(hold)
            return False
        found.append(hold)
        return True

    await until(taken)
    return found[0]


async def avail(kernel: Kernel, trade: Trade) -> int:
    return int(await kernel.redis.hget(keys_of(trade.grant_id)[0], "avail") or -1)


async def lent(kernel: Kernel, trade: Trade) -> int:
    """Units of the lease that are not settled."""
    async with kernel.unit_of_work() as uow:
        query = "SELECT units - settled_units FROM contracts.lease WHERE grant_id = $1"
        return int(await (await uow.raw()).fetchval(query, trade.grant_id))


async def use(meter: Meter, trade: Trade, of: int, used: int) -> Fact:
    hold = await out_of_a_block(meter, trade, of)
    fact = fact_of(trade, hold, used)
    await meter.settle(hold, fact)
    return fact


async def test_units_of_a_block_are_charged_like_all_others(
    kernel: Kernel, trade: Trade, meter: Meter
) -> None:
    for _ in range(8):
        await use(meter, trade, 10, 7)
    released = await out_of_a_block(meter, trade, 30)
    await meter.release(released)
    await meter.flush()
    await meter.close()
    assert (await units(kernel, trade))[0] == 56
    assert await avail(kernel, trade) == await lent(kernel, trade)
    assert await kernel.redis.hlen(keys_of(trade.grant_id)[1]) == 0


async def test_a_block_holds_no_more_than_its_size(
    kernel: Kernel, trade: Trade, meter: Meter
) -> None:
    first = await out_of_a_block(meter, trade, 40)
    assert first.block is not None
    holds = [first]
    while (more := await reserve(meter, trade, 10)).block is not None:
        holds.append(more)
        assert first.block.open <= BLOCK
    assert more.lease_id == first.lease_id
    assert first.block.held <= BLOCK
    for hold in (*holds, more):
        await meter.release(hold)


async def test_a_crash_loses_at_most_the_block(kernel: Kernel, trade: Trade) -> None:
    dying = Meter(kernel, hold_s=HOLD_S)
    fact = await use(dying, trade, 20, 20)
    await dying.flush()
    lost = await use(dying, trade, 15, 15)
    for task in dying._blocks._tasks:
        task.cancel()
    dying._buffer.clear()
    assert (fact.units, lost.units) == (20, 15)
    other = Meter(kernel, hold_s=HOLD_S)

    async def swept() -> bool:
        await other.recover(trade.grant_id, age_ms=0)
        return not await kernel.redis.hlen(keys_of(trade.grant_id)[1])

    await until(swept)
    assert (await units(kernel, trade))[0] == 20
    # What Valkey was not told of before the crash it may lend again, never charge again.
    assert 0 <= await avail(kernel, trade) - await lent(kernel, trade) <= 20


async def test_a_revocation_waits_for_blocks_and_is_immediate(
    kernel: Kernel, large: Trade, meter: Meter
) -> None:
    trade = await again(kernel, large)
    minted = await tokens.mint(
        kernel, trade.buyer.actor, trade.grant_id, TokenBody(ttl_s=600, label="x")
    )
    hold = await out_of_a_block(meter, trade, 5, minted.id)
    begun = time.monotonic()
    await tokens.revoke(kernel, trade.buyer.actor, minted.id)
    with pytest.raises(TokenRevoked):
        await reserve(meter, trade, 5, minted.id)
    assert time.monotonic() - begun < WAIT_S
    # Deliveries under way run to their end.
    await meter.settle(hold, fact_of(trade, hold, 5)._replace(token_id=minted.id))
    await meter.flush()
    assert (await units(kernel, trade))[0] == 5


async def test_a_small_grant_is_metered_exactly(kernel: Kernel, base: Trade, meter: Meter) -> None:
    trade = await again(kernel, base)
    for _ in range(10):
        hold = await reserve(meter, trade, 10)
        assert hold.block is None
        await meter.settle(hold, fact_of(trade, hold, 10))
        await asyncio.sleep(0.05)
    await meter.flush()
    assert await units(kernel, trade) == (100, 0)


async def test_another_question_under_the_id_of_a_block_is_charged(
    kernel: Kernel, trade: Trade, meter: Meter
) -> None:
    fact = await use(meter, trade, 3, 3)
    other = Meter(kernel, hold_s=HOLD_S)
    outcome = await other.reserve(trade.grant_id, TOKEN, key=fact.key, units=4)
    assert isinstance(outcome, Hold)
    second = fact_of(trade, outcome, 4)._replace(query_sha256="1" * 64)
    await other.settle(outcome, second)
    await meter.flush()
    for _ in range(2):
        other._buffer.append(second)
        await other.flush()
    assert (await units(kernel, trade))[0] == 7


async def test_a_repeated_call_counts_once(kernel: Kernel, trade: Trade, meter: Meter) -> None:
    hold = await out_of_a_block(meter, trade, 1)
    await meter.release(hold)
    before = await avail(kernel, trade)
    call = ("~block", "ab12", 1, 0, 20, 1, TOKEN.hex, 60_000, 500)
    for _ in range(3):
        assert (await meter.cache.call(SYNC, trade.grant_id, *call))[:2] == ["OK", "20"]
    assert await avail(kernel, trade) == before - 20
    done = ("~block", "ab12", 2, 5, 0, 0, TOKEN.hex, 60_000, 500)
    assert (await meter.cache.call(SYNC, trade.grant_id, *done))[1] == "0"
    assert await meter.cache.call(SYNC, trade.grant_id, *done) == ["GONE"]
    assert await avail(kernel, trade) == before - 5


async def test_an_idle_block_goes_back(kernel: Kernel, trade: Trade, meter: Meter) -> None:
    hold = await out_of_a_block(meter, trade, 1)
    await meter.release(hold)

    async def back() -> bool:
        return await avail(kernel, trade) == await lent(kernel, trade)

    await until(back)


def test_blocks_are_for_the_buyer_safe_side_only() -> None:
    policy = {**listing_body("")["policy"], "sub_lease_units": 50}
    assert Policy.model_validate(policy).sub_lease_units == 50
    with pytest.raises(ValidationError, match="buyer_safe"):
        Policy.model_validate({**policy, "meter_side": "seller_safe"})
