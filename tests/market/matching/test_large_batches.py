"""Batches that are large enough for COPY: the same results, and a lost race for a key."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from market.kernel import idempotency
from market.kernel.bulk import COPY_FROM_ROWS
from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from market.matching.engine import MatchingEngine
from tests.conftest import TestDatabase
from tests.market.matching.factories import (
    Scene,
    money,
    one_row,
    order_of,
    scalar,
    together,
)
from tests.settlement.factories import verified

ORDERS = 2 * COPY_FROM_ROWS


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


async def test_orders_trades_and_money_of_a_large_batch(kernel: Kernel, scene: Scene) -> None:
    buyers = [await scene.buyer(1_000_000) for _ in range(4)]
    commands = [scene.command(scene.seller, "sell", 1, 900) for _ in range(ORDERS)]
    commands += [scene.command(buyers[n % 4], "buy", 1, 950) for n in range(ORDERS)]
    async with MatchingEngine(kernel) as engine:
        replies = await together(*(engine.submit(command) for command in commands))
        sequence = engine.shard.instrument(scene.plan_id).sequence
    # The first order may have had a batch of its own.
    assert sequence <= 2
    answered = [order_of(reply) for reply in replies]
    assert [order["status"] for order in answered[ORDERS:]] == ["filled"] * ORDERS
    for buyer in buyers:
        assert await money(kernel, buyer.party_id) == (1_000_000 - ORDERS // 4 * 900, 0)
    for table, count in (
        ('matching."order"', 2 * ORDERS),
        ("matching.trade", ORDERS),
        ("contracts.agreement", ORDERS),
    ):
        found = await scalar(
            kernel, f"SELECT count(*) FROM {table} WHERE plan_id = $1", scene.plan_id
        )
        assert found == count
    for order in (answered[ORDERS], answered[-1]):
        (trade,) = order["trades"]
        row = await one_row(
            kernel,
            "SELECT t.id, t.amount_minor, a.terms->>'trade_id' AS trade, g.granted_units,"
            " (SELECT count(*) FROM contracts.agreement_step WHERE agreement_id = a.id) AS steps,"
            " (SELECT count(*) FROM kernel.outbox e WHERE e.object_id = t.id) AS events"
            " FROM matching.trade t JOIN contracts.agreement a ON a.trade_id = t.id"
            " JOIN contracts.access_grant g ON g.agreement_id = a.id WHERE t.id = $1",
            UUID(trade["trade_id"].removeprefix("trd_")),
        )
        assert (row["trade"], row["amount_minor"]) == (trade["trade_id"], 900)
        assert (row["granted_units"], row["steps"], row["events"]) == (100, 2, 1)
    await verified(kernel)


async def test_a_key_that_another_endpoint_answers_meanwhile_keeps_that_answer(
    kernel: Kernel, scene: Scene, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    buyer = await scene.buyer(10_000_000)
    commands = [scene.command(buyer, "buy", 1, 500) for _ in range(ORDERS)]
    taken = commands[-1]
    lookup = idempotency.lookup
    raced: list[bool] = []

    async def losing_lookup(
        connection: "asyncpg.Connection[Any]", keys: Sequence[tuple[UUID, str]]
    ) -> dict[tuple[UUID, bytes], tuple[bytes, idempotency.Answer]]:
        found = await lookup(connection, keys)
        if not raced and len(keys) > COPY_FROM_ROWS:
            raced.append(True)
            other = await asyncpg.connect(database.url)
            answer = idempotency.Answer(418, b"first")
            entry = idempotency.Entry(taken.party_id, taken.key, taken.request_hash, answer)
            assert await idempotency.store(other, [entry]) == 1
            await other.close()
        return found

    monkeypatch.setattr(idempotency, "lookup", losing_lookup)
    async with MatchingEngine(kernel) as engine:
        *placed, late = await together(*(engine.submit(command) for command in commands))
    assert raced
    assert (late.replayed, late.answer.status, late.answer.body) == (True, 418, b"first")
    assert {order_of(reply)["status"] for reply in placed} == {"open"}
    assert await money(kernel, buyer.party_id) == (10_000_000, 500 * (ORDERS - 1))
    await verified(kernel)
