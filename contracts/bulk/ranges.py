"""Which bytes of a file are asked for, and which parts of it they touch. Pure.

A file is metered in parts of equal size. Rows are spread over the bytes evenly, so that the parts'
rows add up to the version's rows exactly, whatever its row groups are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from contracts.bulk.errors import RangeInvalid, RangeUnsatisfiable

# Sent within one reservation: 30 s less a margin suffice at 150 kB/s.
PART_BYTES = 4 << 20
RANGE_PATTERN = "^bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$"


@dataclass(frozen=True, slots=True)
class File:
    """A version as it is sent: its size in bytes and rows, and its SHA-256 in hex."""

    size: int
    rows: int
    sha256: str

    @property
    def etag(self) -> str:
        """A strong entity tag (RFC 9110 §8.8.3): equal tags, equal bytes."""
        return f'"{self.sha256}"'

    @property
    def parts(self) -> int:
        """How many parts it is metered in."""
        return -(-self.size // PART_BYTES)


@dataclass(frozen=True, slots=True)
class Portion:
    """The bytes ``start`` up to ``stop`` of one part; ``rows`` are those of the whole part.

    ``of_part`` is where the part begins and ends in the file.
    """

    part: int
    start: int
    stop: int
    rows: int
    of_part: tuple[int, int]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last of a ``Range``; None without one.

    Raises RangeInvalid (422) for another form or several ranges, RangeUnsatisfiable (416).
    """
    if text is None:
        return None
    value = text.strip()
    if not re.fullmatch(RANGE_PATTERN, value):
        raise RangeInvalid(param="Range")
    first, _, last = value.removeprefix("bytes=").partition("-")
    if first and last and int(last) < int(first):
        raise RangeInvalid(param="Range")
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(0, size - int(last)), size
    if start >= stop:
        raise RangeUnsatisfiable(param="Range", headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def portions(file: File, start: int, stop: int) -> Iterator[Portion]:
    """What the bytes ``start`` up to ``stop`` ask of each part that they touch, in order."""
    for part in range(start // PART_BYTES, -(-stop // PART_BYTES)):
        begin, end = part * PART_BYTES, min((part + 1) * PART_BYTES, file.size)
        rows = file.rows * end // file.size - file.rows * begin // file.size
        low, high = max(start, begin), min(stop, end)
        yield Portion(part, low, high, rows, (begin, end))
