"""Bundles by the engine alone: beside a naive model, across lost commits, restarts, processes."""

import dataclasses
import random
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.errors import TooMany
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.matching.batch import Batch
from market.matching.bundle_schemas import LEGS_MAX
from market.matching.commands import Command, ControlAction
from market.matching.engine import MatchingEngine
from market.matching.terms import Fill, Outcome, Side, TimeInForce
from market.parties.schemas import Suspension
from market.parties.verification import suspend_party
from settlement import ledger
from settlement.accounts import AccountRef
from tests.market.matching.bundle_factories import bundle_command, leg, open_plans, traces
from tests.market.matching.control_factories import decision
from tests.market.matching.factories import (
    Scene,
    code_of,
    money,
    one_row,
    order_of,
    scalar,
    together,
)
from tests.market.matching.naive import NaiveBook
from tests.market.matching.test_engine import FlakyDatabase, picture
from tests.market.matching.test_relay import process
from tests.market.matching.test_replay import prove
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import verified


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app, so that each test runs the engines it wants."""
    made = open_kernel(settings)
    yield made
    await made.close()


@pytest.fixture
async def plans(kernel: Kernel) -> list[Scene]:
    """Three plans of one seller."""
    return await open_plans(kernel, 3)


@dataclass
class Model:
    """Books that a bundle tries on copies: they are kept when every leg has filled."""

    books: list[NaiveBook] = field(default_factory=lambda: [NaiveBook() for _ in range(3)])
    refs: int = 0

    def place(self, at: int, owner: int, side: Side, price: int, lots: int, tif: int) -> Outcome:
        self.refs += 1
        return self.books[at].submit(self.refs, owner, side, price, lots, tif, [])

    def bundle(
        self, owner: int, legs: list[tuple[int, Side, int, int]], limit: int | None
    ) -> int | None:
        """What it costs, None when nothing happens."""
        trial, total = deepcopy(self.books), 0
        for at, side, price, lots in legs:
            self.refs += 1
            fills: list[Fill] = []
            tif = TimeInForce.FOK
            if trial[at].submit(self.refs, owner, side, price, lots, tif, fills) != Outcome.FILLED:
                return None
            paid = sum(fill[2] * fill[3] for fill in fills)
            total += paid if side is Side.BUY else -paid
        if limit is not None and total > limit:
            return None
        self.books = trial
        return total


NAMES = {Side.BUY: "buy", Side.SELL: "sell"}


async def walk(
    engine: MatchingEngine, plans: list[Scene], buyers: list[Member], draw: random.Random
) -> tuple[Model, int, int]:
    """Random orders and bundles; the model after them, and how many bundles filled and failed."""
    model, filled, failed = Model(), 0, 0
    members = [plans[0].seller, *buyers]
    for _ in range(90):
        owner = draw.choice([0, 0, 1, 2])
        side = Side.BUY if owner else Side.SELL
        # Orders mostly wait, bundles mostly cross.
        member, away = members[owner], -1 if owner else 1
        if draw.random() < 0.6:
            at, lots = draw.randrange(3), draw.randint(1, 6)
            tif = draw.choice([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC])
            more = {"time_in_force": tif.name.lower()}
            price = 1_000 + away * draw.randint(-1, 3)
            command = plans[at].command(member, NAMES[side], lots, price, **more)
            order_of(await engine.submit(command))
            model.place(at, owner, side, price, lots, tif)
            continue
        chosen = draw.sample(range(3), draw.randint(2, 3))
        legs = [(at, side, 1_000 - away * draw.randint(0, 4), draw.randint(1, 4)) for at in chosen]
        worst = sum(price * lots for _, _, price, lots in legs) * (1 if owner else -1)
        limit = draw.choice([None, None, worst - draw.randint(0, 8)])
        wire = [leg(plans[at], NAMES[side], lots, price) for at, side, price, lots in legs]
        reply = await engine.submit(bundle_command(member, *wire, cost_max_minor=limit))
        expected = model.bundle(owner, legs, limit)
        if expected is None:
            assert code_of(reply) in {"bundle_unfillable", "bundle_too_expensive"}
            failed += 1
        else:
            assert order_of(reply)["cost_minor"] == expected
            filled += 1
    return model, filled, failed


@pytest.mark.parametrize("seed", [3, 4])
async def test_any_mix_is_that_of_the_model_and_conserves_money_and_lots(
    kernel: Kernel, plans: list[Scene], seed: int
) -> None:
    buyers = [await plans[0].buyer(10_000_000) for _ in range(2)]
    async with MatchingEngine(kernel) as engine:
        model, filled, failed = await walk(engine, plans, buyers, random.Random(seed))
        assert filled >= 3
        assert failed >= 3
        for scene, naive in zip(plans, model.books, strict=True):
            book = engine.shard.instrument(scene.plan_id).book
            ours = [(r.side, r.price, r.lots) for r in book.resting()]
            assert ours == [(r.side, r.price, r.lots) for r in naive.resting()]
            report = await prove(kernel, scene)
            assert report.diverged is None
        before = picture(engine.shard)
    async with MatchingEngine(kernel) as engine:
        assert picture(engine.shard) == before
    ids = [scene.plan_id for scene in plans]
    sums = await one_row(
        kernel,
        """
        SELECT (SELECT sum(filled_lots) FROM matching."order"
                WHERE plan_id = ANY($1) AND side = 'buy')::bigint AS bought,
               (SELECT sum(filled_lots) FROM matching."order"
                WHERE plan_id = ANY($1) AND side = 'sell')::bigint AS sold,
               (SELECT sum(lots) FROM matching.trade WHERE plan_id = ANY($1))::bigint AS traded,
               (SELECT sum(amount_minor) FROM matching.trade
                WHERE plan_id = ANY($1))::bigint AS paid,
               (SELECT sum(a.posted) FROM settlement.account a JOIN matching.trade t
                ON t.agreement_id = a.owner WHERE t.plan_id = ANY($1))::bigint AS escrow,
               (SELECT sum(g.granted_units) FROM contracts.access_grant g
                JOIN contracts.agreement a ON a.id = g.agreement_id
                WHERE a.plan_id = ANY($1))::bigint AS units,
               (SELECT count(*) FROM matching.bundle b WHERE b.cost_minor <> (
                SELECT sum(CASE side WHEN 'buy' THEN 1 ELSE -1 END * filled_amount_minor)
                FROM matching."order" o WHERE o.bundle_id = b.id)) AS wrong,
               (SELECT count(*) FROM matching.trade t
                JOIN matching."order" o ON o.id IN (t.buy_order_id, t.sell_order_id)
                WHERE o.bundle_id IS DISTINCT FROM t.bundle_id
                AND o.side = t.taker_side) AS misnamed
        """,
        ids,
    )
    assert sums["bought"] == sums["sold"] == sums["traded"] > 0
    assert sums["paid"] == sums["escrow"]
    assert sums["units"] == sums["traded"] * 100
    assert (sums["wrong"], sums["misnamed"]) == (0, 0)
    balances = [await money(kernel, buyer.party_id) for buyer in buyers]
    assert sum(posted for posted, _ in balances) == 20_000_000 - sums["paid"]
    await verified(kernel)


async def rest(engine: MatchingEngine, plans: list[Scene], lots: int, price: int = 1_000) -> None:
    """An ask on every plan."""
    for scene in plans:
        order_of(await engine.submit(scene.command(scene.seller, "sell", lots, price)))


def buys(plans: list[Scene], lots: int = 1, price: int = 1_000) -> list[dict[str, Any]]:
    return [leg(scene, "buy", lots, price) for scene in plans]


async def test_a_bundle_and_an_order_race_for_the_last_lot(
    kernel: Kernel, plans: list[Scene]
) -> None:
    """Whoever comes second in the sequence goes without; a loser of one leg loses all."""
    buyers = [await plans[0].buyer(100_000) for _ in range(4)]
    async with MatchingEngine(kernel) as engine:
        winners = set()
        for number in range(6):
            await rest(engine, plans, 1)
            commands: list[Command] = [
                plans[2].command(buyers[0], "buy", 1, 1_000, time_in_force="fok"),
                bundle_command(buyers[1], *buys(plans)),
                bundle_command(buyers[2], *buys(plans[1:])),
                bundle_command(buyers[3], *buys(plans[:2][::-1])),
            ]
            turned = commands[number % 4 :] + commands[: number % 4]
            replies = await together(*(engine.submit(command) for command in turned))
            got = {c.party_id: r for c, r in zip(turned, replies, strict=True)}
            single = order_of(got[buyers[0].party_id])["status"] == "filled"
            whole, late, early = (got[b.party_id].answer.status == 201 for b in buyers[1:])
            # Each plan had one lot: no two of those who wanted it have it, and no one a part.
            assert single + whole + late == 1
            assert whole + late + early <= 1
            winners.add((single, whole, late, early))
            for scene in plans:
                left = engine.shard.instrument(scene.plan_id).book.best(Side.SELL)
                if left is not None:
                    order_of(await engine.submit(scene.command(buyers[0], "buy", 1, 1_000)))
        assert len(winners) > 1
    sold = await scalar(
        kernel,
        "SELECT sum(lots)::bigint FROM matching.trade WHERE plan_id = ANY($1)",
        [scene.plan_id for scene in plans],
    )
    assert sold == 18
    posted = [await money(kernel, buyer.party_id) for buyer in buyers]
    assert sum(each[0] for each in posted) == 400_000 - 18 * 1_000
    assert {each[1] for each in posted} == {0}
    await verified(kernel)


async def test_money_for_one_bundle_buys_one(kernel: Kernel, plans: list[Scene]) -> None:
    buyer = await plans[0].buyer(5_999)
    async with MatchingEngine(kernel) as engine:
        await rest(engine, plans, 50)
        replies = await together(
            *(engine.submit(bundle_command(buyer, *buys(plans))) for _ in range(20))
        )
        assert sorted(reply.answer.status for reply in replies) == [201] + [402] * 19
        assert await money(kernel, buyer.party_id) == (2_999, 0)
    await verified(kernel)


async def test_a_balance_that_shrinks_under_the_batch_refuses_the_bundle(
    kernel: Kernel, plans: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger refuses a later leg's hold: the legs before it are undone with it."""
    buyer = await plans[0].buyer(5_500)
    async with MatchingEngine(kernel) as engine:
        await rest(engine, plans, 50)

        async def rosy(_uow: object, refs: list[AccountRef]) -> dict[UUID, int]:
            return {ref.id: 10**9 for ref in refs}

        monkeypatch.setattr(ledger, "read_balances", rosy)
        replies = await together(
            *(engine.submit(bundle_command(buyer, *buys(plans))) for _ in range(2))
        )
        monkeypatch.undo()
        assert [reply.answer.status for reply in replies] == [201, 402]
        assert await money(kernel, buyer.party_id) == (2_500, 0)
        found = await scalar(
            kernel, 'SELECT count(*) FROM matching."order" WHERE party_id = $1', buyer.party_id
        )
        assert found == 3
    await verified(kernel)


