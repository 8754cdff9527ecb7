"""The schema processes of this process: started when needed, reused, ended when they misbehave.

Threads talk to them, not the event loop, so that they outlive any one loop and a slow one keeps
nobody else waiting.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson

from contracts.proxy import schema_process

PROCESSES: Final = 2
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
_READ_BYTES: Final = 64 << 10

_threads: ThreadPoolExecutor | None = None
_idle: list[subprocess.Popen[bytes]] = []


class TooCostly(Exception):
    """The check took more CPU time or memory than it may have."""


class Late(Exception):
    """The deadline passed first, maybe because others' checks were running."""


async def ask(schema: bytes, value: bytes, *, deadline: float) -> dict[str, Any]:
    """What a schema process says of ``value``; ``deadline`` in monotonic seconds.

    Raises TooCostly, Late.
    """
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="schema-check")
    frame = schema_process.HEAD.pack(len(schema), len(value)) + schema + value
    asking = asyncio.get_running_loop().run_in_executor(_threads, _ask, frame, deadline)
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await asking
    except TimeoutError as error:
        raise Late from error


def _ask(frame: bytes, deadline: float) -> dict[str, Any]:
    # A process that earlier requests have filled may die of an innocent one: a fresh one decides.
    for _ in range(2):
        process = _idle.pop() if _idle else _start()
        try:
            answer = _exchange(process, frame, deadline)
        except OSError:
            code = _end(process)
            if time.monotonic() >= deadline:
                raise Late from None
            if code == -signal.SIGPROF:
                break
            continue
        _idle.append(process)
        found: dict[str, Any] = orjson.loads(answer)
        return found
    raise TooCostly


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-E", "-s", "-m", schema_process.__name__],
        cwd=_PACKAGE_ROOT,
        # No inherited environment: addresses and secrets of this process stay here.
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _exchange(process: subprocess.Popen[bytes], frame: bytes, deadline: float) -> bytes:
    """The answer. Raises OSError when the process ends or the deadline passes."""
    assert process.stdin is not None
    process.stdin.write(frame)
    process.stdin.flush()
    head = _read(process, schema_process.LENGTH.size, deadline)
    return _read(process, schema_process.LENGTH.unpack(head)[0], deadline)


def _read(process: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    found = bytearray()
    while len(found) < count:
        left_s = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([descriptor], [], [], left_s)
        piece = os.read(descriptor, min(_READ_BYTES, count - len(found))) if ready else b""
        if not piece:
            raise OSError("The schema process gave no answer.")
        found += piece
    return bytes(found)


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit code: what the process died of, if it did before it was killed."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except OSError:
            # What could not be written is not missed by anybody.
            continue
    return code


@atexit.register
def _end_all() -> None:
    while _idle:
        _end(_idle.pop())
