"""Passing an upstream's answer on while it arrives: one piece in memory at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from starlette.types import Receive, Scope, Send

from contracts.delivery.response import Finish, MeteredResponse
from contracts.proxy.calls import Answer, AnswerBroken
from contracts.proxy.errors import UpstreamFailed, UpstreamTimeout
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger

# An upstream may hang up on a client that takes nothing for so long.
STALL_S: Final = 5.0
# A piece is what the client pays or does not pay for together with those before it.
PIECE_BYTES: Final = 64 << 10

_log = get_logger("contracts.proxy.relaying")


class _Broken(Exception):
    """The upstream failed after the first byte had gone to the client."""


class Relay:
    """What has gone through. ``failure`` is the upstream's, None as long as it is fine.

    A client that took longer than the upstream until the deadline passed has left midway, and so
    has one before whose next piece the upstream hung up after STALL_S. Else a reader that stalls
    before the last piece would have had all others for nothing.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._begun = time.monotonic()
        self._waited_s = 0.0
        self._given: float | None = None
        self._ended: float | None = None
        self.digest = hashlib.sha256()
        self.failure: AnswerBroken | MarketError | None = None
        self.passed = 0
        self.whole = False

    @property
    def upstream_s(self) -> float:
        """Seconds since the answer's head in which the client was not waited for."""
        until = self._given or self._ended or time.monotonic()
        return max(0.0, until - self._begun - self._waited_s)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer's pieces. Raises _Broken once the upstream fails."""
        stalled_s = 0.0
        try:
            async for chunk in self.answer.chunks():
                stalled_s = 0.0
                for start in range(0, len(chunk), PIECE_BYTES):
                    piece = chunk[start : start + PIECE_BYTES]
                    self._given = given = time.monotonic()
                    yield piece
                    self._given = None
                    pause_s = time.monotonic() - given
                    stalled_s += pause_s
                    self._waited_s += pause_s
                    # After the yield: a piece that the transport did not take is not counted.
                    self.digest.update(piece)
                    self.passed += len(piece)
            self._ended = time.monotonic()
            self.whole = True
        except (AnswerBroken, MarketError) as error:
            self._ended = time.monotonic()
            late = isinstance(error, UpstreamTimeout) and self._waited_s > self.upstream_s
            dropped = isinstance(error, UpstreamFailed) and stalled_s >= STALL_S
            if not (late or dropped):
                self.failure = error
            raise _Broken from error


class RelayedResponse(MeteredResponse):
    """Sends pieces as they come; ``held`` is released at the end, however it comes.

    When the upstream fails midway the connection is cut, so that the client cannot take what it
    has for the whole.
    """

    streams = True

    def __init__(
        self,
        relay: Relay,
        *,
        media_type: str,
        headers: Mapping[str, str],
        deadline_s: float,
        finish: Finish,
        held: AsyncExitStack,
    ) -> None:
        super().__init__(
            b"", media_type=media_type, headers=headers, deadline_s=deadline_s, finish=finish
        )
        del self.headers["content-length"]
        if relay.answer.length is not None:
            self.headers["content-length"] = str(relay.answer.length)
        self._relay = relay
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            try:
                await super().__call__(scope, receive, send)
            except _Broken as error:
                # Returning without the last message makes the server close the connection.
                _log.warning("relay_broken", cause=repr(error.__cause__))

    def _chunks(self) -> AsyncIterator[bytes]:
        return self._relay.pieces()
