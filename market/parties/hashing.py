"""argon2id of client secrets, in threads, with a bounded queue.

The work factor is OWASP's first recommendation for argon2id (Password Storage Cheat Sheet,
2023: 19 MiB, 2 passes, 1 lane); it costs 32 ms on one core here. Secrets are 256 random bits,
so this guards the stored hash, while the bounded queue guards the processor.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from market.parties.errors import HashingBusy

T = TypeVar("T")

MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1
# Hashing leaves one core to the event loop.
THREADS: Final = max(1, min(4, (os.cpu_count() or 1) - 1))
# 64 waiting hashes are about 2 s of one core; whoever comes later is better told to wait.
QUEUE_MAX: Final = 64

# The hash of a secret that nobody has. Unknown clients are checked against it, so that they
# cost as much time as known ones.
DUMMY_HASH: Final = (
    "$argon2id$v=19$m=19456,t=2,p=1"
    "$4mzXyY950K1hewu2A5+/6Q$4oWB2KmWhApOvPkj7Xhke6iXXravwTrC2zzgjKNrrhY"
)


class SecretHasher:
    """Hashes and verifies on its own threads; at most ``QUEUE_MAX`` calls wait at a time."""

    def __init__(self) -> None:
        self._argon2 = PasswordHasher(
            time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._pending = 0

    async def hash(self, secret: str) -> str:
        """The encoded argon2id hash. Raises HashingBusy (503) when the queue is full."""
        return await self._run(lambda: self._argon2.hash(secret))

    async def verify(self, stored: str | None, secret: str) -> bool:
        """Whether ``secret`` belongs to ``stored``; with None, the same work and False.

        Raises HashingBusy (503) when the queue is full.
        """
        return await self._run(lambda: self._matches(stored or DUMMY_HASH, secret)) and bool(stored)

    def _matches(self, stored: str, secret: str) -> bool:
        try:
            return self._argon2.verify(stored, secret)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= QUEUE_MAX:
            raise HashingBusy(retry_after_s=2)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1


# Threads are a resource of the process, not of a kernel.
hasher: Final = SecretHasher()
