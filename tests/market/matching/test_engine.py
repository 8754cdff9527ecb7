"""The engine by itself: restart, fencing, lost commits, unfit orders, expiry, back-pressure."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.db import DatabaseUnavailable, UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.matching import sql
from market.matching.batch import EXPIRIES_MAX, Batch
from market.matching.engine import MatchingEngine
from market.matching.errors import EngineStandby
from market.matching.models import SHARD
from market.matching.shard import Shard
from market.matching.terms import Side
from market.matching.verdicts import Fence, StaleLease, Verdicts
from market.parties.schemas import Suspension
from market.parties.verification import suspend_party
from settlement import ledger
from settlement.accounts import AccountRef
from settlement.commands import Void
from tests.conftest import TestDatabase
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    code_of,
    eventually,
    footprint,
    money,
    open_scene,
    order_of,
    scalar,
    together,
)
from tests.market.parties.factories import make_party
from tests.settlement.factories import verified


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app, so that each test runs the engines it wants."""
    made = open_kernel(settings)
    yield made
    await made.close()


def picture(shard: Shard) -> dict[UUID, tuple[object, ...]]:
    """All that a shard remembers of each book that has orders."""
    found: dict[UUID, tuple[object, ...]] = {}
    for plan_id, instrument in shard._instruments.items():
        if not len(instrument.book):
            continue
        found[plan_id] = (
            [
                (order.ref, order.side, order.price, order.lots)
                for order in instrument.book.resting()
            ],
            [instrument.book.depth(side, 100) for side in Side],
            instrument.sequence,
            instrument.checksum,
            sorted(
                (
                    live.seq,
                    live.id,
                    live.party_id,
                    live.filled,
                    live.amount,
                    live.hold_id or UUID(int=0),
                    str(live.expires_at),
                )
                for live in instrument.orders.values()
            ),
        )
        assert instrument.book.checksum() == instrument.checksum
    return found


async def test_a_restart_rebuilds_the_same_books(kernel: Kernel, scene: Scene) -> None:
    other = await open_scene(kernel)
    buyers = [await scene.buyer(100_000) for _ in range(3)]
    async with MatchingEngine(kernel) as engine:
        for number in range(12):
            for place in (scene, other):
                await engine.submit(
                    place.command(buyers[number % 3], "buy", 2 + number % 3, 900 - number)
                )
        await engine.submit(scene.command(scene.seller, "sell", None, 1_000))
        await engine.submit(scene.command(scene.seller, "sell", 5, 898))
        await engine.submit(scene.command(buyers[0], "buy", 3, 1_000))
        dropped = order_of(await engine.submit(scene.command(buyers[1], "buy", 1, 800)))
        await engine.submit(cancel_command(buyers[1], dropped))
        before = picture(engine.shard)
    assert set(before) == {scene.plan_id, other.plan_id}
    async with MatchingEngine(kernel) as engine:
        assert engine.is_owner
        assert picture(engine.shard) == before
        reply = await engine.submit(scene.command(scene.seller, "sell", 1, 1))
        assert order_of(reply)["status"] == "filled"
    await verified(kernel)


async def test_a_book_that_does_not_add_up_is_halted_and_others_trade(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    sound = await open_scene(kernel)
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as engine:
        order = order_of(await engine.submit(scene.command(buyer, "buy", 5, 900)))
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(
            "UPDATE matching.book SET checksum = checksum - 1 WHERE plan_id = %s", (scene.plan_id,)
        )
    async with MatchingEngine(kernel) as engine:
        before = await footprint(kernel)
        refused = await engine.submit(scene.command(scene.seller, "sell", 1, 900))
        assert (refused.answer.status, code_of(refused)) == (503, "book_halted")
        assert code_of(await engine.submit(cancel_command(buyer, order))) == "book_halted"
        assert await footprint(kernel) == before
        order_of(await engine.submit(sound.command(sound.seller, "sell", 1, 900)))
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(
            "UPDATE matching.book SET checksum = checksum + 1 WHERE plan_id = %s", (scene.plan_id,)
        )
    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(cancel_command(buyer, order)))


