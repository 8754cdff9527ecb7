"""A token's own quota under races and crashes, at the meter that every way out passes.

A fresh ``Meter`` stands for another process; dropping one with its buffer stands for kill -9.
"""

import asyncio
from typing import Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from contracts import jobs, token_quota
from contracts.errors import (
    DeliveryInProgress,
    MeterRecovering,
    QuotaExhausted,
    TokenQuotaExhausted,
)
from contracts.metering import Delivered, Hold, Meter, meter_of
from contracts.metering_records import Fact, unpack
from contracts.token_quota_models import TokenQuota
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from tests.contracts.factories import Trade, make_trade
from tests.contracts.meter_actions import TOKEN, drain_all, fact_of, lose_valkey, units

QUOTA = 40


@pytest.fixture(scope="module")
async def trade(kernel: Kernel) -> Trade:
    """An agreement for a million rows."""
    return await make_trade(kernel, lots=1_000, lot_units=1_000)


async def make_quota(kernel: Kernel, trade: Trade, most: int = QUOTA) -> UUID:
    async with kernel.unit_of_work() as uow:
        quota = TokenQuota(
            id=new_id(), grant_id=trade.grant_id, quota_units=most, created_at=uow.now
        )
        uow.session.add(quota)
        return quota.id


@pytest.fixture
async def quota(kernel: Kernel, trade: Trade) -> UUID:
    """A quota of 40 units of the trade's grant."""
    return await make_quota(kernel, trade)


async def counts(kernel: Kernel, quota_id: UUID) -> tuple[int, int]:
    """Units used and held; the holds on record say the same."""
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT used_units, held_units, (SELECT coalesce(sum(units), 0)::bigint "
            "FROM contracts.token_quota_hold WHERE quota_id = $1) AS holds "
            "FROM contracts.token_quota WHERE id = $1",
            quota_id,
        )
    assert row is not None
    assert row["held_units"] == row["holds"]
    return row["used_units"], row["held_units"]


async def begin(
    meter: Meter, trade: Trade, quota_id: UUID, n: int, *, key: str | None = None
) -> Hold:
    outcome = await meter.reserve(
        trade.grant_id, TOKEN, key=key or new_id().hex, units=n, quota_id=quota_id
    )
    assert isinstance(outcome, Hold)
    return outcome


async def use(meter: Meter, trade: Trade, quota_id: UUID, n: int, key: str | None = None) -> Fact:
    hold = await begin(meter, trade, quota_id, n, key=key)
    fact = fact_of(trade, hold, n)
    await meter.settle(hold, fact)
    return fact


async def test_only_what_was_used_is_taken(kernel: Kernel, trade: Trade, quota: UUID) -> None:
    meter = Meter(kernel)
    hold = await begin(meter, trade, quota, 30)
    assert hold.remaining == 10
    assert await counts(kernel, quota) == (0, 30)
    await meter.settle(hold, fact_of(trade, hold, 4))
    await meter.flush()
    assert await counts(kernel, quota) == (4, 0)
    other = await begin(meter, trade, quota, 36)
    with pytest.raises(TokenQuotaExhausted) as refused:
        await begin(meter, trade, quota, 1)
    assert (refused.value.status, refused.value.extra) == (402, {"remaining": 0, "unit": "row"})
    await meter.release(other)
    assert await counts(kernel, quota) == (4, 0)


