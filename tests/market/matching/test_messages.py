"""The message meter: a second's worth at once, then evenly; forgets who is silent."""

from uuid import UUID

import pytest

from market.matching.control_errors import TooManyMessages
from market.matching.messages import MessageMeter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_seconds_worth_then_evenly() -> None:
    clock = Clock()
    meter = MessageMeter(clock)
    one, other = UUID(int=1), UUID(int=2)
    for _ in range(10):
        meter.count(one, 10)
    with pytest.raises(TooManyMessages) as refused:
        meter.count(one, 10)
    assert refused.value.headers["Retry-After"] == "1"
    meter.count(other, 10)
    clock.now += 0.2
    meter.count(one, 10)
    meter.count(one, 10)
    with pytest.raises(TooManyMessages):
        meter.count(one, 10)
    clock.now += 10
    for _ in range(10):
        meter.count(one, 10)


def test_a_large_message_waits_for_a_full_bucket_and_empties_it_for_longer() -> None:
    clock = Clock()
    meter = MessageMeter(clock)
    one = UUID(int=1)
    meter.count(one, 10, 4)
    with pytest.raises(TooManyMessages) as refused:
        meter.count(one, 10, 25)
    assert refused.value.headers["Retry-After"] == "1"
    with pytest.raises(TooManyMessages):
        meter.count(one, 10, 7)
    clock.now += 0.4
    meter.count(one, 10, 25)
    clock.now += 1.5
    with pytest.raises(TooManyMessages):
        meter.count(one, 10)
    clock.now += 0.1
    meter.count(one, 10)


def test_memory_is_bounded_by_the_parties_of_a_second() -> None:
    clock = Clock()
    meter = MessageMeter(clock)
    for number in range(10_000):
        meter.count(UUID(int=number), 1_000)
        clock.now += 0.01
    assert len(meter) <= 1_024
