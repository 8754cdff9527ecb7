"""Controls in the engine: they survive restarts, takeovers and lost commits, and fail whole."""

import dataclasses
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.matching.commands import ControlAction
from market.matching.control_models import MARKET
from market.matching.engine import MatchingEngine
from market.matching.shard import Shard
from market.matching.terms import Phase
from market.matching.wire import Relayed
from settlement import ledger
from settlement.accounts import AccountRef
from tests.market.matching.control_factories import RULES, decision
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    code_of,
    money,
    open_scene,
    order_of,
    scalar,
    together,
)
from tests.market.matching.test_engine import FlakyDatabase
from tests.market.matching.test_relay import process
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import verified


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


def phases(shard: Shard) -> dict[UUID, Phase]:
    return {plan_id: each.book.phase for plan_id, each in shard._instruments.items()}


async def test_all_controls_survive_a_restart(
    kernel: Kernel, scene: Scene, operator: Member
) -> None:
    halted, traded = await open_scene(kernel), await open_scene(kernel)
    buyer, blocked, limited = [await scene.buyer(100_000) for _ in range(3)]
    act = ControlAction
    async with MatchingEngine(kernel) as engine:
        for each in (scene, halted):
            await engine.submit(each.command(buyer, "buy", 1, 900))
        await engine.submit(scene.command(blocked, "buy", 1, 900))
        banded = {**RULES, "band_ppm": 100_000}
        for command in (
            decision(operator, act.SET_RULES, scene.plan_id, **{**banded, "reference_minor": 950}),
            decision(operator, act.SET_RULES, traded.plan_id, **banded),
            decision(operator, act.HALT, halted.plan_id),
            decision(operator, act.BLOCK, blocked.party_id),
            decision(
                operator, act.SET_QUOTA, limited.party_id, open_orders_max=1, messages_per_s=None
            ),
        ):
            order_of(await engine.submit(command))
        await engine.submit(traded.command(traded.seller, "sell", 1, 1_090))
        await engine.submit(traded.command(buyer, "buy", 1, 1_090))
        await engine.submit(scene.command(limited, "buy", 1, 900))
        before, seen = engine.shard.controls, phases(engine.shard)
        assert before.references == {scene.plan_id: 950, traded.plan_id: 1_090}
    async with MatchingEngine(kernel) as engine:
        assert engine.shard.controls == before
        # A book without orders is only made when somebody asks for it.
        assert phases(engine.shard).items() <= seen.items()
        assert engine.shard.instrument(halted.plan_id).book.phase is Phase.HALTED
        for order, code in (
            (halted.command(buyer, "buy", 1, 900), "instrument_halted"),
            (scene.command(buyer, "buy", 1, 1_046), "price_outside_band"),
            (traded.command(buyer, "buy", 1, 980), "price_outside_band"),
            (scene.command(blocked, "buy", 1, 900), "trading_blocked"),
            (scene.command(limited, "buy", 1, 900), "too_many_open_orders"),
        ):
            assert code_of(await engine.submit(order)) == code
        order_of(await engine.submit(decision(operator, act.RESUME, halted.plan_id)))
        reply = await engine.submit(halted.command(halted.seller, "sell", 1, 900))
        assert order_of(reply)["status"] == "filled"
        order_of(await engine.submit(decision(operator, act.UNBLOCK, blocked.party_id)))
    await verified(kernel)