async def test_a_second_engine_idles_until_the_lease_is_free(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel) as first, MatchingEngine(kernel) as second:
        assert (first.is_owner, second.is_owner) == (True, False)
        with pytest.raises(EngineStandby) as standby:
            await second.submit(scene.command(buyer, "buy", 1, 900))
        assert standby.value.headers["Retry-After"] == str(kernel.settings.engine_lease_ttl_s)
        order = order_of(await first.submit(scene.command(buyer, "buy", 1, 900)))
        await first.__aexit__(None, None, None)

        async def taken_over() -> bool:
            return second.is_owner

        await eventually(taken_over)
        assert order_of(await second.submit(cancel_command(buyer, order)))
        assert await money(kernel, buyer.party_id) == (10_000, 0)


async def test_the_batch_of_a_stale_term_writes_nothing(kernel: Kernel, scene: Scene) -> None:
    """A writer that slept past its lease wakes with a batch: the database refuses it."""
    buyer = await scene.buyer(10_000)
    async with MatchingEngine(kernel, holder="sleeper") as sleeper:
        order_of(await sleeper.submit(scene.command(buyer, "buy", 1, 900)))
        await force_expiry(kernel)
        async with MatchingEngine(kernel, holder="successor") as successor:

            async def taken_over() -> bool:
                await force_expiry(kernel)
                return successor.is_owner

            await eventually(taken_over)
            # The sleeper believes in its lease until its next batch.
            sleeper._term = sleeper._term or 1
            before = await footprint(kernel)
            with pytest.raises(EngineStandby):
                await sleeper.submit(scene.command(buyer, "buy", 1, 900))
            assert not sleeper.is_owner
            assert await footprint(kernel) == before
            order_of(await successor.submit(scene.command(buyer, "buy", 1, 900)))


async def test_the_term_is_checked_inside_the_transaction(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(10_000)
    before = await footprint(kernel)
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        term = await sql.acquire_lease(connection, SHARD, holder="one", ttl_s=60)
    assert term is not None
    for fence in (Fence("one", term - 1, 5), Fence("two", term, 5)):
        batch = Batch(kernel, Shard(), fence, [scene.command(buyer, "buy", 1, 900)], Verdicts())
        with pytest.raises(StaleLease):
            async with kernel.unit_of_work() as uow:
                await batch.run(uow)
    assert await footprint(kernel) == before
    async with kernel.unit_of_work() as uow:
        await sql.release_lease(await uow.raw(), SHARD, holder="one", term=term)


async def force_expiry(kernel: Kernel) -> None:
    """What time does to a lease whose holder is frozen."""
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE matching.lease SET expires_at = '-infinity' WHERE holder = 'sleeper'"
        )


class FlakyDatabase:
    """A real database whose answer to some COMMITs gets lost, before or after they took effect."""

    def __init__(self, kernel: Kernel) -> None:
        self._db = kernel.db
        self.lose_after_commit = 0
        self.lose_before_commit = 0

    @contextlib.asynccontextmanager
    async def unit_of_work(
        self, *, statement_timeout_ms: int | None = None
    ) -> AsyncIterator[UnitOfWork]:
        async with self._db.unit_of_work(statement_timeout_ms=statement_timeout_ms) as uow:
            yield uow
            if self.lose_before_commit:
                self.lose_before_commit -= 1
                raise DatabaseUnavailable("lost before COMMIT")
        if self.lose_after_commit:
            self.lose_after_commit -= 1
            raise DatabaseUnavailable("lost after COMMIT")


