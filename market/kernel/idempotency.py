"""Idempotency-Key: one effect and one answer per (scope, key), refusals included.

A request's claim is checked at the start of each of its units of work: a transaction-level
advisory lock says whether the first use still runs (409), and the stored answer, if any, ends
the request (``Replay``). The answer is stored in the transaction of the effect, so no crash can
leave one without the other. Keys are stored hashed; answers that hold a secret are encrypted
under a key derived from the caller's own Idempotency-Key, so a database copy does not reveal
them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from market.kernel.bulk import COPY_FROM_ROWS
from market.kernel.errors import Conflict, Invalid

if TYPE_CHECKING:
    import asyncpg

PUBLIC_SCOPE = UUID(int=0)
_NONCE_BYTES = 12

_LOOKUP = """
SELECT request_hash, status, body, headers, encrypted
FROM kernel.idempotent_answer WHERE scope = $1 AND key_hash = $2
"""
_LOOKUP_MANY = """
SELECT a.scope, a.key_hash, a.request_hash, a.status, a.body, a.headers
FROM unnest($1::uuid[], $2::bytea[]) AS k(scope, key_hash)
JOIN kernel.idempotent_answer a USING (scope, key_hash)
WHERE NOT a.encrypted
"""
_STORE = """
INSERT INTO kernel.idempotent_answer
    (scope, key_hash, request_hash, status, body, headers, encrypted)
SELECT s, k, r, st, b, h::jsonb, e
FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::smallint[], $5::bytea[], $6::text[],
            $7::boolean[]) AS t(s, k, r, st, b, h, e)
ON CONFLICT (scope, key_hash) DO NOTHING
RETURNING key_hash
"""


class KeyInUse(Conflict):
    """The first request with this key has not finished."""

    code = "idempotency_key_in_use"
    title = "A request with this Idempotency-Key is still running"
    default_hint = "Repeat the same request after Retry-After seconds."


class KeyReused(Invalid):
    """The key belongs to another request."""

    code = "idempotency_key_reused"
    title = "This Idempotency-Key was used for a different request"
    default_hint = "Use a new key for a new request; repeat the old body to get its answer."


class Replay(BaseException):
    """Carries a stored answer up to the route. Not an Exception: no handler may swallow it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("idempotent replay")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, exact body bytes, extra headers."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Claim:
    """A request's use of a key. ``scope`` is the caller's party once it is known.

    ``enforced`` is false for a streamed upload until its content hash is bound, because the
    request hash must cover the body.
    """

    key: str
    request_hash: bytes
    scope: UUID = PUBLIC_SCOPE
    enforced: bool = True
    checked: bool = False
    answer: Answer | None = None

    @property
    def key_hash(self) -> bytes:
        return hash_key(self.key)


class Entry(NamedTuple):
    """One answer of a batch writer (the matching engine), never secret."""

    scope: UUID
    key: str
    request_hash: bytes
    answer: Answer


_claim: ContextVar[Claim | None] = ContextVar("idempotency_claim", default=None)


def hash_key(key: str) -> bytes:
    """SHA-256 of the key: what the database stores."""
    return hashlib.sha256(key.encode()).digest()


def set_claim(claim: Claim | None) -> Any:
    """Install the request's claim; returns the token for :func:`reset_claim`."""
    return _claim.set(claim)


def reset_claim(token: Any) -> None:
    _claim.reset(token)


def current() -> Claim | None:
    """The claim that a unit of work must honor now, or None."""
    claim = _claim.get()
    return claim if claim is not None and claim.enforced else None


def bind_scope(party_id: UUID) -> None:
    """Called by authentication: keys of different parties never meet."""
    claim = _claim.get()
    if claim is not None:
        claim.scope = party_id


def bind_content(digest: bytes) -> None:
    """Called after a streamed upload: from here on the claim covers the body too."""
    claim = _claim.get()
    if claim is not None and not claim.enforced:
        claim.request_hash = hashlib.sha256(claim.request_hash + digest).digest()
        claim.enforced = True


