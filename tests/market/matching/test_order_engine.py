"""Amendments, cancels and self-trade modes through the engine: restarts, refusals, any sequence."""

import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings as examples, strategies as st

from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from market.matching.commands import Amend, Reply
from market.matching.engine import MatchingEngine
from market.matching.schemas import AmendRequest
from settlement import ledger
from settlement.accounts import AccountRef
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    code_of,
    money,
    one_row,
    open_scene,
    order_of,
    scalar,
    together,
)
from tests.market.parties.factories import Member
from tests.settlement.factories import verified

FUNDS = 60_000
MODES = ("cancel_newest", "cancel_oldest", "cancel_both", "decrement")


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


def amend_command(member: Member, order: dict[str, Any], **terms: Any) -> Amend:
    return Amend(
        party_id=member.party_id,
        key=uuid4().hex,
        request_hash=bytes(32),
        order_id=UUID(order["id"].removeprefix("ord_")),
        body=AmendRequest.model_validate(terms),
        request_id="test",
    )


async def test_a_restart_keeps_amended_priority(kernel: Kernel, scene: Scene) -> None:
    buyers = [await scene.buyer(50_000) for _ in range(3)]
    async with MatchingEngine(kernel) as engine:
        orders = [
            order_of(await engine.submit(scene.command(buyer, "buy", 2, 900))) for buyer in buyers
        ]
        await engine.submit(amend_command(buyers[0], orders[0], lots=3))
        await engine.submit(amend_command(buyers[1], orders[1], lots=1))
        book = engine.shard.instrument(scene.plan_id).book
        before = list(book.resting())
    assert [order.lots for order in before] == [1, 2, 3]
    async with MatchingEngine(kernel) as engine:
        book = engine.shard.instrument(scene.plan_id).book
        assert [(o.ref, o.lots, o.price, o.rank) for o in book.resting()] == [
            (o.ref, o.lots, o.price, o.rank) for o in before
        ]
        sold = order_of(await engine.submit(scene.command(scene.seller, "sell", 3, 900)))
        assert sold["status"] == "filled"
        assert [(await money(kernel, buyer.party_id))[0] for buyer in buyers] == [
            50_000,
            49_100,
            48_200,
        ]


