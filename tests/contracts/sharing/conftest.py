"""The market on a real socket, and profile files for it."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, settled

_numbers = itertools.count(1)

Profile = Callable[[str], Awaitable[Path]]


@pytest.fixture(scope="module")
async def base_url(app: FastAPI) -> AsyncIterator[str]:
    """Where the module's app answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def wire(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client over the socket."""
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as made:
        yield made


@pytest.fixture
def profile(wire: httpx.AsyncClient, tmp_path: Path) -> Profile:
    """Downloads the profile file of a token."""

    async def download(token: str) -> Path:
        answer = await wire.get("/v1/delta-sharing/profile", headers=bearer(token))
        assert answer.status_code == 200, answer.text
        path = tmp_path / f"{next(_numbers)}.share"
        path.write_text(json.dumps(answer.json()))
        return path

    return download


async def charged(kernel: Kernel, trade: Trade, units: int) -> int:
    """Used units on record, as soon as they are ``units``, or what they are after 30 s.

    A client over a socket has the last byte before its server has settled it.
    """
    for _ in range(300):
        if await settled(kernel, trade) == units:
            break
        await asyncio.sleep(0.1)
    return await settled(kernel, trade)
