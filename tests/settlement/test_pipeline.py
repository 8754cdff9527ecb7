"""Batches decided ahead of their locks: what an acknowledgement means stays the same.

The crowd keeps coming back, so that the writer always has one batch in flight and one in the
making; around it accounts change, connections die and the clock moves.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from settlement import ledger, writer as writer_module
from settlement.accounts import AccountRef
from settlement.commands import Applied, Refused, Result, Transfer
from settlement.writer import LedgerWriter
from tests.settlement.factories import (
    available,
    book,
    fund,
    hold,
    move_clock,
    now,
    state,
    transfer,
    verified,
)

CALLERS = 600
ROUNDS = 3


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many batches were written as foreseen, decided anew, or never foreseen."""
    counter: Counter[str] = Counter()
    real = ledger.settle

    async def counted(uow: Any, commands: Any, *, foreseen: Any = None) -> Any:
        plan = await real(uow, commands, foreseen=foreseen)
        counter["direct" if foreseen is None else "right" if plan is foreseen else "wrong"] += 1
        return plan

    monkeypatch.setattr(writer_module, "settle", counted)
    return counter


@pytest.fixture
async def accounts(kernel: Kernel) -> AsyncIterator[list[AccountRef]]:
    """Ten funded accounts, whose sum must stay what it is."""
    refs = [await fund(kernel, new_id(), 100_000) for _ in range(10)]
    yield refs
    states = [await state(kernel, ref) for ref in refs]
    assert sum(posted for posted, _, _ in states) == 1_000_000
    await verified(kernel)


async def crowd(
    writer: LedgerWriter, refs: Sequence[AccountRef], *, seed: int
) -> list[tuple[Transfer, Result]]:
    """CALLERS who each submit ROUNDS transfers, one after the other; everyone's answers."""
    chance = random.Random(seed)

    async def caller() -> list[tuple[Transfer, Result]]:
        done = []
        for _ in range(ROUNDS):
            source, target = chance.sample(list(refs), 2)
            command = transfer(source, target, chance.choice((1, 7, 10**9)))
            done.append((command, await writer.submit(command)))
        return done

    answers = await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return [answer for own in answers for answer in own]


async def agree(kernel: Kernel, answers: Sequence[tuple[Transfer, Result]]) -> None:
    """Every answer is what the ledger remembers; applied ones are there exactly once."""
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT c.key, c.transfer_id, c.code, count(p.seq) AS legs FROM settlement.command c "
            "LEFT JOIN settlement.posting p ON p.transfer_id = c.transfer_id "
            "WHERE c.key = ANY($1::text[]) GROUP BY c.key",
            [command.key for command, _ in answers],
        )
    stored = {row["key"]: row for row in rows}
    assert len(stored) == len(answers)
    for command, result in answers:
        row = stored[command.key]
        if isinstance(result, Applied):
            assert (row["transfer_id"], row["code"], row["legs"]) == (result.transfer_id, None, 2)
        else:
            assert (row["transfer_id"], row["code"], row["legs"]) == (None, result.code, 0)


