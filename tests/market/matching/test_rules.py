"""Tick, lots, bands and combinations; good-till-date."""

from datetime import UTC, datetime, timedelta

import pytest

from market.matching.expiry import Expiries
from market.matching.rules import Rules, Terms, Violation
from market.matching.terms import UNLIMITED, Side, TimeInForce

BUY, SELL = Side.BUY, Side.SELL
RULES = Rules(tick=5, lot_step=10, lots_min=20, lots_max=1_000, band_ppm=100_000)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Terms(BUY, 1_000, 20), None),
        (Terms(BUY, 0, 20), Violation.PRICE),
        (Terms(BUY, -5, 20), Violation.PRICE),
        (Terms(BUY, 1_001, 20), Violation.TICK),
        (Terms(BUY, 1_100, 20), None),
        (Terms(BUY, 1_105, 20), Violation.BAND),
        (Terms(SELL, 895, 20), Violation.BAND),
        (Terms(SELL, 5, 20, TimeInForce.IOC, market=True), Violation.BAND),
        (Terms(BUY, 1_000, 10), Violation.LOTS_MIN),
        (Terms(BUY, 1_000, 1_010), Violation.LOTS_MAX),
        (Terms(BUY, 1_000, 25), Violation.LOT_STEP),
        (Terms(SELL, 1_000, UNLIMITED), None),
        (Terms(BUY, 1_000, UNLIMITED), Violation.UNLIMITED),
        (Terms(SELL, 1_000, UNLIMITED, TimeInForce.IOC), Violation.UNLIMITED),
        (Terms(BUY, 1_000, 20, TimeInForce.GTC, market=True), Violation.MARKET),
        (Terms(BUY, 1_000, 20, TimeInForce.FOK, market=True), None),
        (Terms(BUY, 1_000, 20, TimeInForce.IOC, post_only=True), Violation.POST_ONLY),
        (Terms(BUY, 1_000, 20, post_only=True), None),
        (Terms(BUY, 1_000, 20, minimum=20), None),
        (Terms(BUY, 1_000, 20, minimum=21), Violation.MINIMUM),
        (Terms(BUY, 1_000, 20, minimum=-1), Violation.MINIMUM),
        (Terms(BUY, 1_000, 20, post_only=True, minimum=1), Violation.MINIMUM),
        (Terms(BUY, 1_000, 20, TimeInForce.AUCTION, minimum=1), Violation.MINIMUM),
    ],
)
def test_the_first_broken_rule_is_named(order: Terms, expected: Violation | None) -> None:
    assert RULES.violation(order, 1_000) is expected


def test_the_band_rounds_inwards_and_waits_for_a_reference() -> None:
    assert Rules(tick=5, band_ppm=33_333).band(1_000) == (970, 1_030)
    assert Rules(tick=7, band_ppm=10_000).band(1_000) == (994, 1_008)
    assert Rules(tick=7, band_ppm=2_000_000).band(10) == (7, 28)
    assert Rules().band(1_000) is None
    assert RULES.violation(Terms(BUY, 50_000, 20), None) is None


def test_orders_fall_due_in_time_order_until_they_end() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    open_orders = {"a", "b", "c", "d"}
    expiries: Expiries[str] = Expiries()
    for seq, (key, minutes) in enumerate([("a", 3), ("b", 1), ("c", 1), ("d", 9)]):
        expiries.add(start + timedelta(minutes=minutes), seq, key)
    assert expiries.due(start, 10, open_orders.__contains__) == []
    later = start + timedelta(minutes=3)
    assert expiries.due(later, 2, open_orders.__contains__) == ["b", "c"]
    # Due until ended: the batch that was to end them may have failed.
    assert expiries.due(later, 10, open_orders.__contains__) == ["b", "c", "a"]
    open_orders -= {"b", "c"}
    assert expiries.due(later, 10, open_orders.__contains__) == ["a"]
    assert len(expiries) == 2
    expiries.clear()
    assert len(expiries) == 0


def test_ended_orders_are_swept_once_they_prevail() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    expiries: Expiries[int] = Expiries()
    for key in range(3_000):
        expiries.add(start, key, key)
    expiries.sweep(2_000, lambda key: key >= 1_000)
    assert len(expiries) == 3_000
    expiries.sweep(500, lambda key: key >= 2_500)
    assert len(expiries) == 500
    assert expiries.due(start, 2, lambda key: True) == [2_500, 2_501]
