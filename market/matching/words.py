"""Integers as they are stored in the journal (pure)."""

import sys
from array import array


def pack(words: list[int]) -> bytes:
    """64-bit signed integers, little-endian."""
    packed = array("q", words)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(data: bytes) -> list[int]:
    """The reverse of :func:`pack`. Raises ValueError for bytes that do not add up to words."""
    packed = array("q")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()
