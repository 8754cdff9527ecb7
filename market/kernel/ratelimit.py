"""Rate limits: sliding windows in Redis/Valkey, local while it is away.

``shared`` limits count over all processes; with the cache down a public limit falls back to this
process's own window, and a login limit fails closed (operations.md fault 13).
"""

from dataclasses import dataclass
from math import ceil
from time import time
from typing import Any, cast

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from market.kernel.errors import TooMany, Unavailable
from market.kernel.redis import SOCKET_TIMEOUT_S, Redis


class RateLimited(TooMany):
    code = "rate_limited"
    title = "Too many requests"
    default_hint = "Wait Retry-After seconds."


class LimitsUnavailable(Unavailable):
    code = "limits_unavailable"
    title = "Sign-in is paused while its protection is away"


@dataclass(frozen=True, slots=True)
class Window:
    """The state of one limit after a hit; ``reset_s`` is whole seconds until it is free again."""

    name: str
    allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """``RateLimit`` and ``RateLimit-Policy`` (IETF httpapi-ratelimit-headers draft-11)."""
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.limit};w={self.window_s}',
            "RateLimit": f'"{self.name}";r={self.remaining};t={self.reset_s}',
        }

    def require(self) -> None:
        """Raises RateLimited (429) with Retry-After when the limit is used up."""
        if not self.allowed:
            raise RateLimited(
                f"The limit {self.name} of {self.limit} per {self.window_s} s is used up.",
                headers={"Retry-After": str(max(1, self.reset_s)), **self.headers()},
            )


class RateLimiter:
    """Named windows per key (an address, a party, a token)."""

    def __init__(self, redis_url: str) -> None:
        scheme, _, rest = redis_url.partition("://")
        self._shared_storage = RedisStorage(
            f"async+{scheme}://{rest}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="limit",
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )
        self._shared = SlidingWindowCounterRateLimiter(self._shared_storage)
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def hit(
        self,
        name: str,
        key: str,
        *,
        limit: int,
        per_hour: bool = False,
        shared: bool = True,
        fail_closed: bool = False,
    ) -> Window:
        """Count one use of ``name`` by ``key``. ``fail_closed`` may raise LimitsUnavailable."""
        item = RateLimitItemPerHour(limit) if per_hour else RateLimitItemPerMinute(limit)
        if shared:
            try:
                return await self._hit(self._shared, item, name, key)
            except (StorageError, OSError) as error:
                if fail_closed:
                    raise LimitsUnavailable(retry_after_s=2) from error
        return await self._hit(self._local, item, name, key)

    async def _hit(
        self,
        strategy: SlidingWindowCounterRateLimiter,
        item: RateLimitItemPerHour | RateLimitItemPerMinute,
        name: str,
        key: str,
    ) -> Window:
        allowed = await strategy.hit(item, name, key)
        stats = await strategy.get_window_stats(item, name, key)
        return Window(
            name=name,
            allowed=allowed,
            limit=item.amount,
            window_s=item.get_expiry(),
            remaining=max(0, stats.remaining),
            reset_s=max(0, ceil(stats.reset_time - time())),
        )

    async def close(self) -> None:
        """Close the limiter's own connections."""
        client: Redis = cast(Any, self._shared_storage.bridge).storage
        await client.aclose()
