"""Circuits: open after failures in a row, probed once, closed by success."""

from contracts.proxy.breaker import FAILURES_MAX, KNOWN_MAX, OPEN_S, PROBE_S, Breakers


def opened() -> Breakers:
    breakers = Breakers()
    for _ in range(FAILURES_MAX):
        assert breakers.wait_s("u", now=100) == 0
        breakers.failed("u", now=100)
    return breakers


def test_it_opens_after_failures_in_a_row_only() -> None:
    breakers = Breakers()
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breakers.failed("u", now=100)
        breakers.succeeded("u")
    assert breakers.wait_s("u", now=100) == 0
    assert opened().wait_s("u", now=100) == OPEN_S
    assert opened().wait_s("other", now=100) == 0


def test_one_probe_decides() -> None:
    breakers = opened()
    after = 100 + OPEN_S
    assert breakers.wait_s("u", now=after) == 0
    assert breakers.wait_s("u", now=after) == PROBE_S
    breakers.failed("u", now=after + 1)
    assert breakers.wait_s("u", now=after + 1) == OPEN_S
    assert breakers.wait_s("u", now=after + 1 + OPEN_S) == 0
    breakers.succeeded("u")
    assert breakers.wait_s("u", now=after + 1 + OPEN_S) == 0


def test_a_lost_probe_does_not_keep_it_open() -> None:
    breakers = opened()
    assert breakers.wait_s("u", now=100 + OPEN_S) == 0
    assert breakers.wait_s("u", now=100 + OPEN_S + PROBE_S) == 0


def test_memory_is_bounded() -> None:
    breakers = Breakers()
    for number in range(KNOWN_MAX + 10):
        breakers.failed(number)
    assert len(breakers._known) == KNOWN_MAX
