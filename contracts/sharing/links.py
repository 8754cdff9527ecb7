"""Signed links to files: short-lived, for one query, good without any other credential."""

from __future__ import annotations

from uuid import UUID

from contracts.sharing.errors import FileLinkInvalid
from market.kernel.context import Kernel
from market.kernel.security import InvalidToken

TYP = "share-file+jwt"
LINK_TTL_S = 3_600
FILES_PATH = "/v1/delta-sharing/files"


def sign(kernel: Kernel, base_url: str, query_id: UUID, *, expires_at_s: int) -> str:
    """The address of a query's file. ``expires_at_s`` is a Unix time in seconds."""
    ttl_s = max(1, expires_at_s - kernel.clock.timestamp_s())
    signature = kernel.keys.sign(TYP, {"sub": query_id.hex}, ttl_s=ttl_s)
    return f"{base_url.rstrip('/')}{FILES_PATH}/{query_id.hex}.parquet?signature={signature}"


def verify(kernel: Kernel, query_id: str, signature: str) -> UUID:
    """The query of a link. Raises FileLinkInvalid (403), also when its time is over."""
    try:
        claims = kernel.keys.verify(TYP, signature)
    except InvalidToken as error:
        raise FileLinkInvalid from error
    expires = claims.get("exp")
    if claims.get("sub") != query_id or not isinstance(expires, int):
        raise FileLinkInvalid
    if expires <= kernel.clock.timestamp_s():
        raise FileLinkInvalid("The link has expired.")
    return UUID(hex=query_id)