async def test_an_unfit_resting_order_is_taken_out_and_the_bundle_looked_at_again(
    kernel: Kernel, plans: list[Scene]
) -> None:
    suspended, good = await plans[0].buyer(5_000), await plans[0].buyer(5_000)
    operator = await make_party(kernel, Role.OPERATOR)
    seller = plans[0].seller
    sells = [leg(scene, "sell", 1, 900) for scene in plans[:2]]
    async with MatchingEngine(kernel) as engine:
        for scene, member in ((plans[0], good), (plans[1], suspended)):
            order_of(await engine.submit(scene.command(member, "buy", 1, 950)))
        await suspend_party(
            kernel, operator.actor, suspended.party_id, Suspension(reason="sanctions hit")
        )
        refused = await engine.submit(bundle_command(seller, *sells))
        assert (refused.answer.status, code_of(refused)) == (409, "bundle_unfillable")
        assert await money(kernel, suspended.party_id) == (5_000, 0)
        assert await money(kernel, good.party_id) == (5_000, 950)
        order_of(await engine.submit(plans[1].command(good, "buy", 1, 940)))
        made = order_of(await engine.submit(bundle_command(seller, *sells)))
        assert made["cost_minor"] == -1_890
    await verified(kernel)


@pytest.mark.parametrize("moment", ["lose_before_commit", "lose_after_commit"])
async def test_a_lost_commit_leaves_a_whole_bundle_once(
    kernel: Kernel, plans: list[Scene], moment: str
) -> None:
    flaky = FlakyDatabase(kernel)
    shaky = dataclasses.replace(kernel, db=flaky)  # type: ignore[arg-type]
    buyer = await plans[0].buyer(10_000)
    async with MatchingEngine(shaky) as engine:
        await rest(engine, plans, 5)
        before = await traces(kernel)
        setattr(flaky, moment, 1)
        command = bundle_command(buyer, *buys(plans), client_order_id="once")
        reply = await engine.submit(command)
        assert order_of(reply)["cost_minor"] == 3_000
        assert reply.replayed == (moment == "lose_after_commit")
        after = await traces(kernel)
        assert [after[t] - before[t] for t in ("bundle", "matching.order", "matching.trade")] == [
            1,
            3,
            3,
        ]
        assert await money(kernel, buyer.party_id) == (7_000, 0)
        again = await engine.submit(command)
        assert (again.replayed, again.answer) == (True, reply.answer)
        expected = picture(engine.shard)
    async with MatchingEngine(kernel) as engine:
        assert picture(engine.shard) == expected
        for scene in plans:
            assert (await prove(kernel, scene)).diverged is None
    await verified(kernel)


