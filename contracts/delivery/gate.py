"""The gate of every way out: whether this token may ask this now, and what it then reads.

Token, rate, limits, policy, in this order. Whether units are left and nothing was revoked is the
meter's matter, at the reservation; here nothing of that is known, so what was found can be kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from contracts.copies.disclosure import disclosure
from contracts.copies.opening import open_copy
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.token_reader import token_reader
from contracts.errors import GrantNotFound, TokenExpired, TokenForOtherGrant
from contracts.models import Agreement, Grant, Unit
from contracts.policy import Access, evaluate, parse_policy
from contracts.token_limits import Limits, WayOut
from contracts.tokens import Claims
from contracts.versions.granted import version_of
from listings.typed_columns import columns_of
from market.kernel.context import Kernel
from market.parties.directory import get_party
from market.parties.errors import PartySuspended
from market.parties.models import PartyStatus

# How long facts about a grant's policy and buyer may be reused; its status is never cached here.
CONTEXT_TTL_S = 2.0
CONTEXTS_MAX = 10_000

# A grant and, where one was named, the number of a version.
_Which = tuple[UUID, int | None]
# The token's digest, and what else a request is judged by.
_Asking = tuple[bytes, UUID | None, int | None, WayOut | None, str | None]


class _Pass(NamedTuple):
    """What :meth:`Gate.authorize` found, except for how often it was asked."""

    claims: Claims
    context: Context
    rate: int


class Gate:
    """Lets requests of tokens pass. One per process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._contexts: OrderedDict[_Which, Context] = OrderedDict()
        self._passes: OrderedDict[_Asking, _Pass] = OrderedDict()
        self._loading: WeakValueDictionary[_Which, asyncio.Lock] = WeakValueDictionary()

    async def authorize(self, request: RowsRequest) -> tuple[Claims, Context, dict[str, str]]:
        """Token, rate, limits, policy: what every way out asks first, with its rate headers.

        The context's columns and rows are those that the token may read.

        Raises InvalidToken (401), TokenForOtherGrant, PolicyRefused, PartySuspended, and as
        :meth:`contracts.token_limits.Limits.require` (403), TokenExpired (410), RateLimited
        (429), GrantNotFound, VersionNotFound (404), CopyPreparing (503).
        """
        kernel, tokens = self._kernel, token_reader(self._kernel)
        asking = _asking(request)
        known = self._passes.get(asking)
        if known is None or time.monotonic() >= known.context.until:
            claims = await tokens.claims(request.token)
            context, headers = await self.allow(claims, request)
            rate = self._rate(await tokens.limits(claims.token_id))
            self._passes[asking] = _Pass(claims, context, rate)
            self._passes.move_to_end(asking)
            if len(self._passes) > CONTEXTS_MAX:
                self._passes.popitem(last=False)
            return claims, context, headers
        # What was allowed stays so while the context is fresh: neither a token's limits nor its
        # signature change, and of the policy's clauses time only opens one (``not_before``).
        claims, context, rate = known
        if claims.expires_at_s <= kernel.clock.timestamp_s():
            raise TokenExpired
        return claims, context, await self._in_rate(claims, rate) | disclosure(context.policy)

    async def allow(self, claims: Claims, request: RowsRequest) -> tuple[Context, dict[str, str]]:
        """:meth:`authorize` for claims that were verified before."""
        limits = await token_reader(self._kernel).limits(claims.token_id)
        headers = await self._in_rate(claims, self._rate(limits))
        limits.require(request.operation, request.address)
        if request.grant_id is not None and request.grant_id != claims.grant_id:
            raise TokenForOtherGrant(param="grant_id")
        context = await self.scoped(claims, request.version)
        now = self._kernel.clock.now()
        access = Access(context.country, now, context.delivery_count, claims.purpose)
        evaluate(context.at_delivery, access)
        return context, headers | disclosure(context.policy)

    def _rate(self, limits: Limits) -> int:
        return limits.rate(self._kernel.settings.delivery_rate_per_minute)

    async def _in_rate(self, claims: Claims, rate: int) -> dict[str, str]:
        """The headers of one request more. Raises RateLimited (429)."""
        window = await self._kernel.limits.hit_ahead("delivery", claims.token_id.hex, limit=rate)
        window.require()
        return window.headers()

    async def scoped(self, claims: Claims, number: int | None) -> Context:
        """A version as far as the token may read it.

        Raises GrantNotFound, VersionNotFound (404), PolicyRefused, PartySuspended (403).
        """
        context = await self._context((claims.grant_id, number))
        limits = await token_reader(self._kernel).limits(claims.token_id)
        if not limits.narrow:
            return context
        return replace(
            context, columns=limits.scoped(context.columns), only=limits.only(context.columns)
        )

    async def _context(self, which: _Which) -> Context:
        known = self._contexts.get(which)
        if known is not None and time.monotonic() < known.until:
            return known
        # One of many readers asks when the time is over; the others take its answer.
        lock = self._loading.setdefault(which, asyncio.Lock())
        async with lock:
            known = self._contexts.get(which)
            if known is not None and time.monotonic() < known.until:
                return known
            return await self._load_context(which)

    async def _load_context(self, which: _Which) -> Context:
        grant_id, number = which
        async with self._kernel.unit_of_work() as uow:
            grant = await uow.session.get(Grant, grant_id)
            agreement = (
                None if grant is None else await uow.session.get(Agreement, grant.agreement_id)
            )
            if grant is None or agreement is None:
                raise GrantNotFound
            buyer = await get_party(uow, grant.buyer_id)
            policy = parse_policy(agreement.terms["policy"])
            version = await version_of(uow, grant, policy, number)
        if buyer.status is PartyStatus.SUSPENDED:
            raise PartySuspended
        read = await open_copy(self._kernel, version, grant.agreement_id, policy)
        context = Context(
            agreement_id=grant.agreement_id,
            product_id=grant.product_id,
            version_id=version.id,
            version=version.number,
            unit=Unit(grant.unit),
            policy=policy,
            # The term's end and the count have codes of their own, from the grant's own meter.
            at_delivery=policy.model_copy(update={"not_after": None, "count": None}),
            country=buyer.jurisdiction,
            delivery_count=grant.delivery_count,
            blob_key=read.blob_key,
            row_count=read.row_count,
            byte_count=read.byte_count,
            sha256=read.sha256,
            columns=columns_of(version.columns),
            until=time.monotonic() + CONTEXT_TTL_S,
        )
        self._contexts[which] = context
        self._contexts.move_to_end(which)
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context


def _asking(request: RowsRequest) -> _Asking:
    digest = hashlib.sha256(request.token.encode("utf-8", "surrogateescape")).digest()
    return (digest, request.grant_id, request.version, request.operation, request.address)


def gate_of(kernel: Kernel) -> Gate:
    """This process's gate."""
    return kernel.service(Gate)
