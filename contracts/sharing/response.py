"""A response that sends a range of a file, piece by piece, each reserved and settled by itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.delivery.response import (
    DRAIN_POLL_S,
    had_to_wait,
    has_left,
    to_the_end,
    watch,
)
from contracts.metering import meter_of
from contracts.sharing import files
from contracts.sharing.files import Piece
from contracts.sharing.models import ShareQuery
from contracts.sharing.pace import paces
from contracts.sharing.ranges import Range
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger
from market.kernel.transport import Unsent, unsent_of

CHUNK_BYTES = 1 << 20
MEDIA_TYPE = "application/vnd.apache.parquet"
# Digests of pieces that this process has sent whole. Files never change, clients ask for the same
# ranges of them, and hashing (590 MB/s) took longer than sending.
DIGESTS_MAX = 10_000

_log = get_logger("contracts.sharing")
_digests: OrderedDict[tuple[str, Range], str] = OrderedDict()


def next_piece(query_id: UUID, span: Range) -> Range:
    """The beginning of ``span`` that is sent under one reservation."""
    start, end = span
    return start, min(start + paces.piece_bytes(query_id), end)


class FileResponse(Response):
    """Sends ``span`` of the file. ``first`` is its first piece, already reserved.

    Stops when the client is gone, its piece's time is over, or the next piece is refused; the
    client then sees fewer bytes than Content-Length announced, and pays for those only.
    """

    def __init__(
        self,
        kernel: Kernel,
        query: ShareQuery,
        path: Path,
        span: Range,
        first: Piece,
        *,
        status_code: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, status_code=status_code, media_type=MEDIA_TYPE)
        self.headers["content-length"] = str(span[1] - span[0])
        self.headers.update(headers)
        self._kernel = kernel
        self._query = query
        self._path = path
        self._span = span
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        watcher = asyncio.create_task(watch(receive, gone))
        try:
            file = await asyncio.to_thread(os.open, self._path, os.O_RDONLY)
        except OSError:
            await to_the_end(files.settle(self._kernel, self._query, self._first, 0, ""))
            watcher.cancel()
            raise
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if await self._send(file, send, gone, unsent_of(scope)):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(file)
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _send(self, file: int, send: Send, gone: asyncio.Event, unsent: Unsent) -> bool:
        """Whether all of the span was sent."""
        piece, end = self._first, self._span[1]
        while True:
            sending = _Sending(file, piece.span, known=_digests.get(self._at(piece)))
            begun = time.monotonic()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, piece.deadline - begun)):
                        await sending.run(send, gone, unsent)
            finally:
                # A cancelled request has sent what it has sent.
                took_s = time.monotonic() - begun
                await to_the_end(self._settle(piece, sending))
            if not sending.whole:
                return False
            if piece.span[1] == end:
                return True
            hold_s = meter_of(self._kernel).hold_s
            paces.note(self._query.id, sent=sending.delivered, seconds=took_s, hold_s=hold_s)
            try:
                query = await files.find(self._kernel, self._query.id)
                span = next_piece(query.id, (piece.span[1], end))
                piece = await files.reserve(self._kernel, query, span)
            except MarketError as refusal:
                _log.info("file_cut_off", code=refusal.code, query=self._query.id.hex)
                return False

    async def _settle(self, piece: Piece, sending: _Sending) -> None:
        sha256 = ""
        if piece.hold is not None:
            sha256 = await asyncio.to_thread(sending.sha256)
            if sending.whole:
                _digests[self._at(piece)] = sha256
                _digests.move_to_end(self._at(piece))
                if len(_digests) > DIGESTS_MAX:
                    _digests.popitem(last=False)
        await files.settle(self._kernel, self._query, piece, sending.delivered, sha256)

    def _at(self, piece: Piece) -> tuple[str, Range]:
        assert self._query.blob_key is not None
        return self._query.blob_key, piece.span


class _Sending:
    """One piece on its way: what was written, less what still waits in this process.

    ``known`` is the digest of all of it, if it was sent before.
    """

    def __init__(self, file: int, span: Range, *, known: str | None) -> None:
        self._file = file
        self._span = span
        self._known = known
        self._written = 0
        self._waiting = 0
        # Bytes read ahead, and their digest; replaced as a whole, never changed.
        self._digested = (0, hashlib.sha256())

    @property
    def delivered(self) -> int:
        """Bytes that the kernel took while the client was there."""
        return max(0, self._written - self._waiting)

    @property
    def whole(self) -> bool:
        """Whether all of the piece was delivered."""
        return self.delivered == self._span[1] - self._span[0]

    def sha256(self) -> str:
        """Of what was delivered; reads it again after an interruption."""
        if self._known is not None and self.whole:
            return self._known
        size, known = self._digested
        if size == self.delivered:
            return known.hexdigest()
        digest, (at, _), left = hashlib.sha256(), self._span, self.delivered
        while left:
            chunk = os.pread(self._file, min(CHUNK_BYTES, left), at)
            digest.update(chunk)
            at, left = at + len(chunk), left - len(chunk)
        return digest.hexdigest()

    def _read(self, at: int) -> bytes:
        chunk = os.pread(self._file, min(CHUNK_BYTES, self._span[1] - at), at)
        if self._known is not None:
            return chunk
        size, digest = self._digested[0], self._digested[1].copy()
        digest.update(chunk)
        self._digested = (size + len(chunk), digest)
        return chunk

    async def run(self, send: Send, gone: asyncio.Event, unsent: Unsent) -> None:
        """Send the piece and wait until nothing of it waits here, or the client is gone."""
        at, end = self._span
        reading = asyncio.create_task(asyncio.to_thread(self._read, at))
        try:
            while at < end:
                chunk = await asyncio.shield(reading)
                if not chunk or await has_left(gone):
                    return
                at += len(chunk)
                # The next chunk is read and hashed while the client takes this one.
                reading = asyncio.create_task(asyncio.to_thread(self._read, at))
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                if await had_to_wait(send(message)) and await has_left(gone):
                    return
                self._written += len(chunk)
                self._waiting = unsent() or 0
        finally:
            # A thread cannot be stopped, and the file is closed after this.
            await asyncio.shield(asyncio.gather(reading, return_exceptions=True))
        await asyncio.sleep(0)
        self._waiting = unsent() or 0
        while self._waiting and not await has_left(gone):
            await asyncio.sleep(DRAIN_POLL_S)
            left = unsent()
            if left is None:
                return
            self._waiting = left
