"""Delivery tokens: minting, listing, revoking, verifying.

A token is a JWT of its own type for one grant. Verified claims are cached by the token's SHA-256
(268 µs against 1.4 µs, delivery.md §5); that is safe because status and revocation are looked
up at every delivery, in the meter.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, or_, text
from sqlmodel import col, select

from contracts.agreements import get_agreement
from contracts.errors import (
    GrantClosed,
    GrantNotFound,
    TokenEnded,
    TokenExpired,
    TokenNotFound,
    TokenQuotaTooLarge,
)
from contracts.grants import block, find, settle_buffered, view
from contracts.models import DeliveryToken, Grant, GrantStatus
from contracts.policy import Access, evaluate, parse_policy
from contracts.schemas import MintedToken, TokenBody, TokenDetail, TokenForm, TokenView
from contracts.token_keys import key_sha256, mint_key
from contracts.token_limits import limits_of
from contracts.token_quota_models import TokenQuota
from listings import offers
from listings.typed_columns import columns_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, parse, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, InvalidToken, Keyring
from market.parties.directory import after_id, get_party

TYP: Final = "delivery+jwt"
LIVE_TOKENS_MAX = 200
CACHED_CLAIMS_MAX = 10_000

_BUMP = text("UPDATE contracts.access_grant SET gen = gen + 1 WHERE id = :grant_id")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified delivery token says."""

    token_id: UUID
    grant_id: UUID
    party_id: UUID
    purpose: str | None
    expires_at_s: int
    # Of the token that this one, of an exchange, stands for.
    client_expires_at_s: int | None = None

    @property
    def last_s(self) -> int:
        """When its holder can no longer get in: short-lived tokens are replaced until then."""
        return self.client_expires_at_s or self.expires_at_s


