"""Redis/Valkey: hot meters, rate limits, streams. Never the truth: it may vanish at any moment."""

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# A cache that does not answer within this is treated as absent; money and access fall back to
# Postgres (operations.md fault 13).
SOCKET_TIMEOUT_S = 1.0
POOL_MAX = 64

Redis = redis_client.Redis


def open_redis(url: str) -> Redis:
    """A bounded client. Connects lazily; raises redis.exceptions.RedisError on use."""
    return redis_client.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        max_connections=POOL_MAX,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )
