"""Three API processes and a worker on one market: forwarding, kill -9, and frozen writers."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from tests.conftest import TestDatabase
from tests.e2e.api_processes import Crew, crew_of
from tests.market.matching.factories import (
    Scene,
    eventually,
    footprint,
    money,
    open_scene,
    scalar,
    together,
)
from tests.market.parties.factories import Member
from tests.settlement.factories import verified

CALLERS = 12
FUNDS = 10_000_000


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app: the processes run it."""
    made = open_kernel(settings)
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def crew(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    folder: Path = tmp_path_factory.mktemp("processes")
    async with crew_of(kernel, folder, 3) as made:
        yield made


@pytest.fixture
async def scene(kernel: Kernel) -> Scene:
    return await open_scene(kernel)


async def order_row(kernel: Kernel, order_id: str) -> tuple[str, int]:
    """Status and filled lots as stored."""
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            'SELECT status, filled_lots FROM matching."order" WHERE id = $1::uuid',
            uuid.UUID(order_id.removeprefix("ord_")),
        )
    assert row is not None
    return row["status"], row["filled_lots"]


async def test_any_process_answers_as_the_owner_does(
    crew: Crew, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(10_000)
    owner, others = await crew.owner(), await crew.others()
    body, key = scene.body("buy", 2, 900), uuid.uuid4().hex
    first = await crew.post(buyer, body, key=key, at=others[0])
    assert first.status_code == 201, first.text
    for process in (others[1], owner, others[0]):
        again = await crew.post(buyer, body, key=key, at=process)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["Idempotency-Replayed"] == "true"
    for process in crew.processes:
        refused = await crew.post(
            buyer, scene.body("buy", 90, 900), key=uuid.uuid4().hex, at=process
        )
        assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_funds")
        assert refused.headers["content-type"] == "application/problem+json"
    url = f"/v1/orders/{first.json()['id']}"
    gone = await crew.client.delete(others[1].url + url, headers=buyer.headers())
    assert (gone.status_code, gone.json()["status"]) == (200, "cancelled")
    late = await crew.client.delete(others[0].url + url, headers=buyer.headers())
    assert (late.status_code, late.json()["code"]) == (409, "order_closed")

    async def worker_works() -> bool:
        query = "SELECT count(*) FROM jobs.procrastinate_workers"
        return bool(await scalar(kernel, query) >= 1)

    await eventually(worker_works, within_s=30)


class Caller:
    """Buys and bids in turn and remembers what was acknowledged."""

    def __init__(self, crew: Crew, scene: Scene, member: Member) -> None:
        self._crew, self._scene, self._member = crew, scene, member
        self.acknowledged: list[dict[str, Any]] = []
        self.latest = 0.0

    async def run(self, ended: asyncio.Event) -> None:
        number = 0
        while not ended.is_set():
            price = 1_000 if number % 2 else 900
            answer = await self._crew.post(
                self._member, self._scene.body("buy", 1, price), key=uuid.uuid4().hex
            )
            assert answer.status_code == 201, answer.text
            self.acknowledged.append(answer.json())
            self.latest = time.monotonic()
            number += 1


async def test_a_killed_owner_loses_no_acknowledged_order(
    crew: Crew, kernel: Kernel, scene: Scene
) -> None:
    asked = await crew.post(scene.seller, scene.body("sell", None, 1_000), key=uuid.uuid4().hex)
    assert asked.status_code == 201
    before = await footprint(kernel)
    callers = [Caller(crew, scene, await scene.buyer(FUNDS)) for _ in range(CALLERS)]
    ended = asyncio.Event()
    work = [asyncio.create_task(caller.run(ended)) for caller in callers]
    for _ in range(2):
        await asyncio.sleep(2)
        dead = await crew.owner()
        killed_at = time.monotonic()
        dead.kill()
        crew.processes.remove(dead)
        successor = await crew.owner()
        assert successor is not dead
        while min(caller.latest for caller in callers) < killed_at:
            assert not any(task.done() for task in work)
            await asyncio.sleep(0.05)
        await asyncio.to_thread(dead.start)
        crew.processes.append(dead)
    ended.set()
    await asyncio.gather(*work)
    told = [order for caller in callers for order in caller.acknowledged]
    assert len({order["id"] for order in told}) == len(told) >= 2 * CALLERS
    after = await footprint(kernel)
    assert after["matching.order"] - before["matching.order"] == len(told)
    bought = [order for order in told if order["status"] == "filled"]
    assert after["matching.trade"] - before["matching.trade"] == len(bought)
    for order in told:
        assert await order_row(kernel, order["id"]) == (order["status"], order["filled_lots"])
    for caller in callers:
        bids = [order for order in caller.acknowledged if order["status"] == "open"]
        fills = len(caller.acknowledged) - len(bids)
        party = caller._member.party_id
        assert await money(kernel, party) == (FUNDS - 1_000 * fills, 900 * len(bids))
    await verified(kernel)


async def test_a_frozen_owner_wakes_as_a_stale_writer(
    crew: Crew, kernel: Kernel, scene: Scene
) -> None:
    buyer = await scene.buyer(10_000)
    frozen, others = await crew.owner(), await crew.others()
    term = await scalar(kernel, "SELECT term FROM matching.lease")
    frozen.freeze()
    try:
        # It believes in its lease: these reach its own queue as soon as it wakes.
        keys = [uuid.uuid4().hex for _ in range(5)]
        body = scene.body("buy", 1, 900)
        sleeping = [asyncio.create_task(crew.post(buyer, body, key=key, at=frozen)) for key in keys]
        traded = await crew.post(
            buyer, scene.body("buy", 1, 901), key=uuid.uuid4().hex, at=others[0]
        )
        assert traded.status_code == 201, traded.text
        successor = await crew.owner()
        assert successor in others
        assert await scalar(kernel, "SELECT term FROM matching.lease") == term + 1
        # Two of them have been asked again at the successor meanwhile.
        known = [await crew.post(buyer, body, key=key, at=others[1]) for key in keys[:2]]
        before = await footprint(kernel)
    finally:
        frozen.thaw()
    answers = await asyncio.gather(*sleeping)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert [answer.content for answer in answers[:2]] == [answer.content for answer in known]
    assert frozen.said("engine_lease_lost")
    after = await footprint(kernel)
    assert after["matching.order"] - before["matching.order"] == 3
    assert await scalar(kernel, "SELECT term FROM matching.lease") == term + 1
    assert await crew.owner() is successor
    assert await money(kernel, buyer.party_id) == (10_000, 5 * 900 + 901)
    await verified(kernel)


async def test_an_owner_frozen_in_its_transaction_is_cut_off(
    crew: Crew, kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    buyer = await scene.buyer(10_000)
    other_buyer = await scene.buyer(10_000)
    frozen, others = await crew.owner(), await crew.others()
    before = await footprint(kernel)
    body, key = scene.body("buy", 1, 900), uuid.uuid4().hex
    with psycopg.connect(database.owner_url) as blocker:
        blocker.execute(
            "SELECT 1 FROM settlement.account WHERE owner = %s FOR UPDATE", (buyer.party_id,)
        )
        caught = asyncio.create_task(crew.post(buyer, body, key=key, at=frozen))

        async def held_up() -> bool:
            query = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            found = await scalar(
                kernel, f"{query} WHERE NOT l.granted AND a.datname = current_database()"
            )
            return bool(found >= 1)

        await eventually(held_up)
        frozen.freeze()
    try:
        # The lock is free, the transaction goes on in Postgres and then waits for its client.
        traded = await crew.post(other_buyer, body, key=uuid.uuid4().hex, at=others[0])
        assert traded.status_code == 201, traded.text
        assert await crew.owner() in others
        after = await footprint(kernel)
        assert after["matching.order"] - before["matching.order"] == 1
        assert await money(kernel, buyer.party_id) == (10_000, 0)
        resolved = await crew.post(buyer, body, key=key, at=others[1])
        assert resolved.status_code == 201
    finally:
        frozen.thaw()
    answer = await caught
    assert (answer.status_code, answer.content) == (201, resolved.content)
    after = await footprint(kernel)
    assert after["matching.order"] - before["matching.order"] == 2
    assert await money(kernel, buyer.party_id) == (10_000, 900)
    await verified(kernel)


async def test_a_clean_end_hands_over_at_once(crew: Crew, kernel: Kernel, scene: Scene) -> None:
    buyer = await scene.buyer(100_000)
    leaving, others = await crew.owner(), await crew.others()
    work = [
        crew.post(buyer, scene.body("buy", 1, 900), key=uuid.uuid4().hex, at=others[n % 2])
        for n in range(20)
    ]
    tasks = asyncio.gather(together(*work))
    await asyncio.to_thread(leaving.stop)
    crew.processes.remove(leaving)
    (answers,) = await tasks
    assert {answer.status_code for answer in answers} == {201}
    assert await crew.owner() in others
    assert await money(kernel, buyer.party_id) == (100_000, 20 * 900)
