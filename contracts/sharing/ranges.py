"""Byte ranges: what an HTTP client asks for, what of a file has been sent. Pure.

A range is ``(start, end)``, end excluded; a coverage is a sorted list of disjoint ranges.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Range = tuple[int, int]
# No client that reads a Parquet file makes so many gaps, and the row must stay small.
PIECES_MAX = 1_000

_ONE = re.compile(r"^bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))$")


class Unsatisfiable(ValueError):
    """The range lies outside of the file (416)."""


def parse(header: str | None, size: int) -> Range | None:
    """The one range of a Range header; None: send everything (RFC 9110 §14.2).

    Several ranges and unknown units are ignored, as the standard allows. Raises Unsatisfiable.
    """
    found = _ONE.match(header.strip().replace(" ", "")) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        if int(suffix) == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - int(suffix)), size
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(size, int(last) + 1) if last else size


def add(coverage: Sequence[Range], piece: Range) -> list[Range]:
    """``coverage`` and ``piece`` together."""
    joined: list[Range] = []
    for start, end in sorted([*coverage, piece]):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def size_of(coverage: Sequence[Range]) -> int:
    """Bytes in a coverage."""
    return sum(end - start for start, end in coverage)


def owed(units: int, size: int, covered: int) -> int:
    """Units due for ``covered`` of a file's ``size`` bytes: proportional, rounded down.

    Sums over any sequence of pieces telescope, so that a whole file costs exactly ``units``.
    """
    return units * covered // size
