"""The worker: jobs run on time, drain what waits, survive failures and killed workers."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager

from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from market.schedule import SCHEDULE
from market.worker import ScheduledJob, every, in_process, run_once


def counting(results: list[int]) -> tuple[Callable[[Kernel], Awaitable[int]], list[int]]:
    """A job that gives ``results`` one after the other, then zero."""
    runs: list[int] = []

    async def job(_kernel: Kernel) -> int:
        runs.append(1)
        return results.pop(0) if results else 0

    return job, runs


async def until(condition: Callable[[], bool], timeout_s: float = 40) -> None:
    """Wait for a condition; fails by AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def test_cron_of_an_interval() -> None:
    assert (every(1), every(5)) == ("* * * * * *", "* * * * * */5")


async def test_run_once_drains_until_nothing_is_left(kernel: Kernel) -> None:
    job, runs = counting([3, 2])
    assert await run_once(kernel, [ScheduledJob("t", job, every(1))]) == {"t": 5}
    assert len(runs) == 3


async def test_every_scheduled_job_runs_on_an_empty_market(kernel: Kernel) -> None:
    done = await run_once(kernel, SCHEDULE)
    assert set(done) == {job.name for job in SCHEDULE}


async def test_periodic_job_runs_and_a_failing_one_does_not_stop_it(kernel: Kernel) -> None:
    job, runs = counting([])
    failures: list[int] = []

    async def failing(_kernel: Kernel) -> int:
        failures.append(1)
        raise RuntimeError("this job always fails")

    jobs = [ScheduledJob("t_good", job, every(1)), ScheduledJob("t_bad", failing, every(1))]
    async with in_process(kernel, jobs):
        await until(lambda: len(runs) >= 3 and len(failures) >= 2)


HANGING_WORKER = """
import asyncio, pathlib, sys
from market.kernel.settings import load_settings
from market.worker import ScheduledJob, every, run_worker

async def hang(kernel):
    pathlib.Path(sys.argv[1]).touch()
    await asyncio.sleep(600)

run_worker(load_settings(), [ScheduledJob("t_hang", hang, every(1))])
"""


def _environment(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.redis_url is not None
    return {
        **os.environ,
        "MARKET_DATABASE_URL": settings.database_url,
        "MARKET_REDIS_URL": settings.redis_url,
        "MARKET_HOME": str(settings.home),
    }


async def test_jobs_of_a_killed_worker_are_taken_up_again(
    settings: Settings, tmp_path: Path
) -> None:
    mark = tmp_path / "started"
    command = (sys.executable, "-c", HANGING_WORKER, str(mark))
    process = await asyncio.create_subprocess_exec(*command, env=_environment(settings))
    try:
        await until(mark.exists)
    finally:
        process.kill()
        await process.wait()
    assert _doing(settings, "t_hang") == 1
    job, runs = counting([])
    kernel = open_kernel(settings)
    started = time.monotonic()
    async with in_process(kernel, [ScheduledJob("t_hang", job, every(1))]):
        await until(lambda: len(runs) >= 1)
    await kernel.close()
    assert time.monotonic() - started < 40
    assert _doing(settings, "t_hang") == 0


async def test_a_run_whose_end_was_not_noted_frees_its_lock(
    kernel: Kernel, settings: Settings
) -> None:
    """As when the database dies while a living worker notes the end of a job."""
    job, runs = counting([])
    async with in_process(kernel, [ScheduledJob("t_ended", job, every(1))]):
        await until(lambda: len(runs) >= 1)
        assert settings.owner_database_url is not None
        with psycopg.connect(settings.owner_database_url) as connection:
            connection.execute(
                "INSERT INTO jobs.procrastinate_jobs "
                "(queue_name, task_name, lock, status, worker_id) "
                "SELECT 'default', 't_ended', 'left', 'doing', max(id) "
                "FROM jobs.procrastinate_workers"
            )
        await until(lambda: _doing(settings, "t_ended", lock="left") == 0)
        before = len(runs)
        await until(lambda: len(runs) > before)


async def test_another_worker_follows_one_that_lost_its_database(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runs = counting([])
    beat = JobManager.update_heartbeat
    failures: list[int] = []

    async def failing_once(self: JobManager, worker_id: int) -> None:
        if not failures:
            failures.append(worker_id)
            raise ConnectorException("the database is away")
        await beat(self, worker_id)

    monkeypatch.setattr(JobManager, "update_heartbeat", failing_once)
    async with in_process(kernel, [ScheduledJob("t_follows", job, every(1))]):
        await until(lambda: len(failures) == 1)
        before = len(runs)
        await until(lambda: len(runs) >= before + 3)


def _doing(settings: Settings, name: str, lock: str | None = None) -> int:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM jobs.procrastinate_jobs"
            " WHERE status = 'doing' AND task_name = %s AND lock = %s",
            (name, lock or name),
        ).fetchone()
    assert row is not None
    return int(row[0])
