"""Content coding of a page, by ``Accept-Encoding`` (RFC 9110 §12.5.3): zstd and gzip.

Coding is about the way only: what a delivery costs, and what its receipt says, is the body before
it. Of a coded body that was cut, it is what the bytes sent decode to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import pyarrow as pa
from starlette.requests import Request

from contracts.delivery.formats import ACCEPT_MAX_CHARS, quality
from contracts.delivery.response import Finish
from contracts.errors import CodingNotOffered

# Below it, what coding saves is less than a packet.
CODED_MIN_BYTES = 1_024
# The fastest of each: more would cost several times the time for a tenth of the bytes. At this
# level a zstd window has 512 KiB; decoders must take 8 MiB (RFC 9659).
_LEVEL = 1
_READ_BYTES = 1_024


class Coding(StrEnum):
    """Content codings, by their registered names."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


# RFC 9110 §8.4.1.3.
_ALIASES = {"x-gzip": "gzip"}


@dataclass(frozen=True, slots=True)
class Choice:
    """The coding that a client likes best; ``required``: it refuses a body without one."""

    coding: Coding
    required: bool = False


PLAIN = Choice(Coding.IDENTITY)


@dataclass(frozen=True, slots=True)
class Coded:
    """A body of ``size`` bytes as it is sent."""

    coding: Coding
    data: bytes
    size: int

    def readable(self, sent: int) -> int:
        """Bytes of the body that the first ``sent`` of ``data`` decode to. CPU-bound.

        A zstd block decodes whole or not at all, so up to 128 KiB fewer than went into them.
        """
        if sent >= len(self.data):
            return self.size
        start = pa.BufferReader(memoryview(self.data)[:sent])
        found = 0
        try:
            with pa.CompressedInputStream(start, self.coding.value) as stream:
                # An error takes along what the same call had read.
                while piece := stream.read(_READ_BYTES):
                    found += len(piece)
        except OSError:
            # The stream ends before its end, as it must.
            return found
        return found


def codings_of(http: Request) -> str:
    """The request's ``Accept-Encoding``; several are one list (RFC 9110 §5.3)."""
    return ", ".join(http.headers.getlist("accept-encoding"))


def choose_coding(accept_encoding: str) -> Choice:
    """The coding with the highest weight; no header, or an empty one: none.

    Ties go to what the client names, then to zstd; under a mere ``*`` to gzip, which everybody
    reads. Raises CodingNotOffered (406) when ``identity`` is refused and nothing else fits.
    """
    if not accept_encoding:
        return PLAIN
    choice = _heaviest(accept_encoding[:ACCEPT_MAX_CHARS])
    if choice is None:
        raise CodingNotOffered
    return choice


# A client says the same every time.
@lru_cache(maxsize=256)
def _heaviest(accept_encoding: str) -> Choice | None:
    asked: dict[str, float] = {}
    for item in accept_encoding.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        asked.setdefault(_ALIASES.get(name, name), quality(parameters))
    others = asked.get("*", 0.0)
    weights = {coding: asked.get(coding, others) for coding in Coding}
    # Without a word about it, a body as it is will do; only nobody prefers it.
    plain = weights[Coding.IDENTITY] > 0 or asked.keys().isdisjoint((Coding.IDENTITY, "*"))

    def rank(coding: Coding) -> tuple[float, bool, bool]:
        named = coding in asked
        return weights[coding], named, (coding is Coding.ZSTD) == named

    fits = [coding for coding in (Coding.GZIP, Coding.ZSTD) if weights[coding] > 0]
    best = max(fits, key=rank, default=None)
    if best is None or weights[Coding.IDENTITY] > weights[best]:
        return PLAIN if plain else None
    return Choice(best, required=not plain)


def code(body: bytes, choice: Choice, *, packed: bool) -> Coded | None:
    """``body`` in the chosen coding; None: as it is, where coding saves nothing. CPU-bound.

    ``packed``: the format compresses by itself.
    """
    if choice.coding is Coding.IDENTITY:
        return None
    if not choice.required and (packed or len(body) < CODED_MIN_BYTES):
        return None
    # A gzip codec keeps the state of a stream: one each, as several threads do this.
    codec = pa.Codec(choice.coding.value, compression_level=_LEVEL)
    data: bytes = codec.compress(body, asbytes=True)
    if len(data) >= len(body) and not choice.required:
        return None
    return Coded(choice.coding, data, len(body))


def decoding(coded: Coded, finish: Finish) -> Finish:
    """``finish``, which counts bytes of the body, told bytes of what is sent for it."""

    async def cut(sent: int) -> None:
        # Not in the delivery's own threads: waiting for a query there could outlast the hold.
        rest = finish(await asyncio.to_thread(coded.readable, sent))
        if rest is not None:
            await rest

    def finished(sent: int) -> Coroutine[Any, Any, None] | None:
        return finish(coded.size) if sent >= len(coded.data) else cut(sent)

    return finished
