"""Minimum quantity, dates, auction-only orders and self-trade modes, durable and rebuilt."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from market.matching.engine import MatchingEngine
from tests.market.matching.factories import (
    Scene,
    code_of,
    footprint,
    money,
    one_row,
    order_of,
)
from tests.market.parties.factories import Member
from tests.settlement.factories import verified

GROUP = UUID(int=77)


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


async def stored(kernel: Kernel, order: dict[str, Any]) -> dict[str, Any]:
    return await one_row(
        kernel,
        "SELECT status, reason, lots, filled_lots, hold_id IS NOT NULL AS held"
        " FROM matching.order WHERE id = $1",
        UUID(order["id"].removeprefix("ord_")),
    )


async def join_group(kernel: Kernel, member: Member, group: UUID | None) -> None:
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = $2", group, member.party_id
        )


async def test_a_minimum_is_filled_at_once_or_nothing_happens(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(scene.command(scene.seller, "sell", 3, 900)))
        refused = order_of(await engine.submit(scene.command(buyer, "buy", 6, 900, min_lots=4)))
        assert (refused["status"], refused["reason"]) == ("cancelled", "below_minimum")
        assert await money(kernel, buyer.party_id) == (10_000, 0)
        taken = order_of(await engine.submit(scene.command(buyer, "buy", 6, 900, min_lots=3)))
        assert (taken["filled_lots"], taken["remaining_lots"], taken["min_lots"]) == (3, 3, 3)
        assert await money(kernel, buyer.party_id) == (7_300, 2_700)
    await verified(kernel)


async def test_good_till_date_ends_by_its_date(kernel: Kernel, scene: Scene) -> None:
    async with kernel.unit_of_work() as uow:
        due = (uow.now + timedelta(days=2)).isoformat()
    async with MatchingEngine(kernel) as engine:
        ask = order_of(
            await engine.submit(
                scene.command(scene.seller, "sell", None, 900, time_in_force="gtd", expires_at=due)
            )
        )
        assert (ask["time_in_force"], ask["status"]) == ("gtd", "open")
        assert ask["expires_at"] is not None


async def test_an_auction_order_is_refused_outside_of_one(kernel: Kernel, scene: Scene) -> None:
    """409 under its key, nothing stored, and its money serves the next order of the batch."""
    buyer = await scene.buyer(1_000)
    command = scene.command(buyer, "buy", 1, 1_000, time_in_force="auction", client_order_id="mine")
    async with MatchingEngine(kernel) as engine:
        before = await footprint(kernel)
        refused = await engine.submit(command)
        assert (refused.answer.status, code_of(refused)) == (409, "instrument_closed")
        assert await footprint(kernel) == before
        again = await engine.submit(command)
        assert (again.replayed, again.answer) == (True, refused.answer)
        order_of(await engine.submit(scene.command(buyer, "buy", 1, 1_000, client_order_id="mine")))
        assert await money(kernel, buyer.party_id) == (1_000, 1_000)


@pytest.mark.parametrize(
    ("mode", "lots", "incoming", "resting", "held"),
    [
        # (status, reason, lots) of the incoming sell, then of the resting buy of 5 at 900.
        ("cancel_newest", 3, ("cancelled", "self_trade", 3), ("open", None, 5), 4_500),
        ("cancel_oldest", 3, ("open", None, 3), ("cancelled", "self_trade", 5), 0),
        ("cancel_both", 3, ("cancelled", "self_trade", 3), ("cancelled", "self_trade", 5), 0),
        ("decrement", 3, ("cancelled", "self_trade", 3), ("open", None, 2), 1_800),
        ("decrement", 5, ("cancelled", "self_trade", 5), ("cancelled", "self_trade", 5), 0),
        ("decrement", 8, ("open", None, 3), ("cancelled", "self_trade", 5), 0),
    ],
)
async def test_orders_of_one_group_never_trade(
    kernel: Kernel,
    scene: Scene,
    mode: str,
    lots: int,
    incoming: tuple[str, str | None, int],
    resting: tuple[str, str | None, int],
    held: int,
) -> None:
    buyer = await scene.buyer(10_000)
    await join_group(kernel, buyer, GROUP)
    async with MatchingEngine(kernel) as engine:
        bid = order_of(await engine.submit(scene.command(buyer, "buy", 5, 900)))
        await join_group(kernel, buyer, None)
        await join_group(kernel, scene.seller, GROUP)
        ask = order_of(
            await engine.submit(
                scene.command(scene.seller, "sell", lots, 900, self_trade_prevention=mode)
            )
        )
        assert (ask["status"], ask["reason"], ask["lots"]) == incoming
        assert ask["trades"] == []
        row = await stored(kernel, bid)
        assert (row["status"], row["reason"], row["lots"]) == resting
        assert await money(kernel, buyer.party_id) == (10_000, held)
        sums = {
            plan: (item.sequence, item.book.checksum(), item.checksum)
            for plan, item in engine.shard._instruments.items()
        }
        assert sums[scene.plan_id][1] == sums[scene.plan_id][2]
    async with MatchingEngine(kernel) as engine:
        instrument = engine.shard.instrument(scene.plan_id)
        assert instrument.book.checksum() == sums[scene.plan_id][1]
    await verified(kernel)


async def test_a_decremented_order_trades_with_others_for_what_is_left(
    kernel: Kernel, scene: Scene
) -> None:
    own, other = await scene.buyer(10_000), await scene.buyer(10_000)
    await join_group(kernel, own, GROUP)
    async with MatchingEngine(kernel) as engine:
        first = order_of(await engine.submit(scene.command(other, "buy", 2, 950)))
        second = order_of(await engine.submit(scene.command(own, "buy", 3, 920)))
        third = order_of(await engine.submit(scene.command(other, "buy", 4, 900)))
        await join_group(kernel, own, None)
        await join_group(kernel, scene.seller, GROUP)
        ask = order_of(
            await engine.submit(
                scene.command(scene.seller, "sell", 9, 900, self_trade_prevention="decrement")
            )
        )
        # 9 lots: 2 sold, 3 taken off, 4 sold.
        assert (ask["status"], ask["lots"], ask["filled_lots"]) == ("filled", 6, 6)
        assert ask["filled_amount_minor"] == 2 * 950 + 4 * 900
        found = [(await stored(kernel, order))["status"] for order in (first, second, third)]
        assert found == ["filled", "cancelled", "filled"]
        assert await money(kernel, own.party_id) == (10_000, 0)
        assert await money(kernel, other.party_id) == (10_000 - 2 * 950 - 4 * 900, 0)
        cut = await one_row(
            kernel,
            "SELECT data->>'cut_lots' AS lots FROM kernel.outbox"
            " WHERE object_id = $1 AND type = 'order.decremented'",
            UUID(ask["id"].removeprefix("ord_")),
        )
        assert cut["lots"] == "3"
    await verified(kernel)
