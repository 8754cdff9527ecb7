"""The unit of work: one transaction, no nesting, no I/O inside, database time, outbox."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from market.kernel import events
from market.kernel.context import Kernel, open_kernel
from market.kernel.db import DatabaseUnavailable, assert_no_unit_of_work, transient
from market.kernel.ids import new_id
from market.kernel.settings import Settings


async def test_commits_on_exit_and_rolls_back_on_error(kernel: Kernel) -> None:
    kept, lost = new_id(), new_id()
    async with kernel.unit_of_work() as uow:
        uow.emit("test.kept", kept, {"n": 1})

    async def failing() -> None:
        async with kernel.unit_of_work() as uow:
            uow.emit("test.lost", lost, {})
            await uow.flush_events()
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await failing()
    async with kernel.unit_of_work() as uow:
        found = await events.read(await uow.raw(), (0, 0))
    assert [event.object_id for event in found if event.object_id in (kept, lost)] == [kept]


async def test_raw_shares_the_transaction(kernel: Kernel) -> None:
    event_id = new_id()

    async def failing() -> None:
        async with kernel.unit_of_work() as uow:
            raw = await uow.raw()
            await raw.execute(
                "INSERT INTO kernel.outbox (id, type, object_id, parties, data)"
                " VALUES ($1, 'x', $1, '{}', '{}')",
                event_id,
            )
            raise RuntimeError("undo")

    with pytest.raises(RuntimeError, match="undo"):
        await failing()
    async with kernel.unit_of_work() as uow:
        count = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM kernel.outbox WHERE id = $1", event_id
        )
    assert count == 0


async def test_nesting_is_an_assertion_also_in_child_tasks(kernel: Kernel) -> None:
    async def nested() -> None:
        async with kernel.unit_of_work():
            pass

    async with kernel.unit_of_work():
        with pytest.raises(AssertionError, match="already open"):
            await nested()
        with pytest.raises(AssertionError, match="already open"):
            await asyncio.create_task(nested())
        with pytest.raises(AssertionError, match="outgoing"):
            assert_no_unit_of_work()
    assert_no_unit_of_work()


async def test_now_is_database_time_plus_offset(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        assert abs(uow.now - datetime.now(UTC)) < timedelta(seconds=30)
        await uow.execute(text("UPDATE kernel.sandbox_clock SET ahead = ahead + interval '1 day'"))
    async with kernel.unit_of_work() as uow:
        assert uow.now - datetime.now(UTC) > timedelta(hours=23)
        assert kernel.clock.now() - datetime.now(UTC) > timedelta(hours=23)


async def test_lock_timeout_maps_to_unavailable(settings: Settings, kernel: Kernel) -> None:
    impatient = open_kernel(settings.model_copy(update={"lock_timeout_ms": 50}))
    entered, finish = asyncio.Event(), asyncio.Event()

    async def holder() -> None:
        async with kernel.unit_of_work() as uow:
            await uow.execute(text("SELECT * FROM kernel.sandbox_clock FOR UPDATE"))
            entered.set()
            await finish.wait()

    async def blocked() -> None:
        async with impatient.unit_of_work() as uow:
            await uow.execute(text("SELECT * FROM kernel.sandbox_clock FOR UPDATE"))

    task = asyncio.create_task(holder())
    await entered.wait()
    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
        await blocked()
    finish.set()
    await task
    await impatient.close()


async def test_statement_timeout_maps_to_unavailable(kernel: Kernel) -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        async with kernel.unit_of_work(statement_timeout_ms=50) as uow:
            await uow.execute(text("SELECT pg_sleep(5)"))
    assert raised.value.status == 503
    assert raised.value.headers["Retry-After"] == "1"
    async with kernel.unit_of_work() as uow:
        assert (await uow.execute(text("SELECT 1"))).scalar_one() == 1


async def test_reader_never_passes_a_running_writer(kernel: Kernel) -> None:
    """Sequence numbers commit out of order; the reader waits for the older transaction."""
    early, late = new_id(), new_id()
    entered, finish = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with kernel.unit_of_work() as uow:
            uow.emit("test.early", early, {})
            await uow.flush_events()
            entered.set()
            await finish.wait()

    task = asyncio.create_task(slow())
    await entered.wait()
    async with kernel.unit_of_work() as uow:
        uow.emit("test.late", late, {})
    async with kernel.unit_of_work() as uow:
        seen = {event.object_id for event in await events.read(await uow.raw(), (0, 0))}
    assert late not in seen
    finish.set()
    await task
    async with kernel.unit_of_work() as uow:
        rows = await events.read(await uow.raw(), (0, 0))
    assert [row.object_id for row in rows if row.object_id in (early, late)] == [early, late]


async def test_a_reader_replaces_a_connection_that_the_server_dropped(kernel: Kernel) -> None:
    async with kernel.db.reader() as connection:
        # Goes back to the pool as it is: nothing tells the pool.
        await drop(kernel, connection)
    async with kernel.db.reader() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_dropped_before_a_raw_statement_is_503(kernel: Kernel) -> None:
    async def interrupted() -> None:
        async with kernel.unit_of_work() as uow:
            connection = await uow.raw()
            await drop(kernel, connection)
            await connection.fetchval("SELECT 1")

    with pytest.raises(DatabaseUnavailable, match="connection was lost"):
        await interrupted()
    async with kernel.unit_of_work() as uow:
        assert await (await uow.raw()).fetchval("SELECT 1") == 1


async def drop(kernel: Kernel, connection: "asyncpg.Connection[Any]") -> None:
    """Have the server end ``connection``, and wait until its client has noticed."""
    noticed = asyncio.Event()
    connection.add_termination_listener(lambda _connection: noticed.set())
    killer = await asyncpg.connect(kernel.settings.database_url)
    await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await killer.close()
    await asyncio.wait_for(noticed.wait(), 10)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.InternalClientError("cannot switch to state 12"), True),
        (asyncpg.InterfaceError("another operation is in progress"), False),
    ],
)
def test_a_lost_connection_may_pass_but_misuse_may_not(error: Exception, passes: bool) -> None:
    assert (transient(error) is not None) is passes