async def test_a_market_halt_survives_a_takeover(
    kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as first:
        order = order_of(await first.submit(scene.command(buyer, "buy", 1, 900)))
        order_of(await first.submit(decision(operator, ControlAction.HALT_MARKET, MARKET)))
        assert set(phases(first.shard).values()) == {Phase.HALTED}
    async with MatchingEngine(kernel) as second:
        assert set(phases(second.shard).values()) == {Phase.HALTED}
        refused = await second.submit(scene.command(buyer, "buy", 1, 900))
        assert code_of(refused) == "market_halted"
        assert order_of(await second.submit(cancel_command(buyer, order)))["status"] == "cancelled"
        order_of(await second.submit(decision(operator, ControlAction.RESUME_MARKET, MARKET)))
        assert set(phases(second.shard).values()) == {Phase.CONTINUOUS}


@pytest.mark.parametrize("moment", ["lose_before_commit", "lose_after_commit"])
async def test_a_lost_commit_is_decided_once(
    kernel: Kernel, scene: Scene, operator: Member, moment: str
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer = await scene.buyer(10_000)
    rows = "SELECT count(*) FROM matching.control WHERE subject_id = ANY($1)"
    async with MatchingEngine(shaky) as engine:
        order_of(await engine.submit(scene.command(buyer, "buy", 1, 900)))
        for action, subject in (
            (ControlAction.HALT, scene.plan_id),
            (ControlAction.BLOCK, buyer.party_id),
        ):
            setattr(flaky, moment, 1)
            order_of(await engine.submit(decision(operator, action, subject)))
        assert engine.shard.instrument(scene.plan_id).book.phase is Phase.HALTED
        refused = await engine.submit(scene.command(scene.seller, "sell", 1, 900))
        assert code_of(refused) == "instrument_halted"
        assert code_of(await engine.submit(scene.command(buyer, "buy", 1, 1))) == "trading_blocked"
        assert await money(kernel, buyer.party_id) == (10_000, 0)
        setattr(flaky, moment, 1)
        order_of(await engine.submit(decision(operator, ControlAction.RESUME, scene.plan_id)))
        order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
    assert await scalar(kernel, rows, [scene.plan_id, buyer.party_id]) == 3
    await verified(kernel)


async def test_a_batch_that_starts_over_decides_anew(
    kernel: Kernel, scene: Scene, operator: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = await scene.buyer(10)
    read = ledger.read_balances

    async def rosy(uow: object, accounts: list[AccountRef]) -> dict[UUID, int]:
        return dict.fromkeys((account.id for account in accounts), 10**9)

    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(scene.command(scene.seller, "sell", None, 1_000)))
        monkeypatch.setattr(ledger, "read_balances", rosy)
        replies = await together(
            engine.submit(scene.command(poor, "buy", 1, 900)),
            engine.submit(decision(operator, ControlAction.HALT_MARKET, MARKET)),
            engine.submit(decision(operator, ControlAction.RESUME_MARKET, MARKET)),
            engine.submit(scene.command(poor, "buy", 1, 900)),
            engine.submit(decision(operator, ControlAction.BLOCK, poor.party_id)),
        )
        monkeypatch.setattr(ledger, "read_balances", read)
        for reply in replies[1], replies[2], replies[4]:
            order_of(reply)
        assert code_of(replies[3]) == "trading_blocked"
        assert engine.shard.controls.halts == {}
        assert set(phases(engine.shard).values()) == {Phase.CONTINUOUS}
    assert await money(kernel, poor.party_id) == (10, 0)


async def test_another_process_passes_decisions_and_the_owners_quota_on(
    kernel: Kernel, scene: Scene, operator: Member
) -> None:
    buyer = await scene.buyer(10_000)
    async with process(kernel) as owner, process(kernel) as other:
        assert not other.is_owner
        quota = decision(
            operator,
            ControlAction.SET_QUOTA,
            buyer.party_id,
            open_orders_max=None,
            messages_per_s=1,
        )
        assert order_of(await other.submit(quota))["messages_per_s"] == 1
        assert owner.shard.controls.quotas[buyer.party_id].messages_per_s == 1
        order_of(await other.submit(scene.command(buyer, "buy", 1, 900)))
        with pytest.raises(Relayed) as refused:
            await other.submit(scene.command(buyer, "buy", 1, 900))
        assert (refused.value.status, refused.value.code) == (429, "too_many_messages")
        assert refused.value.headers["Retry-After"] == "1"
