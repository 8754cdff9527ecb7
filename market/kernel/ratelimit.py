"""Rate limits: sliding windows in Redis/Valkey, local while it is away.

``shared`` limits count over all processes, each of which may count ``ahead`` a hundredth of a
limit at once, so that a busy reader need not ask at every use; with the cache down a public limit
falls back to this process's own window, and a login limit fails closed (operations.md fault 13).
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from math import ceil
from time import monotonic, time
from typing import Any, cast

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from market.kernel.errors import TooMany, Unavailable
from market.kernel.redis import SOCKET_TIMEOUT_S, Redis

AHEAD_PARTS = 100
AHEAD_MAX = 10_000


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


@dataclass(slots=True)
class _Ahead:
    """Uses that were counted before they happened."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    left: int = 0
    until: float = 0.0
    window: Window | None = None

    def take(self) -> Window | None:
        window, left_s = self.window, self.until - monotonic()
        if not self.left or window is None or left_s <= 0:
            return None
        self.left -= 1
        remaining = window.remaining + self.left
        return Window(window.name, True, window.limit, window.window_s, remaining, ceil(left_s))


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
        self._aheads: OrderedDict[tuple[str, str, int], _Ahead] = OrderedDict()

    async def hit(
        self,
        name: str,
        key: str,
        *,
        limit: int,
        per_hour: bool = False,
        shared: bool = True,
        fail_closed: bool = False,
        cost: int = 1,
    ) -> Window:
        """Count a use of ``name`` by ``key``, or ``cost`` at once: all of them or none.

        ``fail_closed`` may raise LimitsUnavailable.
        """
        item = RateLimitItemPerHour(limit) if per_hour else RateLimitItemPerMinute(limit)
        if shared:
            try:
                return await self._hit(self._shared, item, name, key, cost)
            except (StorageError, OSError) as error:
                if fail_closed:
                    raise LimitsUnavailable(retry_after_s=2) from error
        return await self._hit(self._local, item, name, key, cost)

    async def hit_ahead(self, name: str, key: str, *, limit: int) -> Window:
        """As :meth:`hit` per minute over all processes, asking the cache once for many uses.

        Up to ``limit / AHEAD_PARTS`` uses that a process counted and did not make are refused to
        others, or made up to a minute later.
        """
        at = (name, key, limit)
        ahead = self._aheads.get(at)
        if ahead is None:
            ahead = self._aheads[at] = _Ahead()
        self._aheads.move_to_end(at)
        if len(self._aheads) > AHEAD_MAX:
            self._aheads.popitem(last=False)
        window = ahead.take()
        if window is not None:
            return window
        async with ahead.lock:
            window = ahead.take()
            many = limit // AHEAD_PARTS
            if window is None and many > 1:
                window = await self.hit(name, key, limit=limit, cost=many)
                if window.allowed:
                    ahead.left, ahead.until = many - 1, monotonic() + window.window_s
                    ahead.window = window
                    window = replace(window, remaining=window.remaining + many - 1)
                else:
                    window = None
            return window or await self.hit(name, key, limit=limit)

    async def _hit(
        self,
        strategy: SlidingWindowCounterRateLimiter,
        item: RateLimitItemPerHour | RateLimitItemPerMinute,
        name: str,
        key: str,
        cost: int,
    ) -> Window:
        allowed = await strategy.hit(item, name, key, cost=cost)
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
