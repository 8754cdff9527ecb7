"""Answers that an operation allows to be reused, in the cache that may vanish at any moment.

Direct-mapped: each upstream has SLOTS places, an answer's digest says which is its. So an
upstream can never take more than SLOTS × ENTRY_MAX_BYTES (16 MiB), whatever is asked of it.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from redis.exceptions import RedisError

from market.kernel.logging import get_logger
from market.kernel.redis import Redis

SLOTS: Final = 64
ENTRY_MAX_BYTES: Final = 256 << 10
_DIGEST_BYTES: Final = 32

_log = get_logger("contracts.proxy.caching")


async def get(redis: Redis, upstream_id: UUID, digest: str) -> bytes | None:
    """The body under a digest (64 hex digits), None when it is not there."""
    try:
        found = await redis.get(_key(upstream_id, digest))
    except (RedisError, OSError):
        return None
    if not isinstance(found, bytes) or found[:_DIGEST_BYTES] != bytes.fromhex(digest):
        return None
    return found[_DIGEST_BYTES:]


async def put(redis: Redis, upstream_id: UUID, digest: str, body: bytes, *, ttl_s: int) -> None:
    """Remember a body for ``ttl_s`` seconds, in place of what shared its slot."""
    if ttl_s == 0 or len(body) > ENTRY_MAX_BYTES:
        return
    try:
        await redis.set(_key(upstream_id, digest), bytes.fromhex(digest) + body, ex=ttl_s)
    except (RedisError, OSError):
        _log.warning("answer_not_cached", upstream_id=upstream_id.hex)


def _key(upstream_id: UUID, digest: str) -> str:
    return f"proxy:{upstream_id.hex}:{int(digest[:8], 16) % SLOTS}"
