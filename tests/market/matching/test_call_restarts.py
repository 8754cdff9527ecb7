"""Call auctions in the engine: restarts in every phase, lost commits, failures, many trades."""

import dataclasses
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.matching.batch import Batch
from market.matching.commands import ControlAction, Reply
from market.matching.control_models import MARKET
from market.matching.engine import MatchingEngine
from market.matching.shard import Shard
from market.matching.terms import Phase
from settlement import ledger
from tests.market.matching.control_factories import RULES, decision
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    code_of,
    escrow_total,
    eventually,
    money,
    one_row,
    open_scene,
    order_of,
    scalar,
    together,
)
from tests.market.matching.test_engine import FlakyDatabase, picture
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock, now, verified

SPAN = timedelta(hours=1)
KINDS: tuple[dict[str, object], ...] = (
    {},
    {},
    {"time_in_force": "auction"},
    {"time_in_force": "ioc"},
    {"post_only": True},
)
STATUS = "SELECT status FROM matching.call_auction WHERE plan_id = $1 ORDER BY id DESC LIMIT 1"


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def collect(engine: MatchingEngine, kernel: Kernel, operator: Member, scene: Scene) -> None:
    closes_at = (await now(kernel) + SPAN).isoformat()
    order_of(
        await engine.submit(
            decision(
                operator,
                ControlAction.SCHEDULE_CALL,
                scene.plan_id,
                opens_at=None,
                closes_at=closes_at,
            )
        )
    )
    await reached(kernel, scene, "collecting")


async def reached(kernel: Kernel, scene: Scene, status: str) -> None:
    async def there() -> bool:
        return bool(await scalar(kernel, STATUS, scene.plan_id) == status)

    await eventually(there, within_s=20)


def phase(shard: Shard, scene: Scene) -> Phase:
    return shard.instrument(scene.plan_id).book.phase