def take() -> Claim | None:
    """Detach the claim from this request: its writer stores the answer itself (see Entry)."""
    claim = _claim.get()
    if claim is not None:
        claim.enforced = False
    return claim


def _cipher(claim: Claim) -> AESGCM:
    material = b"market-answer\x00" + claim.scope.bytes + claim.key.encode()
    return AESGCM(hashlib.sha256(material).digest())


def _lock_number(claim: Claim) -> int:
    digest = hashlib.sha256(b"lock" + claim.scope.bytes + claim.key_hash).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


async def check(connection: asyncpg.Connection[Any], claim: Claim) -> None:
    """Take the key's lock for this transaction and look for an answer.

    Raises KeyInUse while another transaction holds it, Replay for the same request, KeyReused
    for a different one.
    """
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _lock_number(claim)):
        raise KeyInUse(headers={"Retry-After": "1"})
    # A second statement, so that it sees what committed while the lock was being taken.
    claim.checked = True
    row = await connection.fetchrow(_LOOKUP, claim.scope, claim.key_hash)
    if row is None:
        return
    if row["request_hash"] != claim.request_hash:
        claim.checked = False
        raise KeyReused(param="Idempotency-Key")
    body: bytes = row["body"]
    if row["encrypted"]:
        body = _cipher(claim).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], None)
    raise Replay(Answer(row["status"], body, _headers(row["headers"])))


async def remember(
    connection: asyncpg.Connection[Any], claim: Claim, answer: Answer, *, secret: bool = False
) -> None:
    """Store the answer. Raises Replay with the earlier one when the key has been answered."""
    body = answer.body
    if secret:
        nonce = os.urandom(_NONCE_BYTES)
        body = nonce + _cipher(claim).encrypt(nonce, body, None)
    stored = await connection.fetchval(
        _STORE,
        [claim.scope],
        [claim.key_hash],
        [claim.request_hash],
        [answer.status],
        [body],
        [_stored_headers(answer.headers)],
        [secret],
    )
    if stored is None:
        await check(connection, claim)
    claim.answer = answer


async def lookup(
    connection: asyncpg.Connection[Any], keys: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, bytes], tuple[bytes, Answer]]:
    """For batch writers: ``{(scope, key_hash): (request_hash, answer)}`` of the known keys."""
    rows = await connection.fetch(
        _LOOKUP_MANY, [scope for scope, _ in keys], [hash_key(key) for _, key in keys]
    )
    return {
        (row["scope"], row["key_hash"]): (
            row["request_hash"],
            Answer(row["status"], row["body"], _headers(row["headers"])),
        )
        for row in rows
    }


async def store(connection: asyncpg.Connection[Any], entries: Sequence[Entry]) -> int:
    """For batch writers: store answers, return how many were new (an old key keeps its own).

    From ``COPY_FROM_ROWS`` entries on an old key raises asyncpg's UniqueViolationError instead,
    and the transaction is lost.
    """
    if not entries:
        return 0
    if len(entries) >= COPY_FROM_ROWS:
        await connection.copy_records_to_table(
            "idempotent_answer",
            schema_name="kernel",
            columns=(
                "scope",
                "key_hash",
                "request_hash",
                "status",
                "body",
                "headers",
                "encrypted",
            ),
            records=[
                (
                    entry.scope,
                    hash_key(entry.key),
                    entry.request_hash,
                    entry.answer.status,
                    entry.answer.body,
                    _stored_headers(entry.answer.headers),
                    False,
                )
                for entry in entries
            ],
        )
        return len(entries)
    rows = await connection.fetch(
        _STORE,
        [entry.scope for entry in entries],
        [hash_key(entry.key) for entry in entries],
        [entry.request_hash for entry in entries],
        [entry.answer.status for entry in entries],
        [entry.answer.body for entry in entries],
        [_stored_headers(entry.answer.headers) for entry in entries],
        [False] * len(entries),
    )
    return len(rows)


def _stored_headers(headers: dict[str, str]) -> str:
    return orjson.dumps(headers).decode() if headers else "{}"


def _headers(value: Any) -> dict[str, str]:
    return orjson.loads(value) if isinstance(value, str | bytes) else dict(value)
