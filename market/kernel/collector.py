"""Keeping Python's cycle collector out of work that only builds rows.

Thousands of live objects per batch make it search all of them over and over, and find nothing:
it was a fifth of the processor time of a batch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_pauses = 0


@contextmanager
def collection_paused() -> Iterator[None]:
    """No collection until the last of all overlapping pauses ends. May span awaits.

    Memory is still freed by reference counts; only cycles wait. Keep it to bounded work. Effect:
    none if the collector was switched off by somebody else.
    """
    global _pauses
    if not _pauses and not gc.isenabled():
        yield
        return
    _pauses += 1
    gc.disable()
    try:
        yield
    finally:
        _pauses -= 1
        if not _pauses:
            gc.enable()