@pytest.mark.parametrize("moment", ["lose_before_commit", "lose_after_commit"])
async def test_a_lost_commit_is_neither_lost_nor_doubled(
    kernel: Kernel, scene: Scene, moment: str
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer, poor = await scene.buyer(5_000), await scene.buyer(10)
    async with MatchingEngine(shaky) as engine:
        order_of(await engine.submit(scene.command(scene.seller, "sell", None, 1_000)))
        resting = order_of(await engine.submit(scene.command(buyer, "buy", 1, 900)))
        before = await footprint(kernel)
        setattr(flaky, moment, 1)
        bought, refused, cancelled = await together(
            engine.submit(scene.command(buyer, "buy", 2, 1_000)),
            engine.submit(scene.command(poor, "buy", 1, 1_000)),
            engine.submit(cancel_command(buyer, resting)),
        )
        assert order_of(bought)["filled_lots"] == 2
        assert code_of(refused) == "insufficient_funds"
        assert order_of(cancelled)["status"] == "cancelled"
        assert bought.replayed == (moment == "lose_after_commit")
        after = await footprint(kernel)
        assert after["matching.order"] - before["matching.order"] == 1
        assert after["matching.trade"] - before["matching.trade"] == 1
        assert await money(kernel, buyer.party_id) == (3_000, 0)
        expected = picture(engine.shard)
    async with MatchingEngine(kernel) as engine:
        assert picture(engine.shard) == expected
    await verified(kernel)


async def test_a_database_that_stays_away_is_a_503_and_the_engine_recovers(
    kernel: Kernel, scene: Scene
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer = await scene.buyer(5_000)
    async with MatchingEngine(shaky) as engine:
        before = await footprint(kernel)
        flaky.lose_before_commit = 4
        with pytest.raises(DatabaseUnavailable):
            await engine.submit(scene.command(buyer, "buy", 1, 900))
        assert await footprint(kernel) == before
        flaky.lose_before_commit = 0
        assert order_of(await engine.submit(scene.command(buyer, "buy", 1, 900)))


async def test_one_broken_order_does_not_take_the_batch_with_it(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    broken = await open_scene(kernel)
    buyer = await scene.buyer(20_000)
    async with MatchingEngine(kernel) as engine:
        for place in (scene, broken):
            order_of(await engine.submit(place.command(place.seller, "sell", None, 1_000)))
        with psycopg.connect(database.owner_url, autocommit=True) as owner:
            owner.execute(
                "UPDATE listings.listing SET policy = '{\"nonsense\": 1}' WHERE id = %s",
                (broken.listing_id,),
            )
        before = await footprint(kernel)
        results = await asyncio.gather(
            engine.submit(scene.command(buyer, "buy", 1, 1_000)),
            engine.submit(broken.command(buyer, "buy", 1, 1_000)),
            engine.submit(scene.command(buyer, "buy", 2, 1_000)),
            return_exceptions=True,
        )
        first, failed, third = results
        assert not isinstance(first, BaseException)
        assert not isinstance(third, BaseException)
        assert [order_of(reply)["filled_lots"] for reply in (first, third)] == [1, 2]
        assert isinstance(failed, MarketError)
        assert (failed.status, failed.code) == (500, "engine_failed")
        after = await footprint(kernel)
        assert after["matching.trade"] - before["matching.trade"] == 2
        assert await money(kernel, buyer.party_id) == (17_000, 0)


async def test_orders_end_at_their_expiry_and_free_the_hold(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(5_000)
    async with kernel.unit_of_work() as uow:
        soon = uow.now + timedelta(seconds=1)
    async with MatchingEngine(kernel) as engine:
        order = order_of(
            await engine.submit(scene.command(buyer, "buy", 2, 900, expires_at=soon.isoformat()))
        )
        assert await money(kernel, buyer.party_id) == (5_000, 1_800)

        async def freed() -> bool:
            return await money(kernel, buyer.party_id) == (5_000, 0)

        await eventually(freed)
        row = await scalar(
            kernel,
            "SELECT status || ' ' || reason FROM matching.order WHERE id = $1",
            UUID(order["id"].removeprefix("ord_")),
        )
        assert row == "cancelled expired"
        # An ask at that price finds nobody.
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert sell["status"] == "open"
        assert code_of(await engine.submit(cancel_command(buyer, order))) == "order_closed"


async def test_an_expired_order_never_trades_even_before_the_tick(
    kernel: Kernel, scene: Scene
) -> None:
    """The batch itself ends what is due at its database time, ahead of its commands."""
    buyer = await scene.buyer(5_000)
    async with kernel.unit_of_work() as uow:
        soon = uow.now + timedelta(seconds=1)
    async with MatchingEngine(kernel) as engine:
        order_of(
            await engine.submit(scene.command(buyer, "buy", 2, 900, expires_at=soon.isoformat()))
        )
        await scalar(kernel, "SELECT pg_sleep(1.1)")
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert sell["status"] == "open"
        assert await money(kernel, buyer.party_id) == (5_000, 0)


async def test_more_expiries_than_one_batch_takes_all_come_first(
    kernel: Kernel, scene: Scene
) -> None:
    count = EXPIRIES_MAX + 10
    buyer = await scene.buyer(count * 900)
    async with kernel.unit_of_work() as uow:
        soon = (uow.now + timedelta(seconds=4)).isoformat()
    async with MatchingEngine(kernel) as engine:
        await together(
            *(
                engine.submit(scene.command(buyer, "buy", 1, 900, expires_at=soon))
                for _ in range(count)
            )
        )
        assert await money(kernel, buyer.party_id) == (count * 900, count * 900)
        await scalar(kernel, f"SELECT pg_sleep_until('{soon}')")
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert sell["status"] == "open"
        assert await money(kernel, buyer.party_id) == (count * 900, 0)
        assert engine.shard.orders_of([buyer.party_id]) == []


async def test_a_resting_order_of_a_suspended_party_does_not_trade(
    kernel: Kernel, scene: Scene
) -> None:
    suspended, good = await scene.buyer(5_000), await scene.buyer(5_000)
    operator = await make_party(kernel, Role.OPERATOR)
    async with MatchingEngine(kernel) as engine:
        for member, price in ((suspended, 950), (suspended, 940), (good, 930)):
            order_of(await engine.submit(scene.command(member, "buy", 1, price)))
        await suspend_party(
            kernel, operator.actor, suspended.party_id, Suspension(reason="sanctions hit")
        )
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert [trade["price_minor"] for trade in sell["trades"]] == [930]
        assert await money(kernel, suspended.party_id) == (5_000, 0)
        reasons = await scalar(
            kernel,
            "SELECT array_agg(DISTINCT reason) FROM matching.order WHERE party_id = $1",
            suspended.party_id,
        )
        assert reasons == ["party_not_verified"]


async def test_parties_that_became_affiliates_do_not_trade(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(5_000)
    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(scene.command(buyer, "buy", 1, 950)))
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(
                "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2)",
                UUID(int=99),
                [buyer.party_id, scene.seller.party_id],
            )
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert (sell["status"], sell["trades"]) == ("open", [])
        assert await money(kernel, buyer.party_id) == (5_000, 0)


async def test_a_balance_that_shrinks_under_the_batch_refuses_the_order(
    kernel: Kernel, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unlocked first opinion is too rosy; the ledger's own decision counts."""
    buyer = await scene.buyer(1_500)
    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(scene.command(scene.seller, "sell", None, 1_000)))

        async def rosy(_uow: object, refs: list[AccountRef]) -> dict[UUID, int]:
            return {ref.id: 10**9 for ref in refs}

        monkeypatch.setattr(ledger, "read_balances", rosy)
        replies = await together(
            *(engine.submit(scene.command(buyer, "buy", 1, 1_000)) for _ in range(3))
        )
        monkeypatch.undo()
        assert [reply.answer.status for reply in replies] == [201, 402, 402]
        assert await money(kernel, buyer.party_id) == (500, 0)
    await verified(kernel)


async def test_an_order_whose_hold_was_lost_is_ended(kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(5_000)
    async with MatchingEngine(kernel) as engine:
        order = order_of(await engine.submit(scene.command(buyer, "buy", 1, 950)))
        order_id = UUID(order["id"].removeprefix("ord_"))
        hold_id = await scalar(kernel, "SELECT hold_id FROM matching.order WHERE id = $1", order_id)
        async with kernel.unit_of_work() as uow:
            await ledger.post_strict(uow, [Void(key=f"test:{hold_id.hex}", hold_id=hold_id)])
        sell = order_of(await engine.submit(scene.command(scene.seller, "sell", 1, 900)))
        assert (sell["status"], sell["trades"]) == ("open", [])
        reason = await scalar(kernel, "SELECT reason FROM matching.order WHERE id = $1", order_id)
        assert reason == "hold_lost"
    await verified(kernel)