async def test_of_sixteen_on_the_last_unit_one_gets_it(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    earlier = Meter(kernel)
    await use(earlier, trade, quota, QUOTA - 1)
    await earlier.flush()
    before = (await units(kernel, trade))[0]
    meters = [Meter(kernel) for _ in range(4)]

    got = await asyncio.gather(
        *(use(meters[i % 4], trade, quota, 1) for i in range(16)), return_exceptions=True
    )
    refused = [each for each in got if isinstance(each, TokenQuotaExhausted)]
    assert [each.extra for each in refused] == [{"remaining": 0, "unit": "row"}] * 15
    assert sum(isinstance(each, Fact) for each in got) == 1
    await asyncio.gather(*(meter.flush() for meter in meters))
    assert (await units(kernel, trade))[0] == before + 1
    assert await counts(kernel, quota) == (QUOTA, 0)


async def test_a_refusal_of_the_grant_takes_nothing_of_the_quota(kernel: Kernel) -> None:
    small = await make_trade(kernel, lots=1, lot_units=10)
    quota = await make_quota(kernel, small, 10)
    other = await Meter(kernel).reserve(small.grant_id, TOKEN, key=new_id().hex, units=8)
    assert isinstance(other, Hold)
    with pytest.raises(QuotaExhausted) as refused:
        await begin(Meter(kernel), small, quota, 3)
    assert (refused.value.code, refused.value.extra["remaining"]) == ("quota_exhausted", 2)
    assert await counts(kernel, quota) == (0, 0)
    assert (await begin(Meter(kernel), small, quota, 2)).remaining == 0


async def test_losing_the_cache_loses_and_invents_nothing(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    meter = Meter(kernel)
    under_way = await begin(meter, trade, quota, 25)
    await use(meter, trade, quota, 10)
    await lose_valkey(kernel)
    with pytest.raises(TokenQuotaExhausted):
        await begin(meter, trade, quota, 6)
    await use(meter, trade, quota, 5)
    await meter.settle(under_way, fact_of(trade, under_way, 25))
    await meter.flush()
    assert await counts(kernel, quota) == (QUOTA, 0)
    await drain_all(kernel, trade)


async def test_a_process_killed_after_settling_is_billed_under_the_quota(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    killed = Meter(kernel)
    fact = await use(killed, trade, quota, 7)
    assert killed._buffer[-1] == unpack(killed._buffer[-1].pack())
    assert fact.quota is None
    assert killed._buffer[-1].quota is not None
    killed._buffer.clear()
    assert await counts(kernel, quota) == (0, 7)
    await meter_of(kernel).recover(trade.grant_id, age_ms=0)
    assert await counts(kernel, quota) == (7, 0)


async def test_a_process_killed_before_settling_gives_the_units_back(
    kernel: Kernel, trade: Trade, quota: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(Meter(kernel, hold_s=1), trade, quota, 30)
    live = Meter(kernel)
    with pytest.raises(TokenQuotaExhausted):
        await begin(live, trade, quota, 11)
    await asyncio.sleep(1.1)
    with pytest.raises(MeterRecovering) as waiting:
        await begin(live, trade, quota, 11)
    assert waiting.value.extra == {"remaining": 10}
    await jobs.sweep_token_quotas(kernel)
    assert await counts(kernel, quota) == (0, 30)
    monkeypatch.setattr(token_quota, "GRACE_S", 0)
    await jobs.sweep_token_quotas(kernel)
    assert await counts(kernel, quota) == (0, 0)
    assert (await begin(live, trade, quota, QUOTA)).remaining == 0


async def test_the_sweep_bills_what_was_delivered_before_it_gives_back(
    kernel: Kernel, trade: Trade, quota: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Meter(kernel, hold_s=1)
    await use(killed, trade, quota, 9)
    killed._buffer.clear()
    await asyncio.sleep(1.1)
    monkeypatch.setattr(token_quota, "GRACE_S", 0)
    await jobs.sweep_token_quotas(kernel)
    assert await counts(kernel, quota) == (9, 0)


async def test_a_record_after_the_sweep_never_passes_the_quota(
    kernel: Kernel, trade: Trade, quota: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Meter(kernel, hold_s=1)
    late = await begin(slow, trade, quota, 30)
    await asyncio.sleep(1.1)
    monkeypatch.setattr(token_quota, "GRACE_S", 0)
    await jobs.sweep_token_quotas(kernel)
    before = (await units(kernel, trade))[0]
    prompt = Meter(kernel)
    await use(prompt, trade, quota, 35)
    await prompt.flush()
    await slow.settle(late, fact_of(trade, late, 30))
    await slow.flush()
    assert await counts(kernel, quota) == (QUOTA, 0)
    assert (await units(kernel, trade))[0] == before + QUOTA


async def test_seller_safe_bills_what_a_killed_process_left(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    killed, key = Meter(kernel, hold_s=1), new_id().hex
    draft = Hold(trade.grant_id, key, 20, "", new_id(), None, 0.0)
    plan = fact_of(trade, draft, 20)._replace(assumed=True)
    await killed.reserve(trade.grant_id, TOKEN, key=key, units=20, planned=plan, quota_id=quota)
    await asyncio.sleep(1.1)
    await meter_of(kernel).recover(trade.grant_id, age_ms=0)
    assert await counts(kernel, quota) == (20, 0)


async def test_a_repetition_is_free_for_the_quota_too(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    first, other = Meter(kernel), Meter(kernel)
    hold = await begin(first, trade, quota, QUOTA, key="again-and-again")
    with pytest.raises(DeliveryInProgress):
        await begin(other, trade, quota, QUOTA, key="again-and-again")
    await first.settle(hold, fact_of(trade, hold, QUOTA))
    # Its process has not recorded it yet; whoever is asked makes it durable.
    with pytest.raises(TokenQuotaExhausted):
        await begin(other, trade, quota, QUOTA, key="again-and-again")
    assert await counts(kernel, quota) == (QUOTA, 0)
    await first.flush()
    assert await counts(kernel, quota) == (QUOTA, 0)


async def test_a_repetition_with_room_left_gives_it_back(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    meter = Meter(kernel)
    await use(meter, trade, quota, 5, key="once-more-please")
    known = await meter.reserve(
        trade.grant_id, TOKEN, key="once-more-please", units=5, quota_id=quota
    )
    assert isinstance(known, Delivered)
    assert sum(await counts(kernel, quota)) == 5
    await meter.flush()
    assert await counts(kernel, quota) == (5, 0)


async def test_a_record_written_by_two_counts_once(
    kernel: Kernel, trade: Trade, quota: UUID
) -> None:
    first, second = Meter(kernel), Meter(kernel)
    await use(first, trade, quota, 10)
    second._buffer.extend(first._buffer)
    await asyncio.gather(
        first.flush(), second.flush(), meter_of(kernel).recover(trade.grant_id, age_ms=0)
    )
    assert await counts(kernel, quota) == (10, 0)


Step = tuple[Literal["use", "open", "finish", "drop", "lose", "flush", "kill", "vanish"], int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["use", "use", "open", "finish", "drop", "lose", "flush", "kill", "vanish"]
        ),
        st.integers(0, 20),
    ),
    max_size=20,
)


class Story:
    """One quota, one process, and what really reached the reader under it."""

    def __init__(self, kernel: Kernel, trade: Trade, quota_id: UUID) -> None:
        self.kernel = kernel
        self.trade = trade
        self.quota_id = quota_id
        self.meter = Meter(kernel)
        self.open: list[Hold] = []
        self.delivered = 0

    async def tell(self, action: str, n: int) -> None:
        if action in {"use", "open"}:
            await self._begin(action, n)
        elif action == "vanish":
            await self._vanish(n)
        elif action == "lose":
            await lose_valkey(self.kernel)
            await drain_all(self.kernel, self.trade)
        elif action == "flush":
            await self.meter.flush()
        elif action == "kill":
            await self.meter.recover(self.trade.grant_id, age_ms=0)
            survivors, self.meter = self.meter._buffer, Meter(self.kernel)
            self.meter._buffer = survivors
        elif self.open:
            hold = self.open.pop()
            if action == "drop":
                await self.meter.release(hold)
            else:
                await self._finish(hold, min(n, hold.units))

    async def _vanish(self, n: int) -> None:
        """A process took units an hour ago and died before it reserved them."""
        key = new_id().hex
        try:
            await token_quota.take(self.kernel, self.quota_id, key=key, units=n + 1, hold_s=-3_600)
        except (TokenQuotaExhausted, MeterRecovering):
            return

    async def _begin(self, action: str, n: int) -> None:
        try:
            hold = await begin(self.meter, self.trade, self.quota_id, n)
        except (TokenQuotaExhausted, MeterRecovering):
            return
        if action == "open":
            self.open.append(hold)
        else:
            await self._finish(hold, n)

    async def _finish(self, hold: Hold, n: int) -> None:
        await self.meter.settle(hold, fact_of(self.trade, hold, n))
        self.delivered += n


@given(steps=STEPS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_story_bills_what_was_delivered_and_never_more_than_the_quota(
    kernel: Kernel, trade: Trade, steps: list[Step]
) -> None:
    story = Story(kernel, trade, await make_quota(kernel, trade))
    before = (await units(kernel, trade))[0]
    for action, n in steps:
        await story.tell(action, n)
        used, held = await counts(kernel, story.quota_id)
        assert used <= story.delivered <= used + held <= QUOTA
    for hold in story.open:
        await story.meter.release(hold)
    await story.meter.flush()
    await jobs.sweep_token_quotas(kernel)
    assert await counts(kernel, story.quota_id) == (story.delivered, 0)
    if story.delivered < QUOTA:
        await use(story.meter, trade, story.quota_id, QUOTA - story.delivered)
        await story.meter.flush()
    assert await counts(kernel, story.quota_id) == (QUOTA, 0)
    assert (await units(kernel, trade))[0] == before + QUOTA
    with pytest.raises(TokenQuotaExhausted):
        await begin(story.meter, trade, story.quota_id, 1)
