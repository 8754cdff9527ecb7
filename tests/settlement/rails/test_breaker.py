"""The circuit breaker alone, and the rail behind it: reads repeated, writes never."""

from datetime import UTC, datetime, timedelta

import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from settlement.errors import RailUnavailable
from settlement.rails.base import ChargeRequest
from settlement.rails.breaker import FAILURES_MAX, OPEN_FOR, PROBE_FOR, Breaker
from settlement.rails.choice import stripe_rail_of
from settlement.rails.stripe_gateway import READS_MAX, StripeMissing
from tests.settlement.factories import move_clock, now
from tests.settlement.stripe_fake import StripeFake

START = datetime(2026, 1, 1, tzinfo=UTC)


class Watch:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


def broken(watch: Watch) -> Breaker:
    breaker = Breaker(watch)
    for _ in range(FAILURES_MAX):
        assert breaker.admit() == 0
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    watch = Watch()
    breaker = Breaker(watch)
    for _ in range(FAILURES_MAX - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES_MAX - 1):
        breaker.failed()
        assert breaker.admit() == 0
    breaker.failed()
    assert breaker.admit() == OPEN_FOR.total_seconds()


def test_one_probe_decides() -> None:
    watch = Watch()
    breaker = broken(watch)
    watch.time += OPEN_FOR
    assert breaker.admit() == 0
    assert breaker.admit() > 0
    breaker.failed()
    assert breaker.admit() == OPEN_FOR.total_seconds()
    watch.time += OPEN_FOR
    assert breaker.admit() == 0
    breaker.succeeded()
    assert [breaker.admit() for _ in range(3)] == [0, 0, 0]


def test_a_lost_probe_and_a_clock_set_back_do_not_block_for_good() -> None:
    watch = Watch()
    breaker = broken(watch)
    watch.time += OPEN_FOR
    assert breaker.admit() == 0
    watch.time += PROBE_FOR
    assert breaker.admit() == 0
    watch.time -= timedelta(days=1)
    assert breaker.admit() == PROBE_FOR.total_seconds()


async def test_an_outage_is_noticed_and_left_alone(kernel: Kernel, fake: StripeFake) -> None:
    gateway = stripe_rail_of(kernel).gateway
    fake.down = True
    request = ChargeRequest(new_id(), 500, "EUR", "checkout", new_id())
    for _ in range(FAILURES_MAX):
        with pytest.raises(RailUnavailable):
            await gateway.ask(gateway.api.customers.create_async({}, {"idempotency_key": "k"}))
    assert len(fake.sent) == FAILURES_MAX
    with pytest.raises(RailUnavailable, match="left alone") as refusal:
        await stripe_rail_of(kernel).charge(request)
    assert refusal.value.headers["Retry-After"] == str(int(OPEN_FOR.total_seconds()))
    assert len(fake.sent) == FAILURES_MAX
    # The command was kept before the call that was not made: its key serves later.
    assert await gateway.command(request.key) is None
    fake.down = False
    await move_clock(kernel, OPEN_FOR)
    await now(kernel)
    assert (await stripe_rail_of(kernel).charge(request)).redirect_url is not None


async def test_reads_are_repeated_and_refusals_are_not(kernel: Kernel, fake: StripeFake) -> None:
    gateway = stripe_rail_of(kernel).gateway
    fake.down = True
    with pytest.raises(RailUnavailable):
        await gateway.ask(gateway.api.transfers.retrieve_async("tr_1"))
    assert len(fake.sent) == READS_MAX
    fake.down = False
    fake.sent.clear()
    with pytest.raises(StripeMissing):
        await gateway.ask(gateway.api.transfers.retrieve_async("tr_1"))
    assert len(fake.sent) == 1
    assert gateway.breaker.failures == 0
