"""What delivery tokens and keys say, and what they are limited to."""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID

from contracts.errors import TokenExpired
from contracts.models import DeliveryToken
from contracts.token_keys import KEY_PREFIX, key_sha256
from contracts.token_limits import Limits
from contracts.tokens import CACHED_CLAIMS_MAX, Claims, TokenVerifier, claims_of, find_key
from market.kernel.context import Kernel
from market.kernel.security import InvalidToken

CACHED_LIMITS_MAX = 10_000


class TokenReader:
    """Reads tokens and their limits. One per process.

    Limits never change, nor what a key stands for, so they are read once; whether a token is
    revoked is the meter's matter and never cached here.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tokens = TokenVerifier(kernel.keys)
        self._keys: OrderedDict[str, Claims] = OrderedDict()
        self._seen: OrderedDict[UUID, Limits] = OrderedDict()

    async def claims(self, token: str) -> Claims:
        """What a signed token or a key says. Raises InvalidToken (401), TokenExpired (410)."""
        now_s = self._kernel.clock.timestamp_s()
        if not token.startswith(KEY_PREFIX):
            return self._tokens.verify(token, now_s=now_s)
        digest = key_sha256(token)
        claims = self._keys.get(digest)
        if claims is None:
            async with self._kernel.unit_of_work() as uow:
                row = await find_key(uow, digest)
            if row is None:
                raise InvalidToken("The key is not one of ours.")
            claims = self._keys[digest] = claims_of(row)
            if len(self._keys) > CACHED_CLAIMS_MAX:
                self._keys.popitem(last=False)
        if claims.expires_at_s <= now_s:
            raise TokenExpired
        return claims

    async def limits(self, token_id: UUID) -> Limits:
        """What the token may do. Raises InvalidToken (401) for a token that is not on record."""
        known = self._seen.get(token_id)
        if known is not None:
            return known
        async with self._kernel.unit_of_work() as uow:
            row = await uow.session.get(DeliveryToken, token_id)
        if row is None:
            raise InvalidToken("The token is not on record.")
        limits = self._seen[token_id] = Limits.of(row.limits, quota_id=row.quota_id)
        if len(self._seen) > CACHED_LIMITS_MAX:
            self._seen.popitem(last=False)
        return limits


def token_reader(kernel: Kernel) -> TokenReader:
    """This process's reader of tokens."""
    return kernel.service(TokenReader)