async def test_a_balance_that_shrinks_refuses_the_amendment_only(
    kernel: Kernel, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has the last word: the amendments are undone one by one, the order stays."""
    buyer = await scene.buyer(2_500)
    async with MatchingEngine(kernel) as engine:
        order = order_of(await engine.submit(scene.command(buyer, "buy", 2, 1_000)))

        async def rosy(_uow: object, refs: list[AccountRef]) -> dict[UUID, int]:
            return {ref.id: 10**9 for ref in refs}

        monkeypatch.setattr(ledger, "read_balances", rosy)
        replies = await together(
            engine.submit(amend_command(buyer, order, price_minor=1_200)),
            engine.submit(amend_command(buyer, order, price_minor=1_300)),
            engine.submit(amend_command(buyer, order, price_minor=1_400)),
        )
        monkeypatch.undo()
        assert order_of(replies[0])["price_minor"] == 1_200
        assert [code_of(reply) for reply in replies[1:]] == ["insufficient_funds"] * 2
        assert await money(kernel, buyer.party_id) == (2_500, 2_400)
    await verified(kernel)


class Walk:
    """Random commands of a few parties, several at a time, and what must hold after them."""

    def __init__(self, scene: Scene, buyers: list[Member], seed: int) -> None:
        self.scene = scene
        self.buyers = buyers
        self.dice = random.Random(seed)
        self.open: list[tuple[Member, dict[str, Any]]] = []

    def command(self) -> tuple[Member, Any]:
        draw = self.dice.random()
        if draw < 0.45 and self.open:
            member, order = self.dice.choice(self.open)
            if draw < 0.12:
                return member, cancel_command(member, order)
            terms: dict[str, Any] = {}
            if self.dice.random() < 0.7:
                terms["lots"] = self.dice.randint(1, 9)
            if not terms or self.dice.random() < 0.5:
                terms["price_minor"] = 900 + 20 * self.dice.randrange(11)
            return member, amend_command(member, order, **terms)
        sells = self.dice.random() < 0.5
        member = self.scene.seller if sells else self.dice.choice(self.buyers)
        more: dict[str, Any] = {
            "time_in_force": self.dice.choice(["gtc", "gtc", "gtc", "ioc", "fok"]),
            "self_trade_prevention": self.dice.choice(MODES),
        }
        if self.dice.random() < 0.2:
            more["min_lots"] = 1
        price = 900 + 20 * self.dice.randrange(11)
        side = "sell" if sells else "buy"
        return member, self.scene.command(member, side, self.dice.randint(1, 6), price, **more)

    async def step(self, engine: MatchingEngine) -> None:
        asked = [self.command() for _ in range(self.dice.randint(1, 6))]
        replies: list[Reply] = await together(*(engine.submit(command) for _, command in asked))
        for (member, _), reply in zip(asked, replies, strict=True):
            assert reply.answer.status in (200, 201, 402, 409), reply.answer.body
            if reply.answer.status == 201:
                self.open.append((member, order_of(reply)))


async def sums(kernel: Kernel, plan_id: UUID) -> dict[str, Any]:
    return await one_row(
        kernel,
        """
        SELECT coalesce(sum(filled_lots) FILTER (WHERE side = 'buy'), 0)::bigint AS bought,
               coalesce(sum(filled_lots) FILTER (WHERE side = 'sell'), 0)::bigint AS sold,
               coalesce(sum(filled_amount_minor) FILTER (WHERE side = 'buy'), 0)::bigint AS paid,
               (SELECT coalesce(sum(lots), 0)::bigint FROM matching.trade
                WHERE plan_id = $1) AS traded,
               (SELECT coalesce(sum(a.posted), 0)::bigint FROM settlement.account a
                JOIN matching.trade t ON t.agreement_id = a.owner
                WHERE t.plan_id = $1) AS escrow,
               (SELECT coalesce(sum(g.granted_units), 0)::bigint FROM contracts.access_grant g
                JOIN contracts.agreement c ON c.id = g.agreement_id
                WHERE c.plan_id = $1) AS units
        FROM matching.order WHERE plan_id = $1
        """,
        plan_id,
    )


@examples(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
async def test_any_sequence_conserves_money_and_units(kernel: Kernel, seed: int) -> None:
    """Buyers of the seller's former group meet its orders, so that every mode has work."""
    scene = await open_scene(kernel)
    buyers = [await scene.buyer(FUNDS) for _ in range(3)]
    group = uuid4()
    walk = Walk(scene, buyers, seed)
    async with MatchingEngine(kernel) as engine:
        await regroup(kernel, buyers[0], group)
        for _ in range(3):
            await walk.step(engine)
        await regroup(kernel, buyers[0], None)
        await regroup(kernel, scene.seller, group)
        for _ in range(9):
            await walk.step(engine)
        instrument = engine.shard.instrument(scene.plan_id)
        assert instrument.book.checksum() == instrument.checksum
        resting = list(instrument.book.resting())
        found = await sums(kernel, scene.plan_id)
        assert found["bought"] == found["sold"] == found["traded"]
        assert found["paid"] == found["escrow"]
        assert found["units"] == 100 * found["traded"]
        spent = 0
        for buyer in buyers:
            posted, held = await money(kernel, buyer.party_id)
            reserved = await scalar(
                kernel,
                "SELECT coalesce(sum((lots - filled_lots) * price_minor), 0)::bigint"
                " FROM matching.order WHERE party_id = $1 AND closed_at IS NULL",
                buyer.party_id,
            )
            assert held == reserved
            spent += FUNDS - posted
        assert spent == found["paid"]
    async with MatchingEngine(kernel) as engine:
        again = list(engine.shard.instrument(scene.plan_id).book.resting())
        assert [o[2:6] for o in again] == [o[2:6] for o in resting]
    await verified(kernel)


async def regroup(kernel: Kernel, member: Member, group: UUID | None) -> None:
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = $2", group, member.party_id
        )