async def test_a_restart_while_collecting_goes_on_collecting(
    kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(100_000)
    async with MatchingEngine(kernel) as engine:
        await collect(engine, kernel, operator, scene)
        for price in (900, 950):
            order_of(await engine.submit(scene.command(buyer, "buy", 2, price)))
        for terms in ({}, {"time_in_force": "auction"}):
            order_of(await engine.submit(scene.command(scene.seller, "sell", 3, 850, **terms)))
        before, seen = picture(engine.shard)[scene.plan_id], engine.shard.controls
        told = engine.shard.indicatives
        assert phase(engine.shard, scene) is Phase.CALL
    async with MatchingEngine(kernel) as engine:
        assert engine.shard.controls == seen
        assert picture(engine.shard)[scene.plan_id] == before
        assert phase(engine.shard, scene) is Phase.CALL
        book = engine.shard.instrument(scene.plan_id).book
        assert list(told.values()) == [book.indicative(1_000)]
        # Own orders that cross are prevented as before the restart.
        crossing = await engine.submit(scene.command(buyer, "sell", 1, 900))
        assert code_of(crossing) == "not_the_seller"
        order_of(await engine.submit(decision(operator, ControlAction.HALT_MARKET, MARKET)))
    await move_clock(kernel, SPAN)
    async with MatchingEngine(kernel) as engine:
        assert phase(engine.shard, scene) is Phase.HALTED
        order_of(await engine.submit(decision(operator, ControlAction.RESUME_MARKET, MARKET)))
        await reached(kernel, scene, "closed")
        assert phase(engine.shard, scene) is Phase.CONTINUOUS
    # Supply is left at every price from 850 to 900, so 850; the hold was 3,700.
    assert await money(kernel, buyer.party_id) == (100_000 - 4 * 850, 0)
    await verified(kernel)


@pytest.mark.parametrize("moment", ["lose_before_commit", "lose_after_commit"])
async def test_an_auction_whose_commit_is_lost_trades_once(
    kernel: Kernel, scene: Scene, operator: Member, moment: str
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(shaky) as engine:
        await collect(engine, kernel, operator, scene)
        order_of(await engine.submit(scene.command(buyer, "buy", 2, 900)))
        order_of(await engine.submit(scene.command(scene.seller, "sell", 2, 900)))
        # In one batch with the close, which comes first.
        await move_clock(kernel, SPAN)
        setattr(flaky, moment, 1)
        order_of(await engine.submit(scene.command(buyer, "buy", 1, 800)))
        await reached(kernel, scene, "closed")
        assert phase(engine.shard, scene) is Phase.CONTINUOUS
        assert engine.shard.controls.calls == {}
    assert await money(kernel, buyer.party_id) == (10_000 - 1_800, 800)
    count = "SELECT count(*) FROM matching.trade WHERE plan_id = $1"
    assert await scalar(kernel, count, scene.plan_id) == 1
    await verified(kernel)


async def test_an_auction_that_cannot_close_is_void_and_others_trade_on(
    kernel: Kernel, scene: Scene, operator: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await open_scene(kernel)
    buyer = await scene.buyer(10_000)
    post = Batch._post

    async def broken(self: Batch, *arguments: Any) -> Any:
        if self.closing:
            raise RuntimeError("a defect")
        return await post(self, *arguments)

    async with MatchingEngine(kernel) as engine:
        await collect(engine, kernel, operator, scene)
        order_of(await engine.submit(scene.command(buyer, "buy", 2, 900)))
        order_of(await engine.submit(scene.command(scene.seller, "sell", 2, 900)))
        monkeypatch.setattr(Batch, "_post", broken)
        await move_clock(kernel, SPAN)
        await reached(kernel, scene, "void")
        order_of(await engine.submit(other.command(other.seller, "sell", 1, 900)))
        assert phase(engine.shard, scene) is Phase.HALTED
        monkeypatch.undo()
        reopen = decision(operator, ControlAction.RESUME, scene.plan_id, auction_s=1)
        order_of(await engine.submit(reopen))
        await reached(kernel, scene, "closed")
    assert await money(kernel, buyer.party_id) == (10_000 - 1_800, 0)
    await verified(kernel)


async def test_an_uncrossing_beyond_one_ledger_call_is_one_batch(
    kernel: Kernel, scene: Scene, operator: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trades of an auction commit together, however many calls the ledger needs."""
    monkeypatch.setattr(ledger, "COMMANDS_MAX", 16)
    buyers = [await scene.buyer(1_000_000) for _ in range(3)]
    count = 60
    async with MatchingEngine(kernel) as engine:
        await collect(engine, kernel, operator, scene)
        commands = [scene.command(buyers[n % 3], "buy", 2, 1_000 + n) for n in range(count)]
        commands.append(scene.command(scene.seller, "sell", None, 990))
        for reply in await together(*(engine.submit(command) for command in commands)):
            order_of(reply)
        before = engine.shard.instrument(scene.plan_id).sequence
        await move_clock(kernel, SPAN)
        await reached(kernel, scene, "closed")
        assert engine.shard.instrument(scene.plan_id).sequence == before + 1
    row = await one_row(
        kernel,
        "SELECT count(*) AS trades, count(DISTINCT traded_at) AS times,"
        " sum(amount_minor) AS amount FROM matching.trade WHERE plan_id = $1",
        scene.plan_id,
    )
    assert row == {"trades": count, "times": 1, "amount": 2 * count * 990}
    for buyer in buyers:
        assert await money(kernel, buyer.party_id) == (1_000_000 - 2 * count // 3 * 990, 0)
    await verified(kernel)


@pytest.mark.parametrize("seed", range(4))
async def test_no_sequence_of_controls_and_orders_makes_or_loses_money(
    kernel: Kernel, operator: Member, seed: int
) -> None:
    """Random decisions, orders, cancels, time, restarts: the books rebuild, the ledger adds up."""
    chance = random.Random(seed)
    scenes = [await open_scene(kernel) for _ in range(2)]
    buyers = [await scenes[0].buyer(100_000) for _ in range(3)]
    escrow = await escrow_total(kernel)
    open_orders: list[tuple[Member, dict[str, Any]]] = []

    def step(at: str) -> Any:
        scene, buyer = chance.choice(scenes), chance.choice(buyers)
        kind = chance.random()
        if kind < 0.6:
            side = chance.choice(("buy", "buy", "sell"))
            member = buyer if side == "buy" else scene.seller
            terms = chance.choice(
                (
                    {},
                    {},
                    {"time_in_force": "auction"},
                    {"time_in_force": "ioc"},
                    {"post_only": True},
                )
            )
            lots, price = chance.randint(1, 9), chance.randint(90, 110) * 10
            return member, scene.command(member, side, lots, price, **terms)
        if kind < 0.7 and open_orders:
            member, order = open_orders.pop(chance.randrange(len(open_orders)))
            return member, cancel_command(member, order)
        act = ControlAction
        made = chance.choice(
            (
                (act.HALT, scene.plan_id, {}),
                (act.RESUME, scene.plan_id, {"auction_s": None}),
                (act.RESUME, scene.plan_id, {"auction_s": 60}),
                (act.HALT_MARKET, MARKET, {}),
                (act.RESUME_MARKET, MARKET, {}),
                (act.RESUME_MARKET, MARKET, {}),
                (act.BLOCK, buyer.party_id, {}),
                (act.UNBLOCK, buyer.party_id, {}),
                (act.SCHEDULE_CALL, scene.plan_id, {"opens_at": None, "closes_at": at}),
                (
                    act.SET_RULES,
                    scene.plan_id,
                    {**RULES, "band_ppm": chance.choice((None, 50_000)), "reference_minor": None},
                ),
            )
        )
        return None, decision(operator, made[0], made[1], **made[2])

    for _ in range(4):
        async with MatchingEngine(kernel) as engine:
            for _ in range(6):
                at = (await now(kernel) + timedelta(seconds=60)).isoformat()
                steps = [step(at) for _ in range(8)]
                replies: list[Reply] = await together(*(engine.submit(c) for _, c in steps))
                for (member, _), reply in zip(steps, replies, strict=True):
                    assert reply.answer.status < 500, reply.answer.body
                    if member is not None and reply.answer.status == 201:
                        order = order_of(reply)
                        if order["status"] in ("open", "partially_filled"):
                            open_orders.append((member, order))
                if chance.random() < 0.4:
                    await move_clock(kernel, timedelta(seconds=chance.choice((30, 61))))
            before, seen = picture(engine.shard), engine.shard.controls
        async with MatchingEngine(kernel) as engine:
            if engine.shard.controls == seen:
                assert picture(engine.shard) == before
    spent = sum([100_000 - (await money(kernel, buyer.party_id))[0] for buyer in buyers])
    assert await escrow_total(kernel) - escrow == spent
    await _holds_are_what_rests(kernel, [buyer.party_id for buyer in buyers])
    await verified(kernel)


async def _holds_are_what_rests(kernel: Kernel, buyers: list[UUID]) -> None:
    rests = (
        "SELECT coalesce(sum((lots - filled_lots) * price_minor), 0) FROM matching.order"
        " WHERE party_id = $1 AND closed_at IS NULL"
    )
    for party_id in buyers:
        assert (await money(kernel, party_id))[1] == await scalar(kernel, rests, party_id)


@pytest.mark.parametrize("moment", ["lose_before_commit", "lose_after_commit"])
async def test_a_lost_commit_interrupts_an_instrument_once(
    kernel: Kernel, scene: Scene, operator: Member, moment: str
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer = await scene.buyer(10_000)
    band = {"band_ppm": 100_000, "band_action": "reopen", "reopen_s": 3_600}
    rules = {**RULES, **band, "reference_minor": 2_000}
    async with MatchingEngine(shaky) as engine:
        order_of(await engine.submit(scene.command(scene.seller, "sell", 5, 1_000)))
        decided = decision(operator, ControlAction.SET_RULES, scene.plan_id, **rules)
        assert (await engine.submit(decided)).answer.status == 200
        setattr(flaky, moment, 1)
        reply = await engine.submit(scene.command(buyer, "buy", 3, 2_000))
        assert order_of(reply)["status"] == "open"
        assert reply.replayed == (moment == "lose_after_commit")
        assert phase(engine.shard, scene) is Phase.CALL
        before, seen = picture(engine.shard)[scene.plan_id], engine.shard.controls
    async with MatchingEngine(kernel) as engine:
        assert (picture(engine.shard)[scene.plan_id], engine.shard.controls) == (before, seen)
        assert phase(engine.shard, scene) is Phase.CALL
    calls = "SELECT count(*) FROM matching.call_auction WHERE plan_id = $1"
    assert await scalar(kernel, calls, scene.plan_id) == 1
    assert await money(kernel, buyer.party_id) == (10_000, 6_000)
