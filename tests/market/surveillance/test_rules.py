"""The rules alone: each limit from both of its sides."""

from datetime import UTC, datetime
from uuid import UUID

from market.surveillance.rules import (
    Flow,
    Part,
    Pressure,
    Print,
    Rule,
    affiliated,
    cancelled_pressure,
    circular,
    concentrated,
    off_valuation,
    price_jumps,
)

AT = datetime(2026, 1, 2, 3, tzinfo=UTC)
A, B, PLAN = UUID(int=1), UUID(int=2), UUID(int=9)


def trade(price: int, *, median: int | None = None, earlier: int = 0, **more: int) -> Print:
    return Print(
        UUID(int=price),
        PLAN,
        A,
        B,
        price,
        AT,
        earlier,
        median,
        more.get("low"),
        more.get("high"),
    )


def flow(buyer: UUID, seller: UUID, amount: int, trades: int, currency: str = "CNY") -> Flow:
    ids = tuple(UUID(int=amount * 100 + n) for n in range(trades))
    return Flow(buyer, seller, currency, amount, ids, AT)


def test_affiliates_are_one_subject_whoever_buys() -> None:
    there = trade(1_000)
    back = Print(UUID(int=5), PLAN, B, A, 1_000, AT, 0, None, None, None)
    first, second = affiliated([there, back])
    assert first.rule is Rule.AFFILIATED_TRADE
    assert first.subject == second.subject
    assert (first.trades, second.trades) == ((there.trade_id,), (back.trade_id,))


def test_money_that_goes_there_and_back() -> None:
    limits = {"trades_min": 2, "return_ppm": 800_000}
    (found,) = circular([flow(A, B, 1_000, 2), flow(B, A, 800, 2)], **limits)
    assert found.figures["there_minor"] == 1_000
    assert found.figures["back_minor"] == 800
    assert len(found.trades) == 4
    assert found.parties == (A, B)
    for flows in (
        [flow(A, B, 1_000, 2), flow(B, A, 799, 2)],
        [flow(A, B, 1_000, 2), flow(B, A, 1_000, 1)],
        [flow(A, B, 1_000, 2), flow(B, A, 1_000, 2, "USD")],
        [flow(A, B, 1_000, 2)],
    ):
        assert circular(flows, **limits) == []


def test_pressure_is_most_of_the_orders_and_several() -> None:
    limits = {"orders_min": 3, "cancelled_ppm": 700_000}

    def seen(cancelled: int, entered: int) -> Pressure:
        orders = tuple(UUID(int=n + 1) for n in range(cancelled))
        return Pressure(A, PLAN, "buy", entered, orders, (UUID(int=77),), AT)

    (found,) = cancelled_pressure([seen(7, 10)], **limits)
    assert found.figures == {"side": "buy", "entered": 10, "cancelled": 7}
    assert len(found.orders) == 7
    assert cancelled_pressure([seen(2, 2), seen(6, 10)], **limits) == []


def test_a_jump_is_more_than_the_band_either_way() -> None:
    limits = {"earlier_min": 5, "jump_ppm": 300_000}
    prints = [
        trade(1_301, median=1_000, earlier=5),
        trade(699, median=1_000, earlier=5),
        trade(1_300, median=1_000, earlier=5),
        trade(700, median=1_000, earlier=5),
        trade(9_000, median=1_000, earlier=4),
        trade(9_001),
    ]
    assert [item.figures["price_minor"] for item in price_jumps(prints, **limits)] == [1_301, 699]


def test_outside_the_valuation_by_more_than_the_tolerance() -> None:
    prints = [trade(price, low=800, high=1_200) for price in (399, 400, 1_800, 1_801)]
    found = off_valuation([*prints, trade(5)], tolerance_ppm=500_000)
    assert [item.figures["price_minor"] for item in found] == [399, 1_801]
    assert {item.subject for item in found} == {f"plan:{PLAN}"}


def test_a_part_counts_among_enough_trades_and_parties() -> None:
    limits = {"trades_min": 20, "parties_min": 3, "share_ppm": 600_000}

    def part(amount: int, trades: int, parties: int) -> Part:
        return Part("category:x", "buyer", A, amount, 1_000, trades, parties, "CNY", AT)

    (found,) = concentrated([part(600, 20, 3)], **limits)
    assert (found.plan_id, found.parties) == (None, (A,))
    assert concentrated([part(599, 20, 3), part(600, 19, 3), part(600, 20, 2)], **limits) == []