async def test_a_fault_at_any_step_of_the_batch_leaves_nothing(
    kernel: Kernel, plans: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that met it is answered 500; the books in memory are as if it never was."""
    buyer = await plans[0].buyer(10_000)
    async with MatchingEngine(kernel) as engine:
        await rest(engine, plans, 5)
        before, books = await traces(kernel), picture(engine.shard)
        for step in ("_move_units", "_post", "_write", "_answer"):
            original = getattr(Batch, step)

            async def broken(self: Batch, *args: Any, run: Any = original) -> None:
                await run(self, *args)
                raise RuntimeError("a fault")

            monkeypatch.setattr(Batch, step, broken)
            with pytest.raises(Exception, match="could not be processed"):
                await engine.submit(bundle_command(buyer, *buys(plans)))
            monkeypatch.setattr(Batch, step, original)
            assert await traces(kernel) == before
            assert await money(kernel, buyer.party_id) == (10_000, 0)
        # Whatever comes next reads the dropped books again.
        for scene in plans:
            order_of(await engine.submit(scene.command(buyer, "buy", 1, 1, time_in_force="fok")))
        found = picture(engine.shard)
        assert [found[s.plan_id][0] for s in plans] == [books[s.plan_id][0] for s in plans]
        order_of(await engine.submit(bundle_command(buyer, *buys(plans))))
    await verified(kernel)


async def test_a_process_that_is_not_the_owner_hands_it_over(
    kernel: Kernel, plans: list[Scene]
) -> None:
    buyer = await plans[0].buyer(10_000)
    async with process(kernel) as owner, process(kernel) as other:
        assert (owner.is_owner, other.is_owner) == (True, False)
        await rest(owner, plans, 2)
        command = bundle_command(buyer, *buys(plans), cost_max_minor=3_000)
        reply = await other.submit(command)
        assert order_of(reply)["cost_minor"] == 3_000
        assert (await owner.submit(command)).answer == reply.answer
        short = await other.submit(bundle_command(buyer, *buys(plans, lots=2)))
        problem = orjson.loads(short.answer.body)
        assert (short.answer.status, problem["param"]) == (409, "legs.0.lots")
        assert await money(kernel, buyer.party_id) == (7_000, 0)


async def test_each_leg_is_a_message_and_the_largest_bundle_fills(kernel: Kernel) -> None:
    many = await open_plans(kernel, LEGS_MAX)
    buyer = await many[0].buyer(100_000)
    operator = await make_party(kernel, Role.OPERATOR)
    limits = {"open_orders_max": None, "messages_per_s": 10}
    async with MatchingEngine(kernel) as engine:
        await rest(engine, many, 5)
        quota = decision(operator, ControlAction.SET_QUOTA, buyer.party_id, **limits)
        assert (await engine.submit(quota)).answer.status == 200
        filling = engine.accept(bundle_command(buyer, *buys(many)))
        # Counted before anything is awaited, so that no slow machine refills the bucket.
        with pytest.raises(TooMany) as refused:
            engine.accept(many[0].command(buyer, "buy", 1, 1))
        assert refused.value.headers["Retry-After"] in {"1", "2"}
        made = order_of(await filling)
        assert (made["cost_minor"], len(made["legs"])) == (LEGS_MAX * 1_000, LEGS_MAX)
