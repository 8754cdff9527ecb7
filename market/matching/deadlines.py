"""One timer for all callers that wait equally long.

``asyncio.timeout`` makes and heaps a timer per caller, which was 8 % of the engine's time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Deadlines:
    """Fails each watched future ``after_s`` seconds after :meth:`watch`, unless it is done.

    Belongs to one event loop. ``error`` makes the exception.
    """

    def __init__(self, after_s: float, error: Callable[[], Exception]) -> None:
        self._after_s = after_s
        self._error = error
        self._watched: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any]) -> None:
        """Start the time of ``future``."""
        loop = future.get_loop()
        due = loop.time() + self._after_s
        # All wait equally long, so the queue is in order of deadline.
        while self._watched and self._watched[0][1].done():
            self._watched.popleft()
        self._watched.append((due, future))
        if self._timer is None:
            self._timer = loop.call_at(due, self._expire, loop)

    def close(self) -> None:
        """Stop the timer; whoever still waits is not failed any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watched.clear()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._watched:
            due, future = self._watched[0]
            if due > now and not future.done():
                self._timer = loop.call_at(due, self._expire, loop)
                return
            self._watched.popleft()
            if not future.done():
                future.set_exception(self._error())
