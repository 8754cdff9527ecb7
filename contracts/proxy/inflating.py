"""gzip in pieces: what a small input can make of itself in memory is one piece. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 64 << 10
_GZIP_WINDOW: Final = 31


class NotGzip(Exception):
    """The bytes are not one whole gzip member."""


class Inflater:
    """One gzip member. Its output comes in pieces of at most PIECE_BYTES."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WINDOW)

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """What ``raw`` adds, piece by piece; the caller may stop at any. Raises NotGzip."""
        while True:
            try:
                piece = self._stream.decompress(raw, PIECE_BYTES)
            except zlib.error as error:
                raise NotGzip from error
            if piece:
                yield piece
            if self._stream.unused_data:
                raise NotGzip
            raw = self._stream.unconsumed_tail
            # A full piece may leave more inside although no input is left.
            if not raw and len(piece) < PIECE_BYTES:
                return

    def end(self) -> None:
        """Raises NotGzip when the member is not complete."""
        if not self._stream.eof:
            raise NotGzip
