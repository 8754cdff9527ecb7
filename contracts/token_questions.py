"""What a delivery token is worth now, asked by one of its grant's parties (RFC 7662, RFC 7009)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from contracts import grants
from contracts.errors import TokenNotFound
from contracts.models import DeliveryToken, Grant, GrantStatus, Unit
from contracts.schemas import Count
from contracts.token_keys import KEY_PREFIX, key_sha256
from contracts.tokens import TYP, find_key, find_quota, read_claims, revoke
from market.kernel.context import Kernel
from market.kernel.ids import GrantId, PartyId, TokenId
from market.kernel.schemas import Schema
from market.kernel.security import Actor, InvalidToken


class Introspection(Schema):
    """RFC 7662 §2.2. Of an inactive token nothing but ``active`` is said."""

    active: bool
    token_type: Literal["Bearer"] | None = None
    jti: TokenId | None = None
    sub: PartyId | None = None
    aud: GrantId | None = None
    exp: int | None = None
    iat: int | None = None
    scope: str | None = Field(default=None, description="Its operations; null: all.")
    grant_status: GrantStatus | None = None
    unit: Unit | None = None
    remaining_units: Count | None = Field(
        default=None, description="Of the grant, which all its tokens share; null: no bound."
    )
    quota: Count | None = Field(default=None, description="The token's own; null: none.")
    quota_remaining: Count | None = Field(default=None, description="What is left of `quota`.")


async def introspect(kernel: Kernel, party_id: UUID, token: str) -> Introspection:
    """Whether the token could be used now; another party's or a foreign token is inactive."""
    presented = await _presented(kernel, token)
    if presented is None:
        return Introspection(active=False)
    token_id, expires_at = presented
    await grants.settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(DeliveryToken, token_id)
        grant = None if row is None else await uow.session.get(Grant, row.grant_id)
        if row is None or grant is None or party_id not in (grant.buyer_id, grant.seller_id):
            return Introspection(active=False)
        end = min(row.expires_at, grant.expires_at, row.ends_at or row.expires_at)
        end = min(end, expires_at or end)
        ended = row.revoked_at is not None or end <= uow.now
        # With nothing left to spend, it still counts rows and repeats what was paid for.
        if ended or grant.status not in {GrantStatus.ACTIVE, GrantStatus.EXHAUSTED}:
            return Introspection(active=False)
        quota = await find_quota(uow, row)
        return Introspection(
            active=True,
            token_type="Bearer",  # noqa: S106 - a type, not a secret
            jti=row.id,
            sub=row.party_id,
            aud=row.grant_id,
            exp=int(end.timestamp()),
            iat=int(row.created_at.timestamp()),
            scope=" ".join(row.limits.get("operations", ())) or None,
            grant_status=grant.status,
            unit=grant.unit,
            remaining_units=grants.view(grant).remaining_units,
            quota=None if quota is None else quota.quota_units,
            quota_remaining=None if quota is None else quota.remaining_units,
        )


async def revoke_presented(kernel: Kernel, actor: Actor, token: str) -> None:
    """End the token if it is the actor's; RFC 7009 §2.2: any other is answered alike."""
    presented = await _presented(kernel, token)
    if presented is not None:
        try:
            await revoke(kernel, actor, presented[0])
        except TokenNotFound:
            return


async def _presented(kernel: Kernel, token: str) -> tuple[UUID, datetime | None] | None:
    """Which token it is, and when this text of it expires by itself, if it says so."""
    try:
        if token.startswith(KEY_PREFIX):
            digest = key_sha256(token)
            async with kernel.unit_of_work() as uow:
                row = await find_key(uow, digest)
            return None if row is None else (row.id, None)
        claims = read_claims(kernel.keys.verify(TYP, token))
        return claims.token_id, datetime.fromtimestamp(claims.expires_at_s, UTC)
    except InvalidToken:
        return None
