"""A metered answer that is read, reserved, sent and settled part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from contracts.delivery.response import CHUNK_BYTES, MeteredResponse

MEDIA_TYPE = "application/vnd.apache.parquet"


class Parts(Protocol):
    """The parts of one answer in order."""

    async def next(self) -> tuple[bytes, float] | None:
        """The next part, reserved, and the seconds in which it may be sent; None: no more."""

    async def sent(self) -> None:
        """All of the part that ``next`` gave last was accepted: settle it."""

    async def finish(self, sent: int) -> None:
        """The answer is over after ``sent`` bytes in all: settle or release what is open."""


class BulkResponse(MeteredResponse):
    """``length`` bytes out of ``parts``; fewer arrive when a part cannot be had or sent in time."""

    streams = True

    def __init__(
        self, parts: Parts, *, length: int, headers: Mapping[str, str], partial: bool
    ) -> None:
        super().__init__(
            b"",
            media_type=MEDIA_TYPE,
            headers={**headers, "Content-Length": str(length)},
            deadline_s=60.0,
            finish=parts.finish,
        )
        self.status_code = 206 if partial else 200
        self._parts = parts

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (following := await self._parts.next()) is not None:
            part, left_s = following
            self._limit.reschedule(asyncio.get_running_loop().time() + left_s)
            for start in range(0, len(part), CHUNK_BYTES):
                yield part[start : start + CHUNK_BYTES]
            await self._drained()
            if self._waiting:
                # The client left; how much of the part it had is for ``finish`` to settle.
                raise TimeoutError
            await self._parts.sent()