class TokenVerifier:
    """Verifies delivery tokens of one keyring, remembering signatures it has checked."""

    def __init__(self, keys: Keyring) -> None:
        self._keys = keys
        self._seen: OrderedDict[bytes, Claims] = OrderedDict()

    def verify(self, token: str, *, now_s: int) -> Claims:
        """The claims. Raises InvalidToken (401) or TokenExpired (410)."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        claims = self._seen.get(digest)
        if claims is None:
            claims = read_claims(self._keys.verify(TYP, token))
            self._seen[digest] = claims
            if len(self._seen) > CACHED_CLAIMS_MAX:
                self._seen.popitem(last=False)
        if claims.expires_at_s <= now_s:
            raise TokenExpired
        return claims


def read_claims(payload: dict[str, Any]) -> Claims:
    """Claims of a verified payload. Raises InvalidToken."""
    try:
        return Claims(
            token_id=parse("tok", payload["jti"]),
            grant_id=parse("grt", payload["aud"]),
            party_id=parse("pty", payload["sub"]),
            purpose=payload.get("purpose"),
            expires_at_s=int(payload["exp"]),
            client_expires_at_s=payload.get("client_exp"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidToken("The token's claims are not ours.") from error


async def mint(kernel: Kernel, actor: Actor, grant_id: UUID, body: TokenBody) -> MintedToken:
    """A new delivery token for the buyer of a grant; all its tokens share the grant's units.

    Raises GrantNotFound (404), also for the seller; GrantClosed (409) when the grant has ended
    or has too many live tokens; PolicyRefused (403) for a purpose that was not agreed;
    ColumnUnknown, FilterInvalid (422) for limits that do not fit the version; TokenQuotaTooLarge
    (422) for a quota beyond what the grant can still give.
    """
    if body.quota is not None:
        await settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        grant = await find(uow, grant_id, actor)
        if grant.buyer_id != actor.party_id:
            raise GrantNotFound(param="grant_id")
        quota = await _new_quota(uow, grant, body)
        minted = await _issue(uow, kernel, actor, grant, body, quota)
        await uow.answer(minted, secret=True)
        return minted


async def _new_quota(uow: UnitOfWork, grant: Grant, body: TokenBody) -> TokenQuota | None:
    if body.quota is None:
        return None
    left = view(grant).remaining_units
    if left is not None and body.quota > left:
        raise TokenQuotaTooLarge(f"{left} units are left.", param="quota", remaining=left)
    quota = TokenQuota(id=new_id(), grant_id=grant.id, quota_units=body.quota, created_at=uow.now)
    uow.session.add(quota)
    await uow.session.flush()
    return quota


async def rotate(kernel: Kernel, actor: Actor, token_id: UUID, overlap_s: int) -> MintedToken:
    """A new token with the limits, form and lifetime of an old one, which ends after the overlap.

    Its own quota goes on: both take from what is left of it.

    Raises TokenNotFound (404) unless the actor minted it, TokenEnded (409) when it is revoked,
    expired or was rotated before, and as :func:`mint`.
    """
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(DeliveryToken, token_id)
        if row is None or row.party_id != actor.party_id:
            raise TokenNotFound(param="token_id")
        # As in revoke; of two rotations at once, the second sees what the first one did.
        await uow.execute(_BUMP, {"grant_id": row.grant_id})
        await uow.session.refresh(row)
        if row.revoked_at is not None or row.ends_at is not None or row.expires_at <= uow.now:
            raise TokenEnded(param="token_id")
        if overlap_s:
            row.ends_at = uow.now + timedelta(seconds=overlap_s)
        else:
            _revoke(uow, row)
        await uow.session.flush()
        body = TokenBody(
            ttl_s=int((row.expires_at - row.created_at).total_seconds()),
            label=row.label,
            purpose=row.purpose,
            form=_form(row),
            **row.limits,
        )
        grant = await find(uow, row.grant_id, actor)
        minted = await _issue(uow, kernel, actor, grant, body, await find_quota(uow, row))
        await uow.session.flush()
        await block(kernel, row.grant_id)
        await uow.answer(minted, secret=True)
        return minted


async def _issue(
    uow: UnitOfWork,
    kernel: Kernel,
    actor: Actor,
    grant: Grant,
    body: TokenBody,
    quota: TokenQuota | None,
) -> MintedToken:
    await _check_mintable(uow, grant)
    agreement = await get_agreement(uow, grant.agreement_id, actor)
    party = await get_party(uow, grant.buyer_id)
    access = Access(party.jurisdiction, uow.now, grant.delivery_count, body.purpose)
    evaluate(parse_policy(agreement.terms["policy"]), access)
    version = await offers.get_version(uow, grant.product_version_id)
    body.require_columns(columns_of(version.columns))
    left_s = int((grant.expires_at - uow.now).total_seconds())
    ttl_s = max(1, min(body.ttl_s, left_s))
    token_id = new_id()
    payload = _payload(token_id, grant, body.purpose)
    key = body.form == "key"
    secret = mint_key() if key else kernel.keys.sign(TYP, payload, ttl_s=ttl_s)
    row = DeliveryToken(
        id=token_id,
        grant_id=grant.id,
        party_id=actor.party_id,
        credential_id=actor.credential_id,
        label=body.label,
        purpose=body.purpose,
        limits=limits_of(body),
        secret_sha256=key_sha256(secret) if key else None,
        quota_id=None if quota is None else quota.id,
        created_at=uow.now,
        expires_at=uow.now + timedelta(seconds=ttl_s),
    )
    uow.session.add(row)
    return MintedToken(**_view(row, quota).model_dump(), token=secret)


def _payload(token_id: UUID, grant: Grant, purpose: str | None) -> dict[str, object]:
    payload: dict[str, object] = {
        "jti": show("tok", token_id),
        "aud": show("grt", grant.id),
        "sub": show("pty", grant.buyer_id),
        "agr": show("agr", grant.agreement_id),
    }
    return payload if purpose is None else {**payload, "purpose": purpose}


def sign_access(kernel: Kernel, row: DeliveryToken, grant: Grant, *, ttl_s: int) -> str:
    """A signed token for ``ttl_s`` seconds that stands for ``row``: the same id, limits and end."""
    payload = _payload(row.id, grant, row.purpose)
    payload["client_exp"] = int(row.expires_at.timestamp())
    return kernel.keys.sign(TYP, payload, ttl_s=ttl_s)


async def _check_mintable(uow: UnitOfWork, grant: Grant) -> None:
    if grant.status not in {GrantStatus.ACTIVE, GrantStatus.SUSPENDED, GrantStatus.EXHAUSTED}:
        raise GrantClosed(f"The grant is {grant.status.value}.")
    if uow.now >= grant.expires_at:
        raise GrantClosed("The grant's term has ended.")
    live = select(func.count()).where(
        DeliveryToken.grant_id == grant.id,
        col(DeliveryToken.revoked_at).is_(None),
        or_(col(DeliveryToken.ends_at).is_(None), col(DeliveryToken.ends_at) > uow.now),
        col(DeliveryToken.expires_at) > uow.now,
    )
    if (await uow.session.exec(live)).one() >= LIVE_TOKENS_MAX:
        raise GrantClosed(f"A grant has at most {LIVE_TOKENS_MAX} live tokens.")


async def list_tokens(
    kernel: Kernel, actor: Actor, grant_id: UUID, *, page: PageQuery
) -> Page[TokenView]:
    """Tokens of a grant, newest first, without secrets. Raises GrantNotFound, BadCursor."""
    after = after_id(page)
    query = (
        select(DeliveryToken)
        .where(DeliveryToken.grant_id == grant_id)
        .order_by(col(DeliveryToken.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(DeliveryToken.id) < after)
    async with kernel.unit_of_work() as uow:
        await find(uow, grant_id, actor)
        rows = list(await uow.session.exec(query))
        own = {row.quota_id for row in rows if row.quota_id is not None}
        found = await uow.session.exec(select(TokenQuota).where(col(TokenQuota.id).in_(own)))
        quotas: dict[UUID | None, TokenQuota] = {quota.id: quota for quota in found}
        return Page[TokenView].of(
            [_view(row, quotas.get(row.quota_id)) for row in rows],
            page.limit,
            [(row.id,) for row in rows],
        )


async def get_token(kernel: Kernel, actor: Actor, token_id: UUID) -> TokenDetail:
    """One token, for both parties of its grant and overseers.

    Raises TokenNotFound (404), also when it was revoked: the grant's list still has it.
    """
    await settle_buffered(kernel)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(DeliveryToken, token_id)
        if row is None or row.revoked_at is not None:
            raise TokenNotFound(param="token_id")
        try:
            grant = view(await find(uow, row.grant_id, actor))
        except GrantNotFound as error:
            raise TokenNotFound(param="token_id") from error
        return TokenDetail(
            **_view(row, await find_quota(uow, row)).model_dump(),
            grant_status=grant.status,
            unit=grant.unit,
            remaining_units=grant.remaining_units,
        )


def claims_of(row: DeliveryToken) -> Claims:
    """What a token on record says."""
    return Claims(
        token_id=row.id,
        grant_id=row.grant_id,
        party_id=row.party_id,
        purpose=row.purpose,
        expires_at_s=int(row.expires_at.timestamp()),
    )


async def find_key(uow: UnitOfWork, secret_sha256: str) -> DeliveryToken | None:
    """The token of an opaque key, by the key's hash."""
    query = select(DeliveryToken).where(DeliveryToken.secret_sha256 == secret_sha256)
    return (await uow.session.exec(query)).one_or_none()


