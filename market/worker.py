"""Background work: a Postgres job queue (Procrastinate) that runs each package's jobs on time.

Jobs are functions ``async def name(kernel) -> int`` in the packages' ``jobs.py``: bounded per run,
safe to run twice and at once. The queue gives what a loop does not: one run at a time over all
processes (queueing lock), retries with back-off, and jobs of killed workers taken up again.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import procrastinate
import psycopg
from procrastinate.jobs import Status
from prometheus_client import Counter

from market.kernel.context import Kernel, open_kernel
from market.kernel.db import plain_url
from market.kernel.logging import get_logger
from market.kernel.settings import Settings

_log = get_logger(__name__)

# A worker that has not beaten for this long is dead; its jobs go back to the queue.
STALLED_AFTER_S = 10
HEARTBEAT_S = 2
RESCUE_S = 5
RESTART_S = 1
JOB_ATTEMPTS_MAX = 5
# A job that always finds a full batch gets this many rounds before the next tick takes over.
ROUNDS_MAX = 20

JOB_ITEMS = Counter("market_job_items_total", "Items done by background jobs", ["job"])

JobFunction = Callable[[Kernel], Awaitable[int]]


@dataclass(frozen=True)
class ScheduledJob:
    """A job and its six-field cron expression (the last field is seconds)."""

    name: str
    run: JobFunction
    cron: str


def every(seconds: int) -> str:
    """The cron expression for every ``seconds`` (a divisor of 60)."""
    return f"* * * * * */{seconds}" if seconds > 1 else "* * * * * *"


async def run_once(kernel: Kernel, jobs: list[ScheduledJob]) -> dict[str, int]:
    """Run every job until it finds nothing (bounded). For the demo's and tests' sake."""
    return {job.name: await _drain(kernel, job) for job in jobs}


async def _drain(kernel: Kernel, job: ScheduledJob) -> int:
    total = 0
    for _ in range(ROUNDS_MAX):
        done = await job.run(kernel)
        total += done
        if done == 0:
            break
    JOB_ITEMS.labels(job.name).inc(total)
    return total


def make_queue(kernel: Kernel, jobs: list[ScheduledJob]) -> procrastinate.App:
    """The Procrastinate app with every job as a periodic task of its own queueing lock."""
    assert kernel.settings.database_url is not None
    connector = procrastinate.PsycopgConnector(
        conninfo=plain_url(kernel.settings.database_url),
        kwargs={"options": "-c search_path=jobs -c timezone=UTC"},
        min_size=1,
        max_size=4,
    )
    queue = procrastinate.App(connector=connector)
    running: set[int] = set()
    for job in jobs:
        _register(queue, kernel, job, running)
    _register_rescue(queue, running)
    return queue


def _register(
    queue: procrastinate.App, kernel: Kernel, job: ScheduledJob, running: set[int]
) -> None:
    async def task(context: procrastinate.JobContext, timestamp: int) -> None:
        assert context.job.id is not None
        running.add(context.job.id)
        try:
            await _drain(kernel, job)
        finally:
            running.discard(context.job.id)

    retry = procrastinate.RetryStrategy(max_attempts=JOB_ATTEMPTS_MAX, exponential_wait=2)
    made = queue.task(
        name=job.name, queueing_lock=job.name, lock=job.name, retry=retry, pass_context=True
    )(task)
    queue.periodic(cron=job.cron)(made)


def _register_rescue(queue: procrastinate.App, running: set[int]) -> None:
    # The library finds jobs of dead workers and leaves them to us (operations.md §3 row 3). Every
    # job here is periodic and safe to run again, so the lost run is dropped and its lock freed for
    # the next tick. Retrying it instead fails once the next tick is queued, and then the dead run
    # would keep the lock for good. A living worker leaves such a run, too, when the database dies
    # before it can note the end; two turns tell it from an end that is just being noted.
    ended: set[int] = set()

    async def rescue(context: procrastinate.JobContext, timestamp: int) -> None:
        nonlocal ended
        stalled = await queue.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER_S)
        assert context.job.worker_id is not None
        own = await queue.job_manager.list_jobs_async(
            status=Status.DOING.value, worker_id=context.job.worker_id
        )
        idle = [job for job in own if job.id not in running and job.id != context.job.id]
        lost = [job for job in idle if job.id in ended]
        ended = {job.id for job in idle if job.id is not None}
        for job in {job.id: job for job in (*stalled, *lost)}.values():
            _log.warning("job_rescued", job=job.task_name)
            await queue.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)

    made = queue.task(
        name="rescue_stalled_jobs", queueing_lock="rescue_stalled_jobs", pass_context=True
    )(rescue)
    queue.periodic(cron=every(RESCUE_S))(made)


async def work(kernel: Kernel, jobs: list[ScheduledJob], *, concurrency: int = 4) -> None:
    """Run the jobs until cancelled. Finished ones are deleted, so the table stays small.

    The library's worker ends when the database is away at one of its heartbeats; here another
    one follows it.
    """
    while True:
        try:
            queue = make_queue(kernel, jobs)
            async with queue.open_async():
                await queue.run_worker_async(
                    concurrency=concurrency,
                    install_signal_handlers=False,
                    delete_jobs="successful",
                    update_heartbeat_interval=HEARTBEAT_S,
                    stalled_worker_timeout=STALLED_AFTER_S,
                    fetch_job_polling_interval=1.0,
                    shutdown_graceful_timeout=5.0,
                )
            _log.warning("worker_restarts")
        except (procrastinate.exceptions.ProcrastinateException, psycopg.Error, OSError) as error:
            _log.warning("worker_restarts", error=str(error))
        await asyncio.sleep(RESTART_S)


@contextlib.asynccontextmanager
async def in_process(kernel: Kernel, jobs: list[ScheduledJob]) -> AsyncIterator[None]:
    """Run the worker beside the API, in its loop, and stop it with the API."""
    task = asyncio.create_task(work(kernel, jobs), name="worker")

    def report(done: asyncio.Task[Any]) -> None:
        if not done.cancelled() and done.exception() is not None:
            _log.error("worker_stopped", exc_info=done.exception())

    task.add_done_callback(report)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def run_worker(settings: Settings, jobs: list[ScheduledJob]) -> None:
    """A worker process of its own: ``market worker``. Returns on SIGTERM or SIGINT."""

    async def main() -> None:
        kernel = open_kernel(settings)
        working = asyncio.create_task(work(kernel, jobs), name="worker")
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, working.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await working
        finally:
            await kernel.close()

    asyncio.run(main())