async def test_batches_are_written_as_foreseen(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    async with LedgerWriter(kernel) as writer:
        answers = await crowd(writer, accounts, seed=1)
    # Not "all": a machine that stops for seconds makes a plan too old to be written.
    assert fates["right"] >= ROUNDS
    assert fates["right"] > fates["wrong"]
    assert {type(result) for _, result in answers} == {Applied, Refused}
    await agree(kernel, answers)


async def test_others_post_to_the_same_accounts_meanwhile(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    """As matching does, in units of work of its own: a guess may fail, an answer never."""
    over = asyncio.Event()
    theirs: list[tuple[Transfer, Result]] = []

    async def matching() -> None:
        chance = random.Random(2)
        later = await now(kernel) + timedelta(days=1)
        while not over.is_set():
            source, target = chance.sample(accounts, 2)
            command = transfer(source, target, 3)
            results = await book(kernel, hold(source, 1, later), command)
            theirs.append((command, results[1]))
            await asyncio.sleep(0.002)

    other = asyncio.create_task(matching())
    try:
        async with LedgerWriter(kernel) as writer:
            answers = await crowd(writer, accounts, seed=3)
    finally:
        over.set()
        await other
    assert fates["wrong"] > 0
    assert theirs
    await agree(kernel, [*answers, *theirs])


async def test_connections_cut_at_any_moment_book_everything_once(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    """Five cuts: the writer tries a batch six times, so that none can exhaust it."""
    killed = 0
    app = await asyncpg.connect(kernel.settings.database_url)

    async def killer() -> None:
        nonlocal killed
        chance = random.Random(4)
        while killed < writer_module.ATTEMPTS_MAX - 1:
            await asyncio.sleep(chance.uniform(0.01, 0.1))
            # In COMMIT or anything before it.
            killed += await app.fetchval(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND application_name = 'market' "
                "AND datname = current_database() AND xact_start IS NOT NULL LIMIT 1) k"
            )

    other = asyncio.create_task(killer())
    try:
        async with LedgerWriter(kernel) as writer:
            answers = await crowd(writer, accounts, seed=5)
    finally:
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        await app.close()
    assert killed > 0
    assert len(answers) == CALLERS * ROUNDS
    await agree(kernel, answers)


async def test_a_moved_clock_is_noticed(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    """Booking times must never be a plan's memory of an hour that has passed."""
    async with LedgerWriter(kernel) as writer:
        first = await crowd(writer, accounts, seed=6)
        running = asyncio.create_task(crowd(writer, accounts, seed=7))
        await asyncio.sleep(0.05)
        await move_clock(kernel, timedelta(days=3))
        second = await running
    assert fates["wrong"] > 0
    await agree(kernel, [*first, *second])
    async with kernel.unit_of_work() as uow:
        backwards = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM (SELECT t.booked_at < lag(t.booked_at) OVER "
            "(PARTITION BY p.account_id ORDER BY p.seq) AS back FROM settlement.posting p "
            "JOIN settlement.transfer t ON t.id = p.transfer_id) s WHERE back"
        )
    assert backwards == 0


async def test_a_key_in_two_batches_is_booked_once(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    """The second one is decided while the first, with the same keys, is still in flight."""
    commands = [transfer(accounts[0], available(new_id()), 1) for _ in range(CALLERS)]
    async with LedgerWriter(kernel) as writer:
        both = await asyncio.gather(*(writer.submit(command) for command in [*commands, *commands]))
        again = await asyncio.gather(*(writer.submit(command) for command in commands))
    assert both[:CALLERS] == both[CALLERS:] == again
    assert all(result.replayed for result in again)
    assert (await state(kernel, accounts[0]))[0] == 100_000 - CALLERS
    back = [(command.legs[1][0], 1) for command in commands]
    await book(kernel, *(transfer(ref, accounts[0], amount) for ref, amount in back))


async def test_holds_and_reversals_in_the_crowd(
    kernel: Kernel, accounts: list[AccountRef], fates: Counter[str]
) -> None:
    """What rests on more than accounts is decided under locks, together with its neighbors."""
    later = await now(kernel) + timedelta(days=1)
    async with LedgerWriter(kernel) as writer:
        running = asyncio.create_task(crowd(writer, accounts, seed=8))
        held: list[Result] = []
        for _ in range(10):
            holds = [hold(account, 5, later) for account in accounts for _ in range(3)]
            held += await asyncio.gather(*(writer.submit(command) for command in holds))
        answers = await running
    assert all(isinstance(result, Applied) for result in held)
    assert fates["direct"] > 1
    await agree(kernel, answers)
    states = [await state(kernel, ref) for ref in accounts]
    assert sum(amount for _, amount, _ in states) == 1_500
