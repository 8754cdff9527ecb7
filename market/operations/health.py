"""Liveness, readiness, metrics and the public keys: what probes and verifiers ask for."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from sqlalchemy import text

from market.kernel import migrations
from market.kernel.errors import Unavailable
from market.kernel.http import KernelDep, problems
from market.kernel.schemas import Schema

router = APIRouter(tags=["operations"])


class NotReady(Unavailable):
    code = "not_ready"
    title = "This process cannot serve yet"


class Health(Schema):
    """The state of a probe; ``cache`` is informative, because the cache is never needed."""

    status: Literal["ok"] = "ok"
    revision: str | None = None
    cache: Literal["up", "down"] | None = None


class JsonWebKey(Schema):
    """An RFC 8037 public key."""

    kty: str
    crv: str
    x: str
    kid: str
    use: str
    alg: str


class JsonWebKeySet(Schema):
    """All keys that verify our tokens, certificates, agreements, receipts and rulings."""

    keys: list[JsonWebKey]


@router.get("/livez", operation_id="get_liveness")
async def livez() -> Health:
    """The process runs. Touches nothing else."""
    return Health()


@router.get("/readyz", operation_id="get_readiness", responses=problems(503))
async def readyz(kernel: KernelDep) -> Health:
    """The database answers and has this code's schema."""
    try:
        async with asyncio.timeout(2), kernel.db.engine.connect() as connection:
            found = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    except Exception as error:
        raise NotReady("The database does not answer.", retry_after_s=2) from error
    if found != migrations.head():
        raise NotReady(f"The schema is at {found}, this code needs {migrations.head()}.")
    try:
        await kernel.redis.ping()
    except (RedisError, OSError):
        return Health(revision=found, cache="down")
    return Health(revision=found, cache="up")


@router.get("/metrics", operation_id="get_metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/.well-known/jwks.json", operation_id="get_jwks")
async def jwks(kernel: KernelDep) -> JsonWebKeySet:
    """Public signing keys."""
    return JsonWebKeySet.model_validate(kernel.keys.jwks())
