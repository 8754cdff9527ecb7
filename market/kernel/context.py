"""The kernel: what every service function is given instead of globals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from market.kernel.blobs import Blobs
from market.kernel.clock import Clock
from market.kernel.db import Database, UnitOfWork
from market.kernel.ratelimit import RateLimiter
from market.kernel.redis import Redis, open_redis
from market.kernel.security import Keyring
from market.kernel.settings import Settings

_Service = TypeVar("_Service")


@dataclass(frozen=True)
class Kernel:
    """Settings, clock, database, cache, blobs, keys and limits of one process.

    ``services`` are those that a process has one of, by what makes them (:meth:`service`).
    """

    settings: Settings
    clock: Clock
    db: Database
    redis: Redis
    blobs: Blobs
    keys: Keyring
    limits: RateLimiter
    services: dict[Callable[[Kernel], Any], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def service(self, make: Callable[[Kernel], _Service]) -> _Service:
        """What ``make`` makes of this kernel; made once. Raises what ``make`` does."""
        made = self.services.get(make)
        if made is None:
            made = self.services[make] = make(self)
        return cast(_Service, made)

    def unit_of_work(
        self, *, statement_timeout_ms: int | None = None
    ) -> AbstractAsyncContextManager[UnitOfWork]:
        """See :meth:`market.kernel.db.Database.unit_of_work`."""
        return self.db.unit_of_work(statement_timeout_ms=statement_timeout_ms)

    async def close(self) -> None:
        """Release connections (idempotent)."""
        await self.limits.close()
        await self.redis.aclose()
        await self.db.close()


def open_kernel(settings: Settings) -> Kernel:
    """Build a kernel from settings whose URLs are known (see ``embedded`` for the default).

    Effects: creates a first signing key under ``home`` in the sandbox; connects lazily.
    """
    if settings.database_url is None or settings.redis_url is None:
        raise ValueError("open_kernel needs database_url and redis_url")
    clock = Clock()
    folder = settings.signing_key_dir or settings.home / "keys"
    return Kernel(
        settings=settings,
        clock=clock,
        db=Database.open(
            settings.database_url,
            clock,
            pool_size=settings.database_pool_size,
            pool_timeout_s=settings.database_pool_timeout_s,
            lock_ms=settings.lock_timeout_ms,
            statement_ms=settings.statement_timeout_ms,
        ),
        redis=open_redis(settings.redis_url),
        blobs=Blobs(settings.blob_url, settings.home),
        keys=Keyring.load(folder, issuer=settings.issuer, clock=clock, create=settings.is_sandbox),
        limits=RateLimiter(settings.redis_url),
    )