async def find_quota(uow: UnitOfWork, token: DeliveryToken) -> TokenQuota | None:
    """The token's own quota, if it has one."""
    if token.quota_id is None:
        return None
    return await uow.session.get(TokenQuota, token.quota_id)


async def revoke(kernel: Kernel, actor: Actor, token_id: UUID) -> None:
    """End a token at once; repeating it changes nothing. Raises TokenNotFound (404).

    Only the buyer who minted it may. Deliveries already reserved run to their end.
    """
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(DeliveryToken, token_id)
        if row is None or row.party_id != actor.party_id:
            raise TokenNotFound(param="token_id")
        # The grant's row first: this is the lock that the meter's readers wait for.
        await uow.execute(_BUMP, {"grant_id": row.grant_id})
        if row.revoked_at is None:
            _revoke(uow, row)
        await uow.session.flush()
        await block(kernel, row.grant_id)


def _revoke(uow: UnitOfWork, row: DeliveryToken) -> None:
    row.revoked_at = uow.now
    uow.emit(
        "token.revoked",
        row.id,
        {"token_id": show("tok", row.id), "grant_id": show("grt", row.grant_id)},
        parties=[row.party_id],
    )


def _form(row: DeliveryToken) -> TokenForm:
    return "jwt" if row.secret_sha256 is None else "key"


def _view(row: DeliveryToken, quota: TokenQuota | None) -> TokenView:
    return TokenView(
        id=row.id,
        grant_id=row.grant_id,
        label=row.label,
        purpose=row.purpose,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        ends_at=row.ends_at,
        form=_form(row),
        quota=None if quota is None else quota.quota_units,
        quota_remaining=None if quota is None else quota.remaining_units,
        **row.limits,
    )
