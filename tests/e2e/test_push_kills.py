"""A worker that is killed while it pushes: every row arrives, and is charged once."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from contracts import jobs
from contracts.push import pushes, targets
from contracts.push.schemas import PushInput, PushView, WebhookInput
from contracts.schemas import TokenBody
from contracts.tokens import mint
from market.kernel.context import Kernel, open_kernel
from market.kernel.settings import Settings
from tests.contracts.factories import Trade, make_trade, settled
from tests.e2e.api_processes import environment

ROWS, PART_ROWS, KILLS = 3_000, 50, 6
WAIT_S = 120
# The job alone, as fast as it can, with a lease that is soon over.
PROGRAM = """
import asyncio
from contracts.push import delivering
from market.kernel.context import open_kernel
from market.kernel.settings import load_settings

delivering._lease_s = lambda kernel: 1.0

async def main():
    kernel = open_kernel(load_settings())
    while True:
        await delivering.run_pushes(kernel)
        await asyncio.sleep(0.05)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    """Targets are on this machine, and what a killed process had reserved is soon free."""
    return settings.model_copy(update={"upstream_loopback": True, "meter_hold_s": 3})


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    made = open_kernel(settings)
    yield made
    await made.close()


@dataclass
class Receiver:
    """A webhook that remembers the ids of rows by Delivery-Id."""

    parts: dict[str, list[int]] = field(default_factory=dict)
    received: int = 0
    completed: int = 0
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        if "push-part" in headers:
            ids = [orjson.loads(line)["id"] for line in body.splitlines()]
            # A repetition is the same.
            assert self.parts.setdefault(headers["webhook-id"], ids) == ids
            self.received += 1
        elif b"push.completed" in body:
            self.completed += 1
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with await asyncio.start_server(receiver.answer, "127.0.0.1", 0) as server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        yield receiver


def start(settings: Settings) -> "subprocess.Popen[bytes]":
    """The worker, on the servers and the files of the test run."""
    unwanted = ("MARKET_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    named = {
        "MARKET_HOME": str(settings.home),
        "MARKET_UPSTREAM_LOOPBACK": "true",
        "MARKET_METER_HOLD_S": str(settings.meter_hold_s),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env={**kept, **environment(settings), **named},
    )


async def order(kernel: Kernel, trade: Trade, url: str) -> PushView:
    """A push of the whole version to a verified target."""
    buyer = trade.buyer.actor
    token = await mint(kernel, buyer, trade.grant_id, TokenBody(ttl_s=3_600, label="push"))
    target = await targets.register(kernel, buyer, WebhookInput(kind="webhook", url=url))
    assert (await targets.verify(kernel, buyer, target.id)).ok
    body = PushInput(target_id=target.id, token_id=token.id, page_rows=PART_ROWS)
    return await pushes.order(kernel, buyer, trade.grant_id, body)


async def test_kills_lose_no_row_and_charge_none_twice(kernel: Kernel, settings: Settings) -> None:
    trade = await make_trade(kernel, rows=ROWS, lot_units=2 * ROWS)
    async with receiving() as receiver:
        push = await order(kernel, trade, receiver.url)

        async def until(count: int) -> None:
            for _ in range(WAIT_S * 20):
                if receiver.received >= count or receiver.completed:
                    return
                # What the dead had reserved is swept as in every market.
                await jobs.sweep_meters(kernel)
                await asyncio.sleep(0.05)
            raise AssertionError(f"only {receiver.received} parts came")

        for _ in range(KILLS):
            process = start(settings)
            try:
                await until(receiver.received + random.randint(1, 6))
                await asyncio.sleep(random.uniform(0, 0.05))
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        process = start(settings)
        try:
            for _ in range(WAIT_S * 20):
                await jobs.sweep_meters(kernel)
                if receiver.completed:
                    break
                await asyncio.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    arrived = sorted(each for ids in receiver.parts.values() for each in ids)
    assert arrived == list(range(ROWS))
    view = await pushes.show_push(kernel, trade.buyer.actor, push.id)
    assert (view.rows, view.parts) == (ROWS, ROWS // PART_ROWS)
    assert await settled(kernel, trade) == ROWS
