"""Group commit under bad conditions: lost connections, full queue, a poisonous command."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import Unavailable
from market.kernel.ids import new_id
from settlement import writer as writer_module
from settlement.commands import Applied, Command, Hold, Refused
from settlement.errors import LedgerBusy
from settlement.ledger import write
from settlement.plan import Plan
from settlement.writer import LedgerWriter
from tests.settlement.factories import available, count, fund, now, state, transfer, verified


async def test_callers_that_wait_together_share_a_commit(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 10_000)
    targets = [available(new_id()) for _ in range(200)]
    before = await count(kernel, "batch")
    async with LedgerWriter(kernel) as writer:
        results = await asyncio.gather(
            *(writer.submit(transfer(source, target, 5)) for target in targets)
        )
    assert all(isinstance(result, Applied) for result in results)
    assert len({result.key for result in results}) == 200
    assert await count(kernel, "batch") - before <= 3
    assert await state(kernel, source) == (9_000, 0, 201)
    await verified(kernel)


async def test_a_connection_lost_at_commit_is_answered_from_the_key(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit succeeds but its caller only sees the connection die."""
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    real, calls = UnitOfWork.flush_events, []

    async def cut_after_commit(uow: UnitOfWork) -> None:
        await real(uow)
        calls.append(1)
        if len(calls) == 1:
            await uow.session.commit()
            raise ConnectionResetError("cut at COMMIT")

    monkeypatch.setattr(UnitOfWork, "flush_events", cut_after_commit)
    async with LedgerWriter(kernel) as writer:
        result = await writer.submit(transfer(source, target, 300))
    monkeypatch.undo()
    assert isinstance(result, Applied)
    assert result.replayed
    assert len(calls) == 2
    assert await state(kernel, source) == (700, 0, 2)
    assert await state(kernel, target) == (300, 0, 1)


async def test_a_backend_killed_before_commit_books_once(kernel: Kernel) -> None:
    """The server side dies in the middle: nothing was booked, the retry books it."""
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    assert kernel.settings.owner_database_url is not None
    killed: list[bool] = []

    async def write_and_die(uow: UnitOfWork, plan: Plan) -> None:
        await write(uow, plan)
        if not killed:
            pid = await (await uow.raw()).fetchval("SELECT pg_backend_pid()")
            app = await asyncpg.connect(kernel.settings.database_url)
            killed.append(await app.fetchval("SELECT pg_terminate_backend($1)", pid))
            await app.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "write", write_and_die)
        async with LedgerWriter(kernel) as writer:
            result = await writer.submit(transfer(source, target, 300))
    assert killed == [True]
    assert isinstance(result, Applied)
    assert not result.replayed
    assert await state(kernel, source) == (700, 0, 2)
    assert await state(kernel, target) == (300, 0, 1)


async def test_a_full_queue_says_when_to_come_back(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    commands = [transfer(source, available(new_id()), 1) for _ in range(30)]
    async with LedgerWriter(kernel, queue_max=10) as writer:
        answers = await asyncio.gather(
            *(writer.submit(command) for command in commands), return_exceptions=True
        )
    busy = [answer for answer in answers if isinstance(answer, LedgerBusy)]
    assert len(busy) == 20
    assert busy[0].status == 503
    assert busy[0].headers == {"Retry-After": "1"}
    assert await state(kernel, source) == (990, 0, 11)


async def test_a_stopped_writer_takes_nothing(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    command = transfer(source, available(new_id()), 1)
    writer = LedgerWriter(kernel)
    with pytest.raises(LedgerBusy):
        await writer.submit(command)
    async with writer:
        pass
    with pytest.raises(LedgerBusy):
        await writer.submit(command)
    assert await state(kernel, source) == (1_000, 0, 1)


async def test_one_bad_command_does_not_fail_the_others(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    good: list[Command] = [transfer(source, available(new_id()), 1) for _ in range(5)]
    later = await now(kernel) + timedelta(days=1)
    poison = Hold(f"poison:{new_id().hex}", new_id(), source, 1, later)
    # No caller can make this; it stands for any defect that breaks the statement of the batch.
    object.__setattr__(poison, "hold_id", "not a uuid")
    async with LedgerWriter(kernel) as writer:
        answers = await asyncio.gather(
            *(writer.submit(command) for command in [*good, poison]), return_exceptions=True
        )
    assert [isinstance(answer, Applied) for answer in answers] == [True] * 5 + [False]
    assert isinstance(answers[-1], asyncpg.DataError)
    assert await state(kernel, source) == (995, 0, 6)


async def test_a_database_that_stays_away_is_a_503(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(uow: UnitOfWork, commands: list[Command], *, foreseen: Plan | None) -> Plan:
        raise ConnectionResetError("away")

    monkeypatch.setattr(writer_module, "settle", away)
    monkeypatch.setattr(writer_module, "BACKOFF_START_S", 0.0001)
    async with LedgerWriter(kernel) as writer:
        with pytest.raises(Unavailable):
            await writer.submit(transfer(available(new_id()), available(new_id()), 1))


async def test_a_caller_that_left_before_the_batch_is_not_booked(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    async with LedgerWriter(kernel) as writer:
        first = asyncio.ensure_future(writer.submit(transfer(source, target, 1)))
        gone = asyncio.ensure_future(writer.submit(transfer(source, target, 500)))
        await asyncio.sleep(0)
        gone.cancel()
        assert isinstance(await first, Applied)
    assert gone.cancelled()
    assert await state(kernel, source) == (999, 0, 2)


async def test_submitting_inside_a_unit_of_work_is_a_bug(kernel: Kernel) -> None:
    """It would wait for a batch that waits for the caller's own locks."""
    source = await fund(kernel, new_id(), 1_000)
    async with LedgerWriter(kernel) as writer, kernel.unit_of_work():
        with pytest.raises(AssertionError, match="unit of work"):
            await writer.submit(transfer(source, available(new_id()), 1))


async def test_refusals_come_back_as_results(kernel: Kernel) -> None:
    async with LedgerWriter(kernel) as writer:
        result = await writer.submit(transfer(available(new_id()), available(new_id()), 1))
    assert isinstance(result, Refused)
    assert result.code == "insufficient_funds"
