"""Random stories of one grant: whatever is lost on the way, billed is what was delivered."""

from typing import Literal

from hypothesis import HealthCheck, given, settings, strategies as st

from contracts.errors import (
    MeterRecovering,
    QuotaExhausted,
)
from contracts.metering import Hold, Meter
from market.kernel.context import Kernel
from tests.contracts.factories import Trade
from tests.contracts.meter_actions import again, drain_all, fact_of, lose_valkey, reserve, units

Step = tuple[Literal["use", "open", "finish", "drop", "lose", "sweep", "flush", "kill"], int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "open", "finish", "drop", "lose", "sweep", "flush", "kill"]),
        st.integers(0, 30),
    ),
    max_size=25,
)


class Story:
    """One grant, one process, and what really reached the reader."""

    def __init__(self, kernel: Kernel, trade: Trade) -> None:
        self.kernel = kernel
        self.trade = trade
        self.meter = Meter(kernel)
        self.open: list[Hold] = []
        self.delivered = 0

    async def tell(self, action: str, n: int) -> None:
        if action in {"use", "open"}:
            await self._begin(action, n)
        elif action == "lose":
            await lose_valkey(self.kernel)
        elif action == "flush":
            await self.meter.flush()
        elif action in {"sweep", "kill"}:
            await self.meter.recover(self.trade.grant_id, age_ms=0)
            if action == "kill":
                survivors, self.meter = self.meter._buffer, Meter(self.kernel)
                self.meter._buffer = survivors
        elif self.open:
            hold = self.open.pop()
            if action == "drop":
                await self.meter.release(hold)
            else:
                await self._finish(hold, min(n, hold.units))

    async def _begin(self, action: str, n: int) -> None:
        try:
            hold = await reserve(self.meter, self.trade, n)
        except (QuotaExhausted, MeterRecovering):
            return
        if action == "open":
            self.open.append(hold)
        else:
            await self._finish(hold, n)

    async def _finish(self, hold: Hold, n: int) -> None:
        await self.meter.settle(hold, fact_of(self.trade, hold, n))
        self.delivered += n

    async def use_up(self) -> None:
        for hold in self.open:
            await self.meter.release(hold)
        for _ in range(3):
            await drain_all(self.kernel, self.trade)
            if self.delivered < 100:
                await self._begin("use", 100 - self.delivered)
        await self.meter.flush()


@given(steps=STEPS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_story_bills_what_was_delivered(
    kernel: Kernel, base: Trade, steps: list[Step]
) -> None:
    """Whatever is lost in between: billed = delivered, and never beyond the grant.

    The only loss allowed by the bounds in ``metering`` (process and Valkey together, before a
    flush) is left out: ``kill`` sweeps first, ``lose`` keeps the process.
    """
    story = Story(kernel, await again(kernel, base))
    for action, n in steps:
        await story.tell(action, n)
        settled, reserved = await units(kernel, story.trade)
        assert settled + reserved <= 100
        assert settled <= story.delivered <= 100
    await story.meter.flush()
    assert (await units(kernel, story.trade))[0] == story.delivered
    await story.use_up()
    assert story.delivered == 100
    assert await units(kernel, story.trade) == (100, 0)
